"""Which accounts there are, and whose each is: the table, and what is asked of it.

No password is looked at here, and none is given out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import peewee

from central.access.errors import AccountError
from central.access.policy import PatientKey, Principal, Role
from central.access.second_factors import Held, SecondFactors
from central.database import Database, grow_table, make_tables
from central.institution import DEFAULT_INSTITUTION, WHOLE_CENTRAL
from central.prepared import Prepared, given


class UserAccount(peewee.Model):
    """Table ``user_account``. The lists are JSON: names, ids, and pairs of issuer and Patient ID.

    `sign_outs` grows whenever all sessions are ended (`central.access.sessions`).
    """

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
    sign_outs = peewee.IntegerField(default=0)

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


class AccountDirectory:
    """The accounts in `db`, as far as they are looked up; `central.access.accounts.Accounts` changes them as well."""

    def __init__(self, db: Database, factors: SecondFactors) -> None:
        self.factors = factors
        self._db = db

    def account(self, user_id: str) -> Principal | None:
        """Who has this account, unless it is blocked, without the rules of the moment: the doorkeeper adds those."""
        row = _ACCOUNT.first(self._db, user_id=user_id)
        return holder_of(row) if row is not None else None

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


def make_accounts_table(db: Database) -> None:
    """Make it if it is missing, or give one of an older version what it lacks. Inside the caller's transaction."""
    had_institutions = "institution" in {column.name for column in db.get_columns("user_account")}
    grow_table(
        db,
        "user_account",
        {
            "blocked_at_utc": "BIGINT",
            "institution": f"TEXT NOT NULL DEFAULT '{DEFAULT_INSTITUTION}'",
            "departments": "TEXT NOT NULL DEFAULT '[]'",
            "gateway_ids": "TEXT NOT NULL DEFAULT '[]'",
            "sign_outs": "INTEGER NOT NULL DEFAULT 0",
        },
    )
    make_tables(db, [UserAccount])
    if not had_institutions:  # who ran the whole house goes on running it
        admins = UserAccount.role == Role.ADMIN.value
        UserAccount.update(institution=WHOLE_CENTRAL).where(admins).execute(db)


def people_of(institution: str) -> peewee.ModelSelect[UserAccount]:
    """The ids of an institution's accounts, for other tables to be looked through by."""
    return UserAccount.select(UserAccount.user_id).where(UserAccount.institution == institution)


def holder_of(row: dict[str, Any]) -> Principal:
    """Whose account a row of the table is."""
    return Principal(
        user_id=row["user_id"],
        username=row["username"],
        role=Role(row["role"]),
        referring_physician_names=tuple(json.loads(row["referring_physician_names"])),
        patient_ids=tuple(PatientKey(*pair) for pair in json.loads(row["patient_ids"])),
        institution=row["institution"],
        departments=tuple(json.loads(row["departments"])),
        gateway_ids=tuple(json.loads(row["gateway_ids"])),
        sign_outs=row["sign_outs"],
    )
