"""Patients who withdrew their consent: nobody reaches their studies but who is excepted by name.

Why it exists: a withdrawal has to hold in every search and every read at once, for people and DICOM peers alike. So
the archive looks into `ConsentWithdrawal` in each query, and nobody has to remember to ask.

What is always true: a patient, Patient ID with issuer, has at most one withdrawal that has not ended in an institution,
and one for all of them (`EVERYWHERE`), which both bind; an account is excepted in its own institution alone, and only
if every withdrawal that binds there excepts it. Rows are kept when it ends. Nobody is excepted from more than
`MAX_EXCEPTIONS`, so that a search stays one query.

What a crash leaves: whole withdrawals with their exceptions, or none.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import peewee

from central.access.account_directory import UserAccount
from central.access.errors import AccessRuleError
from central.access.policy import PatientKey
from central.database import Database, grow_table, make_tables
from central.prepared import Prepared, given

MAX_EXCEPTIONS: Final = 100
EVERYWHERE: Final = ""
"""In place of an institution: the withdrawal holds in all of them."""


class ConsentWithdrawal(peewee.Model):
    """Table ``consent_withdrawal``. Times are seconds since 1970; `ended_at_utc` is null while it holds."""

    withdrawal_id = peewee.CharField(primary_key=True)
    issuer_of_patient_id = peewee.TextField()
    patient_id = peewee.TextField()
    made_by = peewee.TextField()
    made_at_utc = peewee.BigIntegerField()
    ended_at_utc = peewee.BigIntegerField(null=True)
    institution = peewee.TextField(default=EVERYWHERE)

    class Meta:
        table_name = "consent_withdrawal"
        indexes = ((("patient_id", "issuer_of_patient_id"), False),)


class ConsentException(peewee.Model):
    """Table ``consent_exception``: whom a withdrawal does not bind."""

    withdrawal_id = peewee.CharField()
    user_id = peewee.CharField(index=True)

    class Meta:
        table_name = "consent_exception"
        primary_key = peewee.CompositeKey("withdrawal_id", "user_id")


@dataclass(frozen=True)
class Withdrawal:
    """A withdrawal that holds. `exceptions` are usernames."""

    withdrawal_id: str
    patient: PatientKey
    made_by: str
    made_at_utc: int
    exceptions: tuple[str, ...]
    institution: str


class Consents:
    """Withdrawals in `db`; safe to call from every thread."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock

    @classmethod
    def open(cls, db: Database, clock: Callable[[], float] = time.time) -> Consents:
        """Make the tables if they are missing. `clock` gives UTC seconds since 1970."""
        make_consent_tables(db)
        return cls(db, clock)

    def withdraw(
        self,
        patient: PatientKey,
        made_by: str,
        exceptions: Sequence[str] = (),
        institution: str = EVERYWHERE,
    ) -> str:
        """Let nobody reach the patient's studies of `institution` but the accounts named `exceptions`; its id.

        Raises
        ------
        AccessRuleError : it is withdrawn already, no Patient ID, or an exception names no account.
        """
        if not patient.patient_id:
            raise AccessRuleError("a patient needs a Patient ID")
        if len(exceptions) > MAX_EXCEPTIONS:
            raise AccessRuleError(f"at most {MAX_EXCEPTIONS} people can be excepted")
        withdrawal_id = uuid.uuid4().hex
        with self._db.writing():
            held = ConsentWithdrawal.institution == institution
            if list(_live().where(*_of(patient), held).execute(self._db)):
                raise AccessRuleError("this patient's consent is withdrawn already; end that first")
            ConsentWithdrawal.insert(
                withdrawal_id=withdrawal_id,
                issuer_of_patient_id=patient.issuer,
                patient_id=patient.patient_id,
                made_by=made_by,
                made_at_utc=int(self._clock()),
                institution=institution,
            ).execute(self._db)
            for username in {name.lower() for name in exceptions}:
                self._except(withdrawal_id, username, institution)
        return withdrawal_id

    def _except(self, withdrawal_id: str, username: str, institution: str) -> None:
        account = UserAccount.select(UserAccount.user_id).where(UserAccount.username == username)
        if institution != EVERYWHERE:
            account = account.where(UserAccount.institution == institution)
        row = next(iter(account.dicts().execute(self._db)), None)
        if row is None:
            raise AccessRuleError(f"there is no user {username}")
        if len(_EXCEPTING.tuples(self._db, user_id=row["user_id"])) >= MAX_EXCEPTIONS:
            raise AccessRuleError(f"{username} is excepted from {MAX_EXCEPTIONS} withdrawals already")
        ConsentException.insert(withdrawal_id=withdrawal_id, user_id=row["user_id"]).execute(self._db)

    def end(self, withdrawal_id: str) -> bool:
        """The patient consents again; False if there is no such withdrawal that holds."""
        update = ConsentWithdrawal.update(ended_at_utc=int(self._clock())).where(
            ConsentWithdrawal.withdrawal_id == withdrawal_id, ConsentWithdrawal.ended_at_utc.is_null()
        )
        return bool(update.execute(self._db))

    def listed(self, institution: str | None = None) -> list[Withdrawal]:
        """What holds now, the newest first: all, or what was said in and for one institution."""
        excepted: dict[str, list[str]] = {}
        named = ConsentException.select(ConsentException.withdrawal_id, UserAccount.username).join(
            UserAccount, on=UserAccount.user_id == ConsentException.user_id
        )
        for withdrawal_id, username in named.tuples().execute(self._db):
            excepted.setdefault(withdrawal_id, []).append(username)
        live = _live().order_by(ConsentWithdrawal.made_at_utc.desc())
        if institution is not None:
            live = live.where(ConsentWithdrawal.institution == institution)
        return [
            Withdrawal(
                row["withdrawal_id"],
                PatientKey(row["issuer_of_patient_id"], row["patient_id"]),
                row["made_by"],
                row["made_at_utc"],
                tuple(sorted(excepted.get(row["withdrawal_id"], ()))),
                row["institution"],
            )
            for row in live.dicts().execute(self._db)
        ]

    def exceptions_of(self, user_id: str, institution: str) -> frozenset[PatientKey]:
        """Patients of `institution`, the account's own, by none of whose withdrawals it is bound there."""
        rows = _NOT_BOUND.tuples(self._db, user_id=user_id, institution=institution)
        return frozenset(PatientKey(issuer, patient_id) for issuer, patient_id in rows)


def make_consent_tables(db: Database) -> None:
    """Make the tables if they are missing: every search looks into them, whoever opens the database first."""
    grow_table(db, "consent_withdrawal", {"institution": f"TEXT NOT NULL DEFAULT '{EVERYWHERE}'"})
    make_tables(db, [ConsentWithdrawal, ConsentException])


def _live() -> peewee.ModelSelect[ConsentWithdrawal]:
    return ConsentWithdrawal.select().where(ConsentWithdrawal.ended_at_utc.is_null())


def _excepting() -> peewee.ModelSelect[ConsentException]:
    """The withdrawals from which an account is excepted."""
    excepted = ConsentException.select(ConsentException.withdrawal_id)
    return excepted.where(ConsentException.user_id == given("user_id"))


def _bind(withdrawal: Any) -> peewee.Expression:
    """Whether it holds in an institution, its own or as one for all of them."""
    its = withdrawal.institution.in_([given("institution"), EVERYWHERE])
    bind: peewee.Expression = withdrawal.ended_at_utc.is_null() & its
    return bind


_EXCEPTING: Final = Prepared(
    _live().select(ConsentWithdrawal.withdrawal_id).where(ConsentWithdrawal.withdrawal_id.in_(_excepting()))
)
_OTHER: Final = ConsentWithdrawal.alias()
_NOT_BOUND: Final = Prepared(
    ConsentWithdrawal.select(ConsentWithdrawal.issuer_of_patient_id, ConsentWithdrawal.patient_id).where(
        ConsentWithdrawal.withdrawal_id.in_(_excepting()),
        _bind(ConsentWithdrawal),
        ~peewee.fn.EXISTS(
            _OTHER.select(_OTHER.withdrawal_id).where(
                _OTHER.patient_id == ConsentWithdrawal.patient_id,
                _OTHER.issuer_of_patient_id == ConsentWithdrawal.issuer_of_patient_id,
                _bind(_OTHER),
                _OTHER.withdrawal_id.not_in(_excepting()),
            )
        ),
    )
)


def _of(patient: PatientKey) -> tuple[peewee.Expression, peewee.Expression]:
    return (
        ConsentWithdrawal.patient_id == patient.patient_id,
        ConsentWithdrawal.issuer_of_patient_id == patient.issuer,
    )
