"""Tokens with which a program asks in its owner's name, made and ended by the owner.

Why it exists: a workstation or a script should not know a password, and should be able to do less than its owner.

What is always true
-------------------
- The token is told once; here is its SHA-256. It begins with `PREFIX`, so that one that leaked is recognized.
- It does what it was made for and what its owner may at that moment, never more (`policy.Delegation`).
- It ends by its time, by hand, and when its owner's password is changed.

What a crash leaves: whole rows.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import peewee

from central.access.errors import AccessRuleError
from central.access.hashes import digest
from central.access.policy import Action, Delegation
from central.database import Database, make_tables
from central.prepared import Prepared, given

PREFIX: Final = "dicomnet_"
DEFAULT_DAYS: Final = 90
MAX_DAYS: Final = 365
MAX_TOKENS: Final = 20
MAX_LABEL_CHARACTERS: Final = 64
_LAST_USE_RESOLUTION_S: Final = 3600  # a write an hour, not one a request


class ApiToken(peewee.Model):
    """Table ``api_token``. Times are seconds since 1970; `actions` are separated by spaces."""

    token_id = peewee.CharField(primary_key=True)
    token_sha256 = peewee.CharField(unique=True)
    user_id = peewee.CharField(index=True)
    label = peewee.TextField()
    actions = peewee.TextField()
    made_at_utc = peewee.BigIntegerField()
    expires_at_utc = peewee.BigIntegerField()
    last_used_at_utc = peewee.BigIntegerField(null=True)

    class Meta:
        table_name = "api_token"


_BY_SECRET: Final = Prepared(
    ApiToken.select().where(
        ApiToken.expires_at_utc > given("now"), ApiToken.token_sha256 == given("token_sha256")
    )
)


@dataclass(frozen=True)
class Token:
    """A token that has not ended. `last_used_at_utc` is right to the hour; None: never."""

    token_id: str
    user_id: str
    label: str
    actions: frozenset[Action]
    made_at_utc: int
    expires_at_utc: int
    last_used_at_utc: int | None


class ApiTokens:
    """Tokens in `db`; safe to call from every thread."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock

    @classmethod
    def open(cls, db: Database, clock: Callable[[], float] = time.time) -> ApiTokens:
        """Make the table if it is missing. `clock` gives UTC seconds since 1970."""
        make_tables(db, [ApiToken])
        return cls(db, clock)

    def make(self, user_id: str, label: str, actions: frozenset[Action], days: int) -> tuple[Token, str]:
        """A new token of this owner; the second value is the secret itself (256 random bits), told this once.

        Raises
        ------
        AccessRuleError : label, actions or days out of bounds, or too many tokens of this owner.
        """
        if not 1 <= len(label) <= MAX_LABEL_CHARACTERS:
            raise AccessRuleError(f"name the program, in 1 to {MAX_LABEL_CHARACTERS} characters")
        if not actions:
            raise AccessRuleError("choose at least one thing that the token may do")
        if not 1 <= days <= MAX_DAYS:
            raise AccessRuleError(f"a token lives 1 to {MAX_DAYS} days")
        secret, now = PREFIX + secrets.token_urlsafe(32), int(self._clock())
        row: dict[str, Any] = {
            "token_id": secrets.token_hex(8),
            "user_id": user_id,
            "label": label,
            "actions": " ".join(sorted(actions)),
            "made_at_utc": now,
            "expires_at_utc": now + days * 86400,
            "last_used_at_utc": None,
        }
        with self._db.writing():
            ApiToken.delete().where(ApiToken.expires_at_utc <= now).execute(self._db)
            if ApiToken.select().where(ApiToken.user_id == user_id).count(self._db) >= MAX_TOKENS:
                raise AccessRuleError(f"you have {MAX_TOKENS} tokens; end some first")
            ApiToken.insert(token_sha256=digest(secret), **row).execute(self._db)
        return _token(row), secret

    def find(self, secret: str) -> tuple[str, Delegation] | None:
        """Owner's `user_id` and what the token may do for them; None when it is unknown or has ended."""
        row = _BY_SECRET.first(self._db, token_sha256=digest(secret), now=int(self._clock()))
        if row is None:
            return None
        self._used(row)
        token = _token(row)
        return token.user_id, Delegation(token.token_id, token.actions)

    def get(self, token_id: str) -> Token | None:
        """The token, unless it has ended."""
        row = next(iter(self._live(ApiToken.token_id == token_id).dicts().execute(self._db)), None)
        return _token(row) if row is not None else None

    def listed(
        self, user_id: str | None = None, owners: peewee.ModelSelect[Any] | None = None
    ) -> list[Token]:
        """What has not ended, the newest first: all, or those of one owner, or of those that a query names."""
        mine = [ApiToken.user_id == user_id] if user_id is not None else []
        if owners is not None:
            mine.append(ApiToken.user_id.in_(owners))
        query = self._live(*mine).order_by(ApiToken.made_at_utc.desc(), ApiToken.token_id)
        return [_token(row) for row in query.dicts().execute(self._db)]

    def end(self, token_id: str) -> bool:
        """Forget a token; False if it is none."""
        return bool(ApiToken.delete().where(ApiToken.token_id == token_id).execute(self._db))

    def _used(self, row: dict[str, Any]) -> None:
        now = int(self._clock())
        if now - (row["last_used_at_utc"] or 0) >= _LAST_USE_RESOLUTION_S:
            here = ApiToken.token_id == row["token_id"]
            ApiToken.update(last_used_at_utc=now).where(here).execute(self._db)

    def _live(self, *conditions: peewee.Expression) -> peewee.ModelSelect[ApiToken]:
        return ApiToken.select().where(ApiToken.expires_at_utc > int(self._clock()), *conditions)


def _token(row: dict[str, Any]) -> Token:
    return Token(
        token_id=row["token_id"],
        user_id=row["user_id"],
        label=row["label"],
        actions=frozenset(Action(name) for name in row["actions"].split()),
        made_at_utc=row["made_at_utc"],
        expires_at_utc=row["expires_at_utc"],
        last_used_at_utc=row["last_used_at_utc"],
    )
