"""Sessions: who is signed in, since when, from where and by what.

What is always true
-------------------
- A token (256 random bits) is with whoever signed in; here is its SHA-256. A cookie's token is no bearer token.
- A session ends at its time or by hand, and counts no more from the next request on.
- None begins on ground that is gone: whoever ends all of a user's also ends those that were proved and have not begun.
  The account counts its sign-outs, and a session begins only if they are those that its principal was read with.
- A session is named by the beginning of that hash, which opens nothing.

What a crash leaves: whole rows; a session that was answered was committed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import peewee

from central.access.account_directory import UserAccount
from central.access.errors import OvertakenError
from central.access.hashes import digest
from central.access.policy import Principal, Role
from central.database import Database, make_tables
from central.prepared import Prepared, given

SessionKind = Literal["cookie", "bearer"]
FRESH_S: Final = 900
"""For how long after signing in somebody may change what they sign in with."""

_ID_CHARACTERS: Final = 16
_MAX_BROWSER_CHARACTERS: Final = 64
_COLUMNS_ADDED: Final = {
    "started_at_utc": "BIGINT NOT NULL DEFAULT 0",
    "means": "VARCHAR(255) NOT NULL DEFAULT ''",
    "source_address": "VARCHAR(255) NOT NULL DEFAULT ''",
    "browser": "VARCHAR(255) NOT NULL DEFAULT ''",
    "provider": "VARCHAR(255) NOT NULL DEFAULT ''",
    "provider_session": "VARCHAR(255) NOT NULL DEFAULT ''",
}


class UserSession(peewee.Model):
    """Table ``user_session``. Times are seconds since 1970; the last two are of an OpenID provider's people, or ""."""

    token_sha256 = peewee.CharField(primary_key=True)
    user_id = peewee.CharField(index=True)
    kind = peewee.CharField()
    expires_at_utc = peewee.BigIntegerField(index=True)
    started_at_utc = peewee.BigIntegerField()
    means = peewee.CharField()
    source_address = peewee.CharField()
    browser = peewee.CharField()
    provider = peewee.CharField()
    provider_session = peewee.CharField()

    class Meta:
        table_name = "user_session"


_FIND: Final = Prepared(
    UserSession.select().where(
        UserSession.token_sha256 == given("token_sha256"),
        UserSession.kind == given("kind"),
        UserSession.expires_at_utc > given("now"),
    )
)


@dataclass(frozen=True)
class Arrival:
    """How somebody came in. `means` is for people to read, such as "password and code"."""

    means: str = ""
    source_address: str = ""
    browser: str = ""
    provider: str = ""
    provider_session: str = ""


@dataclass(frozen=True)
class Session:
    """A session that has not ended. Times are seconds since 1970."""

    session_id: str
    user_id: str
    kind: SessionKind
    started_at_utc: int
    expires_at_utc: int
    arrival: Arrival


class Sessions:
    """Sessions in `db`; safe to call from every thread. `clock` gives UTC seconds since 1970."""

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock

    @classmethod
    def open(cls, db: Database, clock: Callable[[], float]) -> Sessions:
        """Make the table if it is missing."""
        make_tables(db, [UserSession])
        with db.writing():  # several programs may open it at once
            there = {column.name for column in db.get_columns("user_session")}
            for name, kind in _COLUMNS_ADDED.items():
                if name not in there:
                    statement = peewee.SQL(f"ALTER TABLE user_session ADD COLUMN {name} {kind}")
                    db.execute(statement)  # type: ignore[no-untyped-call]  # the stubs leave it untyped
        return cls(db, clock)

    def start(
        self, principal: Principal, kind: SessionKind, life_s: int, arrival: Arrival | None = None
    ) -> str:
        """A new token for `principal`, valid for `life_s` seconds. OvertakenError: all their sessions were
        ended since `principal` was read."""
        token = secrets.token_urlsafe(32)
        now = int(self._clock())
        came = arrival or Arrival()
        with self._db.writing():
            self._require_ground(principal)
            UserSession.delete().where(UserSession.expires_at_utc <= now).execute(self._db)
            UserSession.insert(
                token_sha256=digest(token),
                user_id=principal.user_id,
                kind=kind,
                expires_at_utc=now + life_s,
                started_at_utc=now,
                means=came.means,
                source_address=came.source_address[:_MAX_BROWSER_CHARACTERS],
                browser=came.browser[:_MAX_BROWSER_CHARACTERS],
                provider=came.provider,
                provider_session=came.provider_session,
            ).execute(self._db)
        return token

    def find(self, token: str, kind: SessionKind) -> Session | None:
        """The session of `token`; None when it is unknown, of the other kind, ended or expired."""
        row = _FIND.first(self._db, token_sha256=digest(token), kind=kind, now=int(self._clock()))
        return _session(row) if row is not None else None

    def user_of(self, token: str, kind: SessionKind) -> str | None:
        """The `user_id` that `token` was made for; None as with `find`."""
        found = self.find(token, kind)
        return found.user_id if found is not None else None

    def of(self, user_id: str) -> list[Session]:
        """Every session of this user, newest first."""
        return self._live(UserSession.user_id == user_id)

    @contextmanager
    def standing(self, session: Session | None) -> Iterator[None]:
        """A transaction in which `session` has not ended, for what lets its owner in later on; None: nobody's.

        Raises
        ------
        OvertakenError : it has ended.
        """
        with self._db.writing():
            if session is not None:
                live = {one.session_id for one in self.of(session.user_id)}
                if session.session_id not in live:
                    raise OvertakenError
            yield

    def is_fresh(self, session: Session) -> bool:
        """Whether it began so short a time ago that whoever has it may change what they sign in with."""
        return int(self._clock()) - session.started_at_utc <= FRESH_S

    def end(self, token: str) -> None:
        """Forget `token`; unknown ones are nothing to forget."""
        UserSession.delete().where(UserSession.token_sha256 == digest(token)).execute(self._db)

    def end_one(self, user_id: str, session_id: str) -> bool:
        """End one session of this user; False: they have none of that name."""
        if not re.fullmatch(f"[0-9a-f]{{{_ID_CHARACTERS}}}", session_id):
            return False
        named = peewee.fn.SUBSTR(UserSession.token_sha256, 1, _ID_CHARACTERS) == session_id
        ended = UserSession.delete().where(named & (UserSession.user_id == user_id)).execute(self._db)
        return int(ended) > 0

    def end_all(self, user_id: str, *, but: str = "") -> None:
        """Forget every session of this user, or guest; `but` the one of that name."""
        mine = UserSession.user_id == user_id
        kept = peewee.fn.SUBSTR(UserSession.token_sha256, 1, _ID_CHARACTERS) == but
        with self._db.writing():
            self._count_sign_out(user_id)
            UserSession.delete().where(mine & ~kept if but else mine).execute(self._db)

    def end_of_provider(self, user_id: str | None, provider_session: str) -> set[str]:
        """End the sessions that belong to a session at an OpenID provider; whose they were.

        `user_id` None: whoever's it was; `provider_session` "": all of that user. Of a user who is named, those end as
        well of which the provider did not say by which session of its own they began.
        """
        named = UserSession.provider_session == provider_session
        if user_id is None:
            wanted = [named, UserSession.provider_session != ""]
        elif provider_session:
            wanted = [UserSession.user_id == user_id, named | (UserSession.provider_session == "")]
        else:
            wanted = [UserSession.user_id == user_id]
        with self._db.writing():
            if user_id is not None:
                self._count_sign_out(user_id)
            whose = {session.user_id for session in self._live(*wanted)}
            UserSession.delete().where(*wanted).execute(self._db)
        return whose

    def _count_sign_out(self, user_id: str) -> None:
        """What was proved before this begins no session any more."""
        counted = UserAccount.update(sign_outs=UserAccount.sign_outs + 1)
        counted.where(UserAccount.user_id == user_id).execute(self._db)

    def _require_ground(self, principal: Principal) -> None:
        if principal.role is Role.GUEST:
            return  # has no account; the link is looked at with each request
        unchanged = UserAccount.select().where(
            UserAccount.user_id == principal.user_id,
            UserAccount.sign_outs == principal.sign_outs,
            UserAccount.blocked_at_utc.is_null(),
        )
        if not unchanged.count(self._db):
            raise OvertakenError

    def _live(self, *wanted: Any) -> list[Session]:
        query = (
            UserSession.select()
            .where(UserSession.expires_at_utc > int(self._clock()), *wanted)
            .order_by(UserSession.started_at_utc.desc(), UserSession.token_sha256)
        )
        return [_session(row) for row in query.dicts().execute(self._db)]


def _session(row: dict[str, Any]) -> Session:
    return Session(
        session_id=row["token_sha256"][:_ID_CHARACTERS],
        user_id=row["user_id"],
        kind=row["kind"],
        started_at_utc=row["started_at_utc"],
        expires_at_utc=row["expires_at_utc"],
        arrival=Arrival(**{name: row[name] for name in Arrival.__dataclass_fields__}),
    )


def browser_of(user_agent: str) -> str:
    """What a person calls the program that says this User-Agent: "Firefox on Windows"; "" for what none knows."""
    names = (("Edg/", "Edge"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
    systems = (
        ("Android", "Android"), ("iPhone", "iPhone"), ("iPad", "iPad"), ("Windows", "Windows"),
        ("Mac OS", "macOS"), ("Linux", "Linux"),
    )  # fmt: skip
    name = next((name for mark, name in names if mark in user_agent), "")
    system = next((system for mark, system in systems if mark in user_agent), "")
    return f"{name} on {system}" if name and system else name
