"""What is kept of studies, steps and scanners' pace in `services.sqlite3`: UIDs, counts and 8-byte digests.

Nothing here identifies a patient. Written in batches by one thread; a crash leaves the last batch whole.
"""

from __future__ import annotations

import array
import json
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from peewee import BlobField, IntegerField, Model, TextField, fn

from contract.workflow import StepStatus
from edge.buffer.pace import MAX_SCANNERS, Pace
from edge.buffer.service_database import ServiceDatabase
from edge.buffer.tables import utc_from_text, utc_text

KEPT: Final = timedelta(days=7)
"""A late image is recognized as one for this long; after it the study begins anew."""

_PRUNE_EVERY_S: Final = 86_400.0


class StudyState(StrEnum):
    RECEIVING = "receiving"
    COMPLETE = "complete"
    REOPENED = "reopened"


class Evidence(StrEnum):
    """Why a study counts as complete, the strongest first."""

    PROCEDURE_STEP = "procedure step"
    ASSOCIATION = "association"
    IDLE = "idle"


@dataclass(slots=True)
class StudyRow:
    """A study as it is kept; `edge.buffer.completeness.StudyStanding` says what the fields mean."""

    study_instance_uid: str
    calling_ae_title: str
    state: StudyState
    evidence: Evidence | None
    expected: int | None
    received: int
    late: int
    first_at_utc: datetime
    last_at_utc: datetime
    completed_at_utc: datetime | None

    def count(self, calling_ae_title: str, *, late: bool) -> None:
        """One more instance. In place, since this happens for each of thousands."""
        self.calling_ae_title = calling_ae_title
        self.received += 1
        self.late += late
        self.last_at_utc = datetime.now(UTC)

    def joined(self, kept: StudyRow, fresh: int) -> StudyRow:
        """What was kept of a study, with the `fresh` instances that this row has beyond it."""
        return replace(
            kept,
            received=kept.received + fresh,
            late=kept.late + (fresh if kept.completed_at_utc else 0),
            last_at_utc=self.last_at_utc if fresh else kept.last_at_utc,
        )

    def expecting(self, expected: int | None) -> StudyRow:
        return replace(self, expected=expected)

    def turned(self, state: StudyState, evidence: Evidence | None) -> StudyRow:
        done = state is StudyState.COMPLETE
        return replace(
            self,
            state=state,
            evidence=evidence,
            completed_at_utc=datetime.now(UTC) if done else self.completed_at_utc,
        )


@dataclass(frozen=True)
class StepRow:
    """A procedure step: its status, its studies, and digests of the instances it counted."""

    status: StepStatus
    study_instance_uids: frozenset[str]
    expected: frozenset[int]


class _Study(Model):
    study_instance_uid = TextField(primary_key=True)
    calling_ae_title = TextField()
    state = TextField(index=True)
    evidence = TextField(null=True)
    expected = IntegerField(null=True)
    received = IntegerField()
    late = IntegerField()
    first_at_utc = TextField()
    last_at_utc = TextField()
    completed_at_utc = TextField(null=True)
    digests = BlobField()
    written_at_utc = TextField(index=True)

    class Meta:
        table_name = "completeness_study"


class _Step(Model):
    sop_instance_uid = TextField(primary_key=True)
    status = TextField()
    study_instance_uids = TextField()  # JSON
    expected = BlobField()
    written_at_utc = TextField(index=True)

    class Meta:
        table_name = "completeness_step"


class _ScannerPace(Model):
    calling_ae_title = TextField(primary_key=True)
    gaps_s = TextField()  # JSON
    written_at_utc = TextField(index=True)

    class Meta:
        table_name = "scanner_pace"


class CompletenessRows:
    """Questions and batches. Every method raises the spool's errors when the disk fails."""

    def __init__(self, database: ServiceDatabase, pace: Pace) -> None:
        self._database = database
        self._prune_at_s = time.monotonic()
        database.declare([_Study, _Step, _ScannerPace])
        with database.transaction():
            self._prune()
        with database.reading():
            rows = _ScannerPace.select().order_by(_ScannerPace.written_at_utc).execute(database.db)
            pace.load({row.calling_ae_title: json.loads(row.gaps_s) for row in rows})

    def unfinished(self) -> list[tuple[StudyRow, Sequence[int]]]:
        """Studies that were not complete, the longest quiet first."""
        with self._database.reading():
            rows = _Study.select().where(_Study.state != StudyState.COMPLETE).order_by(_Study.last_at_utc)
            return [(_study_row(row), _numbers(row.digests)) for row in rows.execute(self._database.db)]

    def find(self, study_instance_uid: str) -> tuple[StudyRow, Sequence[int]] | None:
        with self._database.reading():
            rows = _Study.select().where(_Study.study_instance_uid == study_instance_uid)
            row = next(iter(rows.execute(self._database.db)), None)
        return None if row is None else (_study_row(row), _numbers(row.digests))

    def latest(self, limit: int) -> list[StudyRow]:
        with self._database.reading():
            rows = _Study.select().order_by(_Study.written_at_utc.desc()).limit(limit)
            return [_study_row(row) for row in rows.execute(self._database.db)]

    def steps(self) -> dict[str, StepRow]:
        """By SOP Instance UID, the longest unchanged first."""
        with self._database.reading():
            rows = list(_Step.select().order_by(_Step.written_at_utc).execute(self._database.db))
        return {
            row.sop_instance_uid: StepRow(
                StepStatus(row.status),
                frozenset(json.loads(row.study_instance_uids)),
                frozenset(_numbers(row.expected)),
            )
            for row in rows
        }

    def written_until_utc(self) -> datetime | None:
        with self._database.reading():
            text = _Study.select(fn.MAX(_Study.written_at_utc)).scalar(self._database.db)
        return utc_from_text(text) if text else None

    def save(self, studies: Iterable[tuple[StudyRow, Collection[int]]], pace: Pace) -> None:
        """One transaction for all of them, and for what was learnt of scanners meanwhile."""
        studies, learnt, now = list(studies), pace.unwritten(), utc_text(datetime.now(UTC))
        if not studies and not learnt:
            return
        with self._database.transaction():
            self._prune()
            for row, digests in studies:
                _Study.replace(  # type: ignore[no-untyped-call]  # peewee's stubs
                    study_instance_uid=row.study_instance_uid,
                    calling_ae_title=row.calling_ae_title,
                    state=row.state,
                    evidence=row.evidence,
                    expected=row.expected,
                    received=row.received,
                    late=row.late,
                    first_at_utc=utc_text(row.first_at_utc),
                    last_at_utc=utc_text(row.last_at_utc),
                    completed_at_utc=utc_text(row.completed_at_utc) if row.completed_at_utc else None,
                    digests=_packed(digests),
                    written_at_utc=now,
                ).execute(self._database.db)
            for scanner, gaps in learnt.items():
                _ScannerPace.replace(  # type: ignore[no-untyped-call]  # peewee's stubs
                    calling_ae_title=scanner, gaps_s=json.dumps(gaps), written_at_utc=now
                ).execute(self._database.db)

    def save_step(
        self,
        sop_instance_uid: str,
        status: StepStatus,
        study_instance_uids: Collection[str],
        expected: Collection[int],
    ) -> None:
        with self._database.transaction():
            _Step.replace(  # type: ignore[no-untyped-call]  # peewee's stubs
                sop_instance_uid=sop_instance_uid,
                status=status,
                study_instance_uids=json.dumps(sorted(study_instance_uids)),
                expected=_packed(expected),
                written_at_utc=utc_text(datetime.now(UTC)),
            ).execute(self._database.db)

    def _prune(self) -> None:
        """Once a day, forget what is older than `KEPT`, and scanners beyond those that are told apart."""
        if time.monotonic() < self._prune_at_s:
            return
        self._prune_at_s = time.monotonic() + _PRUNE_EVERY_S
        old = utc_text(datetime.now(UTC) - KEPT)
        newest = (
            _ScannerPace.select(_ScannerPace.calling_ae_title)
            .order_by(_ScannerPace.written_at_utc.desc())
            .limit(MAX_SCANNERS)
        )
        _Study.delete().where(_Study.written_at_utc < old).execute(self._database.db)
        _Step.delete().where(_Step.written_at_utc < old).execute(self._database.db)
        _ScannerPace.delete().where(_ScannerPace.calling_ae_title.not_in(newest)).execute(self._database.db)


def _study_row(row: _Study) -> StudyRow:
    return StudyRow(
        study_instance_uid=row.study_instance_uid,
        calling_ae_title=row.calling_ae_title,
        state=StudyState(row.state),
        evidence=Evidence(row.evidence) if row.evidence else None,
        expected=row.expected,
        received=row.received,
        late=row.late,
        first_at_utc=utc_from_text(row.first_at_utc),
        last_at_utc=utc_from_text(row.last_at_utc),
        completed_at_utc=utc_from_text(row.completed_at_utc) if row.completed_at_utc else None,
    )


def _packed(digests: Collection[int]) -> bytes:
    return array.array("Q", digests).tobytes()


def _numbers(blob: bytes) -> Sequence[int]:
    numbers = array.array("Q")
    numbers.frombytes(bytes(blob))
    return numbers
