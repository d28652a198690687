"""The institutions of one central, and what they have opened to each other.

What is always true: an institution that was added stays; the default one is there from the beginning, so who has one
hospital has nothing to configure. An agreement says which institution opens what to whom, who put it in, and ends by
hand; rows are kept when it ended.

What a crash leaves: whole rows.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import peewee

from central.access.errors import AccessRuleError
from central.access.policy import Agreement, Sharing
from central.database import Database, make_tables
from central.institution import DEFAULT_INSTITUTION, InvalidInstitutionError, check_institution
from central.prepared import Prepared, given

MAX_INSTITUTIONS: Final = 200
MAX_NAME_CHARACTERS: Final = 200


class Institution(peewee.Model):
    """Table ``institution``. `name` is for people."""

    institution = peewee.TextField(primary_key=True)
    name = peewee.TextField()

    class Meta:
        table_name = "institution"


class InstitutionAgreement(peewee.Model):
    """Table ``institution_agreement``. Times are seconds since 1970; `ended_at_utc` is null while it holds."""

    agreement_id = peewee.CharField(primary_key=True)
    sharing = peewee.TextField()
    opened_by = peewee.TextField()
    opened_to = peewee.TextField(index=True)
    made_by = peewee.TextField()
    made_at_utc = peewee.BigIntegerField()
    ended_at_utc = peewee.BigIntegerField(null=True)

    class Meta:
        table_name = "institution_agreement"


def _live(*conditions: peewee.Expression) -> peewee.ModelSelect[InstitutionAgreement]:
    return InstitutionAgreement.select().where(InstitutionAgreement.ended_at_utc.is_null(), *conditions)


_OPENED_TO: Final = Prepared(_live(InstitutionAgreement.opened_to == given("institution")))


@dataclass(frozen=True)
class Opened:
    """An agreement that holds: `opened_by` has opened its studies to `opened_to`, for `sharing`."""

    agreement_id: str
    sharing: Sharing
    opened_by: str
    opened_to: str
    made_by: str
    made_at_utc: int


class Institutions:
    """Institutions and agreements in `db`; safe to call from every thread."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock

    @classmethod
    def open(cls, db: Database, clock: Callable[[], float] = time.time) -> Institutions:
        """Make the tables, and the default institution, if they are missing."""
        make_tables(db, [Institution, InstitutionAgreement])
        Institution.insert(institution=DEFAULT_INSTITUTION, name="").on_conflict_ignore().execute(db)
        return cls(db, clock)

    def add(self, institution: str, name: str = "") -> None:
        """Add one, or give it another name.

        Raises
        ------
        AccessRuleError : it cannot be called so, or there are too many.
        """
        try:
            check_institution(institution)
        except InvalidInstitutionError as error:
            raise AccessRuleError(str(error)) from error
        if len(name) > MAX_NAME_CHARACTERS:
            raise AccessRuleError(f"a name has at most {MAX_NAME_CHARACTERS} characters")
        with self._db.writing():
            known = Institution.institution == institution
            if Institution.update(name=name).where(known).execute(self._db):
                return
            if Institution.select().count(self._db) >= MAX_INSTITUTIONS:
                raise AccessRuleError(f"a central has at most {MAX_INSTITUTIONS} institutions")
            Institution.insert(institution=institution, name=name).execute(self._db)

    def require(self, institution: str) -> str:
        """`institution`, if there is one called so. AccessRuleError : there is none."""
        if institution not in self.listed():
            raise AccessRuleError(f"there is no institution {institution}; add it first")
        return institution

    def listed(self) -> dict[str, str]:
        """Every institution with its name, by what it is called."""
        rows = Institution.select().order_by(Institution.institution).dicts().execute(self._db)
        return {row["institution"]: row["name"] for row in rows}

    def agree(self, sharing: Sharing, *, opened_by: str, opened_to: str, made_by: str) -> str:
        """Let `opened_by` open its studies to `opened_to`; the agreement's id.

        Raises
        ------
        AccessRuleError : one of them is not here, they are the same, or it is agreed already.
        """
        for one in (opened_by, opened_to):
            self.require(one)
        if opened_by == opened_to:
            raise AccessRuleError("an institution has nothing to open to itself")
        agreement_id = uuid.uuid4().hex
        with self._db.writing():
            same = (
                (InstitutionAgreement.sharing == sharing.value)
                & (InstitutionAgreement.opened_by == opened_by)
                & (InstitutionAgreement.opened_to == opened_to)
            )
            if _live(same).count(self._db):
                raise AccessRuleError("this is agreed already")
            InstitutionAgreement.insert(
                agreement_id=agreement_id,
                sharing=sharing.value,
                opened_by=opened_by,
                opened_to=opened_to,
                made_by=made_by,
                made_at_utc=int(self._clock()),
            ).execute(self._db)
        return agreement_id

    def end(self, agreement_id: str) -> bool:
        """False if there is no such agreement that holds."""
        update = InstitutionAgreement.update(ended_at_utc=int(self._clock())).where(
            InstitutionAgreement.agreement_id == agreement_id, InstitutionAgreement.ended_at_utc.is_null()
        )
        return bool(update.execute(self._db))

    def agreements(self) -> list[Opened]:
        """What is agreed now, the newest first."""
        query = _live().order_by(InstitutionAgreement.made_at_utc.desc(), InstitutionAgreement.agreement_id)
        rows: list[dict[str, Any]] = list(query.dicts().execute(self._db))
        return [
            Opened(
                row["agreement_id"],
                Sharing(row["sharing"]),
                row["opened_by"],
                row["opened_to"],
                row["made_by"],
                row["made_at_utc"],
            )
            for row in rows
        ]

    def opened_to(self, institution: str) -> frozenset[Agreement]:
        """What others have opened to this one, as the policy takes it."""
        rows = _OPENED_TO.rows(self._db, institution=institution)
        return frozenset(Agreement(Sharing(row["sharing"]), row["opened_by"]) for row in rows)
