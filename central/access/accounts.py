"""People's accounts and their sessions.

Why it exists: the rest of central knows a `Principal` and never a password or a token.

What is always true
-------------------
- A password is kept as argon2id only, a token as its SHA-256 only: the database signs nobody in.
- A wrong password and an unknown username take the same work and get the same answer.
- A session ends at its time, at sign-out, or when the password is changed or the account is blocked.
- A cookie's token is no bearer token.
- What holds for somebody besides the account (grants, refusals, …) is not known here.

What a crash leaves: whole rows; a session that was answered was committed.
"""

from __future__ import annotations

import json
import re
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import peewee

from central.access.api_tokens import ApiToken
from central.access.errors import AccountError
from central.access.hashes import MAX_SECRET_CHARACTERS, SecretHashes, digest
from central.access.policy import PatientKey, Principal, Role
from central.access.throttle import SignInThrottle
from central.database import Database, make_tables
from central.prepared import Prepared, given

SessionKind = Literal["cookie", "bearer"]
MIN_PASSWORD_CHARACTERS: Final = 12
_USERNAME: Final = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")


class UserAccount(peewee.Model):
    """Table ``user_account``. The two lists are JSON: names, and pairs of issuer and Patient ID."""

    user_id = peewee.CharField(primary_key=True)
    username = peewee.CharField(unique=True)
    password_hash = peewee.CharField()
    role = peewee.CharField()
    referring_physician_names = peewee.TextField()
    patient_ids = peewee.TextField()
    blocked_at_utc = peewee.BigIntegerField(null=True)

    class Meta:
        table_name = "user_account"


class UserSession(peewee.Model):
    """Table ``user_session``. `expires_at_utc` is seconds since 1970."""

    token_sha256 = peewee.CharField(primary_key=True)
    user_id = peewee.CharField(index=True)
    kind = peewee.CharField()
    expires_at_utc = peewee.BigIntegerField(index=True)

    class Meta:
        table_name = "user_session"


_SESSION: Final = Prepared(
    UserSession.select(UserSession.user_id).where(
        UserSession.token_sha256 == given("token_sha256"),
        UserSession.kind == given("kind"),
        UserSession.expires_at_utc > given("now"),
    )
)
_ACCOUNT: Final = Prepared(
    UserAccount.select().where(UserAccount.user_id == given("user_id"), UserAccount.blocked_at_utc.is_null())
)


@dataclass(frozen=True)
class Listed:
    """An account as it is listed."""

    username: str
    role: Role
    is_blocked: bool


class Accounts:
    """Accounts and sessions in `db`; safe to call from every thread."""

    def __init__(self, db: Database, clock: Callable[[], float], hashes: SecretHashes) -> None:
        self._db = db
        self._clock = clock
        self._hashes = hashes
        self._throttle = SignInThrottle()
        # Verified against for unknown users, so that they cost what known ones cost.
        self._nobodys_hash = self._hashes.hash(secrets.token_hex(16))

    @classmethod
    def open(
        cls,
        db: Database,
        clock: Callable[[], float] = time.time,
        hashes: SecretHashes | None = None,
    ) -> Accounts:
        """Make the tables if they are missing. `clock` gives UTC seconds since 1970."""
        make_tables(db, [UserAccount, UserSession, ApiToken])
        with db.writing():  # several programs may open it at once
            if "blocked_at_utc" not in {column.name for column in db.get_columns("user_account")}:
                statement = peewee.SQL("ALTER TABLE user_account ADD COLUMN blocked_at_utc BIGINT")
                db.execute(statement)  # type: ignore[no-untyped-call]  # the stubs leave it untyped
        return cls(db, clock, hashes or SecretHashes())

    def create_user(
        self,
        username: str,
        password: str,
        role: Role,
        *,
        referring_physician_names: Sequence[str] = (),
        patient_ids: Sequence[PatientKey] = (),
    ) -> Principal:
        """Make an account. Usernames are folded to lower case.

        Raises
        ------
        AccountError : the username is taken or unusable, the password too short, or the role is PEER.
        """
        username = username.lower()
        if not _USERNAME.fullmatch(username):
            raise AccountError("a username has 1 to 64 of a-z, 0-9, '.', '_', '@' and '-'")
        if role is Role.PEER:
            raise AccountError("peers are configured under [[dicom.peers]]; they have no account")
        if role is Role.GUEST:
            raise AccountError("guests come by a link to one study; they have no account")
        row = {
            "user_id": uuid.uuid4().hex,
            "username": username,
            "password_hash": self._hash(password),
            "role": role.value,
            "referring_physician_names": json.dumps(list(referring_physician_names)),
            "patient_ids": json.dumps([list(key) for key in patient_ids]),
        }
        try:
            UserAccount.insert(**row).execute(self._db)
        except peewee.IntegrityError as error:
            raise AccountError(f"there is already a user {username}") from error
        return _principal(row)

    def check_sign_on(self, principal: Principal) -> None:
        """Whether `sign_on` may make or change this account.

        Raises
        ------
        AccountError : the account is blocked, or its name is somebody else's.
        """
        mine = UserAccount.user_id == principal.user_id
        query = UserAccount.select().where(mine | (UserAccount.username == principal.username))
        for row in query.dicts().execute(self._db):
            if row["user_id"] != principal.user_id:
                raise AccountError(f"the name {principal.username} belongs to another account")
            if row["blocked_at_utc"] is not None:
                raise AccountError(f"the account {principal.username} is blocked")

    def sign_on(self, principal: Principal) -> None:
        """Make or renew the account, without a password, of somebody whom a provider vouches for.

        Raises
        ------
        AccountError : as `check_sign_on`.
        """
        values = {
            "username": principal.username,
            "role": principal.role.value,
            "referring_physician_names": json.dumps(list(principal.referring_physician_names)),
            "patient_ids": json.dumps([list(key) for key in principal.patient_ids]),
        }
        here = UserAccount.user_id == principal.user_id
        with self._db.writing():
            self.check_sign_on(principal)
            if not UserAccount.update(**values).where(here).execute(self._db):
                UserAccount.insert(user_id=principal.user_id, password_hash="", **values).execute(self._db)

    def set_password(self, username: str, password: str) -> None:
        """Change the password and end every session and API token of that user.

        Raises
        ------
        AccountError : no such user, or the password is too short.
        """
        username, password_hash = username.lower(), self._hash(password)
        with self._db.writing():
            user_id = self._user_id(username)
            here = (UserAccount.user_id == user_id) & (UserAccount.password_hash != "")
            if not UserAccount.update(password_hash=password_hash).where(here).execute(self._db):
                raise AccountError(f"{username} signs on at the provider and has no password here")
            self._end_all(user_id)

    def block(self, username: str) -> None:
        """Let this account in no more; whatever is signed in as it ends. AccountError: no such user."""
        with self._db.writing():
            user_id = self._user_id(username.lower())
            blocked = UserAccount.update(blocked_at_utc=int(self._clock()))
            blocked.where(UserAccount.user_id == user_id).execute(self._db)
            self._end_all(user_id)

    def unblock(self, username: str) -> None:
        """Let this account in again. AccountError: no such user."""
        user_id = self._user_id(username.lower())
        UserAccount.update(blocked_at_utc=None).where(UserAccount.user_id == user_id).execute(self._db)

    def sign_out(self, username: str) -> None:
        """End every session and API token of that user. AccountError: no such user."""
        with self._db.writing():
            self._end_all(self._user_id(username.lower()))

    def listed(self) -> list[Listed]:
        """Every account, by name."""
        rows = UserAccount.select().order_by(UserAccount.username).dicts().execute(self._db)
        return [Listed(row["username"], Role(row["role"]), row["blocked_at_utc"] is not None) for row in rows]

    def _user_id(self, username: str) -> str:
        named = UserAccount.select(UserAccount.user_id).where(UserAccount.username == username)
        row = next(iter(named.dicts().execute(self._db)), None)
        if row is None:
            raise AccountError(f"there is no user {username}")
        return str(row["user_id"])

    def _end_all(self, user_id: str) -> None:
        self.end_sessions(user_id)
        ApiToken.delete().where(ApiToken.user_id == user_id).execute(self._db)

    def verify(self, username: str, password: str, address: str) -> Principal | None:
        """The principal if the password is right, else None, in the same time for unknown users.

        Raises
        ------
        ThrottledError : too many failures of this username or from this address.
        """
        username = username.lower()[:256]
        self._throttle.begin(username, address)
        rows = list(UserAccount.select().where(UserAccount.username == username).dicts().execute(self._db))
        row = rows[0] if rows else None
        # Who signs on at a provider has no password, and costs what others cost.
        known = row["password_hash"] if row else ""
        right = self._hashes.matches(known or self._nobodys_hash, password)
        if row is None or not known or not right or row["blocked_at_utc"] is not None:
            return None
        self._throttle.succeed(username, address)
        return _principal(row)

    def start_session(self, principal: Principal, kind: SessionKind, life_s: int) -> str:
        """A new token (256 random bits) for `principal`, valid for `life_s` seconds."""
        token = secrets.token_urlsafe(32)
        now = int(self._clock())
        with self._db.writing():
            UserSession.delete().where(UserSession.expires_at_utc <= now).execute(self._db)
            UserSession.insert(
                token_sha256=digest(token),
                user_id=principal.user_id,
                kind=kind,
                expires_at_utc=now + life_s,
            ).execute(self._db)
        return token

    def user_of(self, token: str, kind: SessionKind) -> str | None:
        """The `user_id` that `token` was made for; None when it is unknown, of the other kind, ended or expired."""
        row = _SESSION.first(self._db, token_sha256=digest(token), kind=kind, now=int(self._clock()))
        return row["user_id"] if row is not None else None

    def account(self, user_id: str) -> Principal | None:
        """Who has this account, unless it is blocked, without the rules of the moment: the doorkeeper adds those."""
        row = _ACCOUNT.first(self._db, user_id=user_id)
        return _principal(row) if row is not None else None

    def end_session(self, token: str) -> None:
        """Forget `token`; unknown ones are nothing to forget."""
        UserSession.delete().where(UserSession.token_sha256 == digest(token)).execute(self._db)

    def end_sessions(self, user_id: str) -> None:
        """Forget every session of this user, or guest."""
        UserSession.delete().where(UserSession.user_id == user_id).execute(self._db)

    def _hash(self, password: str) -> str:
        if not MIN_PASSWORD_CHARACTERS <= len(password) <= MAX_SECRET_CHARACTERS:
            raise AccountError(
                f"a password has {MIN_PASSWORD_CHARACTERS} to {MAX_SECRET_CHARACTERS} characters"
            )
        return self._hashes.hash(password)


def _principal(row: dict[str, Any]) -> Principal:
    return Principal(
        user_id=row["user_id"],
        username=row["username"],
        role=Role(row["role"]),
        referring_physician_names=tuple(json.loads(row["referring_physician_names"])),
        patient_ids=tuple(PatientKey(*pair) for pair in json.loads(row["patient_ids"])),
    )
