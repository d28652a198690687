"""People's accounts: names, roles, passwords.

Why it exists: the rest of central knows a `Principal` and never a password.

What is always true
-------------------
- A password is kept as argon2id only: the database signs nobody in.
- A wrong password, an unknown username and a wrong code take the same work and get the same answer.
- Every session ends when the password is changed or the account is blocked.
- What holds for somebody besides the account (grants, refusals, …) is not known here.

What a crash leaves: whole rows.
"""

from __future__ import annotations

import json
import re
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import peewee

from central.access.api_tokens import ApiToken
from central.access.errors import AccountError, PasskeyRefusedError
from central.access.hashes import MAX_SECRET_CHARACTERS, SecretHashes
from central.access.policy import PatientKey, Principal, Role
from central.access.second_factors import Held, SecondFactors
from central.access.sessions import Sessions
from central.access.throttle import SignInThrottle
from central.database import Database, grow_table, make_tables
from central.institution import (
    DEFAULT_INSTITUTION,
    WHOLE_CENTRAL,
    InvalidInstitutionError,
    check_institution,
)
from central.prepared import Prepared, given

MIN_PASSWORD_CHARACTERS: Final = 12
MAX_NAMES: Final = 50
_USERNAME: Final = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")


class UserAccount(peewee.Model):
    """Table ``user_account``. The lists are JSON: names, ids, and pairs of issuer and Patient ID."""

    user_id = peewee.CharField(primary_key=True)
    username = peewee.CharField(unique=True)
    password_hash = peewee.CharField()
    role = peewee.CharField()
    referring_physician_names = peewee.TextField()
    patient_ids = peewee.TextField()
    blocked_at_utc = peewee.BigIntegerField(null=True)
    institution = peewee.TextField(default=DEFAULT_INSTITUTION)
    departments = peewee.TextField(default="[]")
    gateway_ids = peewee.TextField(default="[]")

    class Meta:
        table_name = "user_account"


_ACCOUNT: Final = Prepared(
    UserAccount.select().where(UserAccount.user_id == given("user_id"), UserAccount.blocked_at_utc.is_null())
)


@dataclass(frozen=True)
class Listed:
    """An account as it is listed."""

    user_id: str
    username: str
    role: Role
    is_blocked: bool
    institution: str
    departments: tuple[str, ...]
    gateway_ids: tuple[str, ...]
    held: Held


@dataclass(frozen=True)
class Admitted:
    """Somebody whose sign-in counts; `means` says by what, for people to read."""

    principal: Principal
    means: str


class Accounts:
    """Accounts in `db`, with their `sessions` and second `factors`; safe to call from every thread."""

    def __init__(
        self, db: Database, clock: Callable[[], float], hashes: SecretHashes, factors: SecondFactors
    ) -> None:
        self.factors = factors
        self.sessions = Sessions.open(db, clock)
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
        factors: SecondFactors,
        clock: Callable[[], float] = time.time,
        hashes: SecretHashes | None = None,
    ) -> Accounts:
        """Make the tables if they are missing. `clock` gives UTC seconds since 1970."""
        with db.writing():
            had_institutions = "institution" in {column.name for column in db.get_columns("user_account")}
            grow_table(
                db,
                "user_account",
                {
                    "blocked_at_utc": "BIGINT",
                    "institution": f"TEXT NOT NULL DEFAULT '{DEFAULT_INSTITUTION}'",
                    "departments": "TEXT NOT NULL DEFAULT '[]'",
                    "gateway_ids": "TEXT NOT NULL DEFAULT '[]'",
                },
            )
            make_tables(db, [UserAccount, ApiToken])
            if not had_institutions:  # who ran the whole house goes on running it
                admins = UserAccount.role == Role.ADMIN.value
                UserAccount.update(institution=WHOLE_CENTRAL).where(admins).execute(db)
        return cls(db, clock, hashes or SecretHashes(), factors)

    def create_user(
        self,
        username: str,
        password: str,
        role: Role,
        *,
        referring_physician_names: Sequence[str] = (),
        patient_ids: Sequence[PatientKey] = (),
        institution: str | None = None,
        departments: Sequence[str] = (),
        gateway_ids: Sequence[str] = (),
    ) -> Principal:
        """Make an account. Usernames are folded to lower case.

        Parameters
        ----------
        institution : None is the default one, or for an administrator the whole central.

        Raises
        ------
        AccountError : the username is taken or unusable, the password too short, the role is PEER, or the institution
            or a list cannot be.
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
            "institution": _institution(role, institution),
            "departments": _json(departments),
            "gateway_ids": _json(gateway_ids),
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
        departments = {"departments": _json(principal.departments)} if principal.departments else {}
        values = {
            "username": principal.username,
            "role": principal.role.value,
            **departments,  # where the claims say none, an administrator may have
            "referring_physician_names": json.dumps(list(principal.referring_physician_names)),
            "patient_ids": json.dumps([list(key) for key in principal.patient_ids]),
        }
        here = UserAccount.user_id == principal.user_id
        with self._db.writing():
            self.check_sign_on(principal)
            became = here & (UserAccount.role != principal.role.value)
            UserAccount.update(institution=principal.institution).where(became).execute(self._db)
            if not UserAccount.update(**values).where(here).execute(self._db):
                UserAccount.insert(
                    user_id=principal.user_id,
                    password_hash="",
                    institution=principal.institution,
                    **values,
                ).execute(self._db)

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

    def change(
        self,
        username: str,
        *,
        institution: str | None = None,
        departments: Sequence[str] | None = None,
        gateway_ids: Sequence[str] | None = None,
    ) -> None:
        """Change what is not None.

        Raises
        ------
        AccountError : no such user, or the institution or a list cannot be.
        """
        with self._db.writing():
            account = UserAccount.select().where(UserAccount.user_id == self._user_id(username.lower()))
            row = next(iter(account.dicts().execute(self._db)))
            values = {
                "institution": _institution(Role(row["role"]), institution or row["institution"]),
                "departments": row["departments"] if departments is None else _json(departments),
                "gateway_ids": row["gateway_ids"] if gateway_ids is None else _json(gateway_ids),
            }
            UserAccount.update(**values).where(UserAccount.user_id == row["user_id"]).execute(self._db)

    def listed(
        self, *, part: str = "", institution: str | None = None, after: str = "", limit: int | None = None
    ) -> list[Listed]:
        """Accounts by name: every one, or those that have `part` in their name, and are of `institution`; from behind
        `after` on, `limit` of them."""
        wanted = [UserAccount.username > after]
        if part:
            wanted.append(UserAccount.username.contains(part))
        if institution is not None:
            wanted.append(UserAccount.institution == institution)
        return self._listed(limit, *wanted)

    def named(self, username: str, institution: str | None = None) -> Listed | None:
        """The account of that name, blocked or not; None if there is none (in `institution`)."""
        wanted = [UserAccount.username == username.lower()]
        if institution is not None:
            wanted.append(UserAccount.institution == institution)
        return next(iter(self._listed(1, *wanted)), None)

    def _listed(self, limit: int | None, *wanted: peewee.Expression) -> list[Listed]:
        query = UserAccount.select().where(*wanted).order_by(UserAccount.username).limit(limit)
        return [
            Listed(
                row["user_id"],
                row["username"],
                Role(row["role"]),
                row["blocked_at_utc"] is not None,
                row["institution"],
                tuple(json.loads(row["departments"])),
                tuple(json.loads(row["gateway_ids"])),
                self.factors.held(row["user_id"]),
            )
            for row in query.dicts().execute(self._db)
        ]

    def might_see(self, patient: PatientKey, besides: Iterable[str]) -> list[str]:
        """The ids of every account that can have to do with a study of `patient`: all but those of other patients, of
        whom only the usernames `besides` count. By username; it is the policy that says who of them may see it."""
        wanted = (UserAccount.role != Role.PATIENT.value) | UserAccount.username.in_(list(besides))
        if patient.patient_id:  # the identifier as the list is written, or one that contains it
            wanted |= UserAccount.patient_ids.contains(json.dumps(patient.patient_id))
        query = UserAccount.select(UserAccount.user_id).where(wanted).order_by(UserAccount.username)
        return [user_id for (user_id,) in query.tuples().execute(self._db)]

    def is_of(self, user_id: str, institution: str | None) -> bool:
        """Whether there is such an account, in `institution` (None: in any)."""
        known = UserAccount.select().where(UserAccount.user_id == user_id)
        if institution is not None:
            known = known.where(UserAccount.institution == institution)
        return bool(known.count(self._db))

    def institution_of(self, username: str) -> str | None:
        """Whose account that is, blocked or not; None when there is no such account."""
        named = UserAccount.select(UserAccount.institution).where(UserAccount.username == username.lower())
        institution: str | None = named.scalar(self._db)
        return institution

    def _user_id(self, username: str) -> str:
        named = UserAccount.select(UserAccount.user_id).where(UserAccount.username == username)
        row = next(iter(named.dicts().execute(self._db)), None)
        if row is None:
            raise AccountError(f"there is no user {username}")
        return str(row["user_id"])

    def _end_all(self, user_id: str) -> None:
        self.sessions.end_all(user_id)
        ApiToken.delete().where(ApiToken.user_id == user_id).execute(self._db)

    def reset_factors(self, username: str) -> None:
        """Only the password of that user counts, until they set something up anew; every session ends.

        Raises
        ------
        AccountError : no such user.
        """
        with self._db.writing():
            user_id = self._user_id(username.lower())
            self.factors.reset(user_id)
            self.sessions.end_all(user_id)

    def verify(self, username: str, password: str, address: str, code: str = "") -> Admitted | None:
        """Who this is, if password and code are right; else None, in the same time for unknown users.

        Raises
        ------
        SecondFactorError : the password was right and the code was not; must not be told from a wrong password.
        ThrottledError : too many failures of this username or from this address.
        """
        username = username.lower()[:256]
        self._throttle.begin(username, address)
        row = self._named(username)
        right = self._is_password(row, password)
        # Looked at before anybody knows whether the password was right, so that it costs the same.
        offered = self.factors.look(row["user_id"] if row is not None else None, code)
        if row is None or not right or row["blocked_at_utc"] is not None:
            return None
        principal = _principal(row)
        means = self.factors.admit(principal, offered)
        self._throttle.succeed(username, address)
        return Admitted(principal, means)

    def is_password_of(self, principal: Principal, password: str, address: str) -> bool:
        """Whether somebody who is signed in knows their password. ThrottledError: as `verify`."""
        self._throttle.begin(principal.username, address)
        right = self._is_password(self._named(principal.username), password)
        if right:
            self._throttle.succeed(principal.username, address)
        return right

    def admit_passkey(self, user_id: str) -> Admitted:
        """Who this is, whom a passkey has proved. PasskeyRefusedError: the account is blocked."""
        principal = self.account(user_id)
        if principal is None:
            raise PasskeyRefusedError("the account is blocked", user_id)
        return Admitted(principal, "passkey")

    def _named(self, username: str) -> dict[str, Any] | None:
        query = UserAccount.select().where(UserAccount.username == username)
        return next(iter(query.dicts().execute(self._db)), None)

    def _is_password(self, row: dict[str, Any] | None, password: str) -> bool:
        # Who signs on at a provider has no password, and costs what others cost.
        known = row["password_hash"] if row is not None else ""
        right = self._hashes.matches(known or self._nobodys_hash, password)
        return right and bool(known)

    def account(self, user_id: str) -> Principal | None:
        """Who has this account, unless it is blocked, without the rules of the moment: the doorkeeper adds those."""
        row = _ACCOUNT.first(self._db, user_id=user_id)
        return _principal(row) if row is not None else None

    def _hash(self, password: str) -> str:
        if not MIN_PASSWORD_CHARACTERS <= len(password) <= MAX_SECRET_CHARACTERS:
            raise AccountError(
                f"a password has {MIN_PASSWORD_CHARACTERS} to {MAX_SECRET_CHARACTERS} characters"
            )
        return self._hashes.hash(password)


def people_of(institution: str) -> peewee.ModelSelect[UserAccount]:
    """The ids of an institution's accounts, for other tables to be looked through by."""
    return UserAccount.select(UserAccount.user_id).where(UserAccount.institution == institution)


def _institution(role: Role, wanted: str | None) -> str:
    if wanted is None:
        return WHOLE_CENTRAL if role is Role.ADMIN else DEFAULT_INSTITUTION
    if wanted == WHOLE_CENTRAL and role is Role.ADMIN:
        return wanted
    try:
        return check_institution(wanted)
    except InvalidInstitutionError as error:
        raise AccountError(str(error)) from error


def _json(names: Sequence[str]) -> str:
    said = [name.strip() for name in names if name.strip()]
    if len(said) > MAX_NAMES:
        raise AccountError(f"an account has at most {MAX_NAMES} departments and {MAX_NAMES} boxes")
    return json.dumps(said, ensure_ascii=False)


def _principal(row: dict[str, Any]) -> Principal:
    return Principal(
        user_id=row["user_id"],
        username=row["username"],
        role=Role(row["role"]),
        referring_physician_names=tuple(json.loads(row["referring_physician_names"])),
        patient_ids=tuple(PatientKey(*pair) for pair in json.loads(row["patient_ids"])),
        institution=row["institution"],
        departments=tuple(json.loads(row["departments"])),
        gateway_ids=tuple(json.loads(row["gateway_ids"])),
    )
