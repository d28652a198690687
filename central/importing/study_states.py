"""How far the import from each other archive is: one row a study, so that a later run goes on where this one ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast

import peewee

from central.database import Database, make_tables, put
from central.institution import DEFAULT_INSTITUTION

Fate = Literal["complete", "failed"]


class ImportedStudy(peewee.Model):
    """`source`: its name, and after a space the institution it was imported for, if it is not the default one.
    `listed`: instances that the source listed; `here`: those of them that the archive has, counted afterwards."""

    source = peewee.TextField()
    study_instance_uid = peewee.TextField()
    fate = peewee.TextField()
    listed = peewee.IntegerField()
    here = peewee.IntegerField()
    reason = peewee.TextField()
    run_id = peewee.TextField()
    at_utc = peewee.TextField()

    class Meta:
        table_name = "imported_study"
        primary_key = peewee.CompositeKey("source", "study_instance_uid")


@dataclass(frozen=True)
class StudyState:
    fate: Fate
    listed: int
    here: int
    reason: str = ""


class StudyStates:
    """The rows of one `source` and institution in `db`."""

    def __init__(
        self, db: Database, source: str, run_id: str, institution: str = DEFAULT_INSTITUTION
    ) -> None:
        make_tables(db, (ImportedStudy,))
        self._db = db
        self._source = source if institution == DEFAULT_INSTITUTION else f"{source} {institution}"
        self._run_id = run_id

    def find(self, study_instance_uid: str) -> StudyState | None:
        """How the study stands; None if no run came to it."""
        query = ImportedStudy.select().where(
            ImportedStudy.source == self._source, ImportedStudy.study_instance_uid == study_instance_uid
        )
        for row in query.dicts().execute(self._db):
            return StudyState(cast(Fate, row["fate"]), row["listed"], row["here"], row["reason"])
        return None

    def keep(self, study_instance_uid: str, state: StudyState) -> None:
        row = {
            "source": self._source,
            "study_instance_uid": study_instance_uid,
            **vars(state),
            "run_id": self._run_id,
            "at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with self._db.writing():
            put(self._db, ImportedStudy, row)
