"""Who looks after what: a study, or a patient with all studies, assigned to a doctor until a time.

Why it exists: the physician on the images is often another than the one who treats the patient. People assign, and so
do orders: whoever an order names as requesting or referring physician has its study (`assign_by_order`).

What is always true: an assignment names an account, says who made it, and ends by its time or by hand; rows are kept
when it ended. It holds in the institution in which it was made. An account has at most `MAX_ASSIGNMENTS` that hold, so
that a search stays one query.

What a crash leaves: whole assignments.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import peewee

from central.access.account_directory import UserAccount
from central.access.errors import AccessRuleError
from central.access.policy import PatientKey, Role, StudyKey, is_called, person_name_key, physician_key
from central.database import Database, make_tables
from central.prepared import Prepared, given

MAX_ASSIGNMENTS: Final = 500
MAX_DAYS: Final = 366
ORDER_DAYS: Final = 90
"""How long an order's physician has its study: reports and follow-ups are over by then."""


class Assignment(peewee.Model):
    """Table ``assignment``: of a study, or with `study_instance_uid` "" of a patient. Times are seconds since 1970.

    `made_by` is a username; `by_order`: it was made because an order names the account's owner.
    """

    assignment_id = peewee.CharField(primary_key=True)
    institution = peewee.TextField()
    study_instance_uid = peewee.TextField()
    issuer_of_patient_id = peewee.TextField()
    patient_id = peewee.TextField()
    user_id = peewee.CharField(index=True)
    until_utc = peewee.BigIntegerField()
    made_by = peewee.TextField()
    by_order = peewee.BooleanField()
    made_at_utc = peewee.BigIntegerField()
    ended_at_utc = peewee.BigIntegerField(null=True)

    class Meta:
        table_name = "assignment"
        indexes = ((("study_instance_uid", "institution"), False),)


_ASSIGNED_TO: Final = Prepared(
    Assignment.select(
        Assignment.study_instance_uid, Assignment.issuer_of_patient_id, Assignment.patient_id
    ).where(
        Assignment.ended_at_utc.is_null(),
        Assignment.until_utc > given("now"),
        Assignment.user_id == given("user_id"),
        Assignment.institution == given("institution"),
    )
)


@dataclass(frozen=True)
class Assigned:
    """An assignment that holds, of a study or of a patient. `username` is whom it is for."""

    assignment_id: str
    institution: str
    study_instance_uid: str
    issuer_of_patient_id: str
    patient_id: str
    username: str
    until_utc: int
    made_by: str
    by_order: bool
    made_at_utc: int


class Assignments:
    """Assignments in `db`; safe to call from every thread."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock

    @classmethod
    def open(cls, db: Database, clock: Callable[[], float] = time.time) -> Assignments:
        """Make the table if it is missing. `clock` gives UTC seconds since 1970."""
        make_tables(db, [Assignment])
        return cls(db, clock)

    def assign(
        self,
        what: str | PatientKey,
        username: str,
        *,
        institution: str,
        until_utc: int,
        made_by: str,
    ) -> Assigned:
        """Assign a study, by its Study Instance UID, or a patient to a doctor of `institution`.

        Raises
        ------
        AccessRuleError : no such doctor, no Patient ID, an end that is past or too far, or too many assignments.
        """
        now = int(self._clock())
        if isinstance(what, PatientKey) and not what.patient_id:
            raise AccessRuleError("a patient needs a Patient ID")
        if not now < until_utc <= now + MAX_DAYS * 86400:
            raise AccessRuleError(f"an assignment ends within {MAX_DAYS} days")
        with self._db.writing():
            named = (UserAccount.username == username.lower()) & (UserAccount.institution == institution)
            account = next(iter(UserAccount.select().where(named).dicts().execute(self._db)), None)
            if account is None or account["role"] != Role.DOCTOR.value:
                raise AccessRuleError(f"there is no doctor {username.lower()}")
            if not self._has_room(account["user_id"]):
                raise AccessRuleError(
                    f"{account['username']} has {MAX_ASSIGNMENTS} assignments; end some first"
                )
            return self._insert(what, account, institution, until_utc, made_by, by_order=False)

    def assign_by_order(
        self,
        study_instance_uid: str,
        physician_names: Iterable[str],
        *,
        institution: str,
        made_by: str,
        announce: Callable[[Sequence[str]], None],
    ) -> None:
        """What an order says of its study: the doctors of `institution` who are called so have it from now on, and
        whom an earlier version of the order named has it no more.

        Parameters
        ----------
        announce : is told who is about to have it, by username, before they do; what it raises leaves all as it was.
        """
        names = [name for name in physician_names if person_name_key(name)]
        until_utc = int(self._clock()) + ORDER_DAYS * 86400
        with self._db.writing():
            doctors = UserAccount.select().where(
                UserAccount.institution == institution,
                UserAccount.role == Role.DOCTOR.value,
                UserAccount.referring_physician_names != "[]",
            )
            meant = {
                row["user_id"]: row
                for row in (doctors.dicts().execute(self._db) if names else ())
                if _is_one_of(names, json.loads(row["referring_physician_names"]))
            }
            its = self._holding(
                Assignment.study_instance_uid == study_instance_uid,
                Assignment.institution == institution,
                Assignment.by_order == True,  # noqa: E712  # SQL
            )
            known = {row["user_id"]: row["assignment_id"] for row in its.dicts().execute(self._db)}
            for user_id, assignment_id in known.items():
                if user_id not in meant:
                    self.end(assignment_id)
            new = [row for user_id, row in meant.items() if user_id not in known and self._has_room(user_id)]
            if new:
                announce([row["username"] for row in new])
            for row in new:
                self._insert(study_instance_uid, row, institution, until_utc, made_by, by_order=True)

    def get(self, assignment_id: str) -> Assigned | None:
        """The assignment, if it holds."""
        return next(iter(self._listed(Assignment.assignment_id == assignment_id)), None)

    def end(self, assignment_id: str) -> bool:
        """False if there is no such assignment that holds."""
        update = Assignment.update(ended_at_utc=int(self._clock())).where(
            Assignment.assignment_id == assignment_id, Assignment.ended_at_utc.is_null()
        )
        return bool(update.execute(self._db))

    def listed(self, institution: str | None = None, made_by: str | None = None) -> list[Assigned]:
        """What holds now, the newest first: all, or those of an institution, or what one person made."""
        conditions = []
        if institution is not None:
            conditions.append(Assignment.institution == institution)
        if made_by is not None:
            conditions.append(Assignment.made_by == made_by)
        return self._listed(*conditions)

    def about(self, study: StudyKey, patient: PatientKey) -> list[Assigned]:
        """What holds now of one study, or of its patient where it has one, the newest first."""
        its = Assignment.study_instance_uid == study.study_instance_uid
        if patient.patient_id:
            its |= (Assignment.patient_id == patient.patient_id) & (
                Assignment.issuer_of_patient_id == patient.issuer
            )
        return self._listed(Assignment.institution == study.institution, its)

    def of(self, user_id: str, institution: str) -> tuple[frozenset[str], frozenset[PatientKey]]:
        """Study Instance UIDs and patients of `institution` that are assigned to this account."""
        rows = _ASSIGNED_TO.tuples(self._db, now=int(self._clock()), user_id=user_id, institution=institution)
        studies = frozenset(study_instance_uid for study_instance_uid, _, _ in rows) - {""}
        patients = (PatientKey(issuer, patient_id) for _, issuer, patient_id in rows)
        return studies, frozenset(patient for patient in patients if patient.patient_id)

    def _has_room(self, user_id: str) -> bool:
        return self._holding(Assignment.user_id == user_id).count(self._db) < MAX_ASSIGNMENTS

    def _insert(
        self,
        what: str | PatientKey,
        account: dict[str, Any],
        institution: str,
        until_utc: int,
        made_by: str,
        *,
        by_order: bool,
    ) -> Assigned:
        patient = what if isinstance(what, PatientKey) else PatientKey("", "")
        row: dict[str, Any] = {
            "assignment_id": uuid.uuid4().hex,
            "institution": institution,
            "study_instance_uid": "" if isinstance(what, PatientKey) else what,
            "issuer_of_patient_id": patient.issuer,
            "patient_id": patient.patient_id,
            "until_utc": until_utc,
            "made_by": made_by,
            "by_order": by_order,
            "made_at_utc": int(self._clock()),
        }
        Assignment.insert(user_id=account["user_id"], **row).execute(self._db)
        return Assigned(username=account["username"], **row)

    def _holding(self, *conditions: peewee.Expression) -> peewee.ModelSelect[Assignment]:
        return Assignment.select().where(
            Assignment.ended_at_utc.is_null(), Assignment.until_utc > int(self._clock()), *conditions
        )

    def _listed(self, *conditions: peewee.Expression) -> list[Assigned]:
        columns = [
            field
            for name, field in Assignment._meta.fields.items()
            if name not in ("user_id", "ended_at_utc")
        ]
        query = (
            self._holding(*conditions)
            .select(*columns, UserAccount.username)
            .join(UserAccount, on=UserAccount.user_id == Assignment.user_id)
            .order_by(Assignment.made_at_utc.desc(), Assignment.assignment_id)
        )
        return [Assigned(**row) for row in query.dicts().execute(self._db)]


def _is_one_of(names: Iterable[str], own_names: Iterable[str]) -> bool:
    """Whether somebody with `own_names` is called as one of `names`."""
    keys = [physician_key(own) for own in own_names]
    return any(is_called(name, keys) for name in names)
