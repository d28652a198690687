"""When a study is complete: what its scanner counted, else the end of its associations and a silence learnt from it.

Every instance is noted in memory; one thread waits for the next deadline and writes. Always true: the receiving
thread never waits for a disk here; memory is bounded whatever scanners send; a resend changes nothing, a late image
makes the study *reopened*, and what is new is counted as late, never the rest again. A crash loses at most
`FLUSH_S` of notes, which `restore` takes from the spool's own rows.

| state     | becomes   | when                                                                              |
|-----------|-----------|-----------------------------------------------------------------------------------|
| receiving | complete  | all steps ended and every instance they counted is here (evidence: procedure step) |
|           |           | associations closed and quiet for the learned time (association)                  |
|           |           | quiet for `OPEN_FACTOR` times that on an open association (idle)                  |
| complete  | reopened  | an instance that was not here before                                              |
| reopened  | complete  | as from receiving                                                                 |
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from contract.workflow import StepStatus
from edge.buffer.completeness_rows import CompletenessRows, Evidence, StudyRow, StudyState
from edge.buffer.errors import SpoolError
from edge.buffer.pace import Pace
from edge.buffer.study_standing import SeenInstance, StepReport, StudyStanding, digest_of, standing_of

FLUSH_S: Final = 60.0
OPEN_FACTOR: Final = 3
STEP_PATIENCE_S: Final = 4 * 3600.0
"""A step in progress keeps its study open this long after the last instance: a modality may never end it."""

MAX_STUDIES: Final = 512
MAX_STEPS: Final = 512
MAX_INSTANCES: Final = 200_000
"""Told apart in memory over all studies, 8 bytes each and Python's share. What is beyond is counted only."""

_HARD_MAX_STUDIES: Final = 4 * MAX_STUDIES  # while the disk does not let the thread make room

_log = logging.getLogger(__name__)


@dataclass
class _Step:
    status: StepStatus = StepStatus.IN_PROGRESS
    studies: set[str] = field(default_factory=set)
    expected: set[int] = field(default_factory=set)


@dataclass
class _Study:
    row: StudyRow
    digests: set[int]
    last_s: float
    longest_gap_s: float = 0.0
    closed: bool = False  # no association has sent of it since the last one ended
    awaited: set[int] = field(default_factory=set)  # counted by a step, not here
    dirty: bool = False
    joined: bool = False  # with what was kept of it, if it was here before


class Studies:
    """Safe from any thread.

    Parameters
    ----------
    on_change : told of each change of state, on the tracker's own thread; must not block for long.
    clock : monotonic seconds.
    """

    def __init__(
        self,
        rows: CompletenessRows,
        pace: Pace,
        *,
        on_change: Callable[[StudyStanding], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rows = rows
        self._pace = pace
        self._on_change = on_change
        self._clock = clock
        self._changed = threading.Condition()
        self._studies: OrderedDict[str, _Study] = OrderedDict()  # the longest quiet first
        self._steps: OrderedDict[str, _Step] = OrderedDict()
        self._instances = 0
        self._news: list[StudyStanding] = []
        self._flush_at_s: float | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="studies", daemon=True)
        for uid, step in rows.steps().items():
            self._steps[uid] = _Step(step.status, set(step.study_instance_uids), set(step.expected))
        for row, digests in rows.unfinished():
            self._take_up(row, digests)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what is not written yet, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._flush()

    def note_instance(
        self,
        calling_ae_title: str,
        study_instance_uid: str,
        series_instance_uid: str,
        sop_instance_uid: str,
    ) -> None:
        """An instance is durable here. Costs microseconds and touches no disk."""
        self._note(calling_ae_title, study_instance_uid, series_instance_uid, sop_instance_uid, live=True)

    def association_ended(self, calling_ae_title: str) -> None:
        """An association of that scanner is over, however it ended."""
        with self._changed:
            for study in self._studies.values():
                if study.row.calling_ae_title == calling_ae_title and not study.closed:
                    study.closed = True
            self._changed.notify_all()

    def note_procedure(self, report: StepReport) -> None:
        """A procedure step was created or changed. Never raises: what cannot be kept is logged."""
        with self._changed:
            step = self._steps.pop(report.sop_instance_uid, None) or _Step()
            step.status = report.status or step.status
            step.studies |= report.study_instance_uids
            if report.series is not None:
                step.expected = {
                    digest_of(series, instance)
                    for series, instances in report.series.items()
                    for instance in instances
                }
            self._steps[report.sop_instance_uid] = step
            while len(self._steps) > MAX_STEPS:
                self._steps.popitem(last=False)
            for uid in step.studies & self._studies.keys():
                self._expect(self._studies[uid])
                self._confirm(self._studies[uid])
            kept = (step.status, frozenset(step.studies), frozenset(step.expected))
            self._changed.notify_all()
        try:
            self._rows.save_step(report.sop_instance_uid, *kept)
        except SpoolError as error:
            _log.warning("a procedure step's counts could not be kept", extra={"reason": str(error)})

    def restore(self, instances: Iterable[SeenInstance]) -> None:
        """Note what the spool holds since `restore_from_utc`, after a crash; before `start`."""
        for seen in instances:
            if seen.study_instance_uid and seen.series_instance_uid and seen.sop_instance_uid:
                self._note(
                    seen.calling_ae_title,
                    seen.study_instance_uid,
                    seen.series_instance_uid,
                    seen.sop_instance_uid,
                    live=False,
                )

    def restore_from_utc(self) -> datetime | None:
        """Instances received before this are in what was written; None: nothing was ever written."""
        return self._rows.written_until_utc()

    def list_studies(self, limit: int) -> list[StudyStanding]:
        """The latest changed first."""
        kept = {row.study_instance_uid: row for row in self._rows.latest(limit)}
        with self._changed:
            kept |= {uid: study.row for uid, study in self._studies.items()}
            found = [standing_of(row) for row in kept.values()]
        return sorted(found, key=lambda study: study.last_at_utc, reverse=True)[:limit]

    def _note(
        self, calling_ae_title: str, study_uid: str, series_uid: str, instance_uid: str, *, live: bool
    ) -> None:
        digest, now_s = digest_of(series_uid, instance_uid), self._clock()
        with self._changed:
            study = self._studies.get(study_uid)
            if study is None:
                study = self._begin(calling_ae_title, study_uid, now_s)
            self._studies.move_to_end(study_uid)
            if digest in study.digests:
                return  # a resend
            row = study.row
            late = row.completed_at_utc is not None
            if live:
                if row.received:
                    study.longest_gap_s = max(study.longest_gap_s, now_s - study.last_s)
                study.closed = False
            if self._instances < MAX_INSTANCES:
                study.digests.add(digest)
                self._instances += 1
            study.last_s, study.dirty = now_s, True
            row.count(calling_ae_title, late=late)
            if self._flush_at_s is None:
                self._flush_at_s = now_s + FLUSH_S
                self._changed.notify_all()
            if row.state is StudyState.COMPLETE:
                self._turn(study, StudyState.REOPENED, None)
            if study.awaited:
                study.awaited.discard(digest)
                if not study.awaited:
                    self._judge(study, now_s)

    def _begin(self, calling_ae_title: str, study_uid: str, now_s: float) -> _Study:
        """A study that is not in memory. Whether it was here before, the thread looks up: this one must not wait."""
        now = datetime.now(UTC)
        row = StudyRow(study_uid, calling_ae_title, StudyState.RECEIVING, None, None, 0, 0, now, now, None)
        study = self._studies[study_uid] = _Study(row, set(), now_s)
        self._expect(study)
        while len(self._studies) > _HARD_MAX_STUDIES:
            self._forget(next(iter(self._studies)))
        self._changed.notify_all()
        return study

    def _take_up(self, row: StudyRow, digests: Iterable[int]) -> None:
        """Go on with a study of a former life; the associations of that time are gone."""
        study = _Study(row, set(digests), self._clock(), closed=True, joined=True)
        self._studies[row.study_instance_uid] = study
        self._instances += len(study.digests)
        self._expect(study)

    def _join(self) -> None:
        """Bring new studies together with what was kept of them."""
        with self._changed:
            fresh = [uid for uid, study in self._studies.items() if not study.joined]
        for uid in fresh:
            try:
                kept = self._rows.find(uid)
            except SpoolError as error:
                _log.warning("a former study could not be looked up", extra={"reason": str(error)})
                kept = None
            with self._changed:
                study = self._studies.get(uid)
                if study is None:
                    continue
                study.joined = True
                if kept is None:
                    self._news.append(standing_of(study.row))
                else:
                    self._join_one(study, *kept)

    def _join_one(self, study: _Study, kept: StudyRow, digests: Iterable[int]) -> None:
        known = set(digests)
        fresh = len(study.digests - known)
        self._instances += len(known - study.digests)
        study.digests |= known
        study.row = study.row.joined(kept, fresh)
        self._expect(study)
        if fresh and kept.state is StudyState.COMPLETE:
            self._turn(study, StudyState.REOPENED, None)

    def _make_room(self) -> None:
        """Let go of the longest quiet studies; one that was not complete yet counts as complete by its silence."""
        leaving: list[_Study] = []
        with self._changed:
            while len(self._studies) > MAX_STUDIES:
                uid, study = next(iter(self._studies.items()))
                if study.row.state is not StudyState.COMPLETE:
                    self._turn(study, StudyState.COMPLETE, Evidence.IDLE)
                self._forget(uid)
                leaving.append(study)
        self._save([study for study in leaving if study.dirty])

    def _forget(self, study_uid: str) -> None:
        self._instances -= len(self._studies.pop(study_uid).digests)

    def _expect(self, study: _Study) -> None:
        """Bring together what all steps of the study counted."""
        steps = self._steps_of(study)
        expected = set[int]().union(*(step.expected for step in steps))
        study.awaited = expected - study.digests
        study.row = study.row.expecting(len(expected) if expected else None)

    def _confirm(self, study: _Study) -> None:
        """A study that was complete by its silence turns out to be complete by count."""
        counted = study.row.expected is not None and not study.awaited
        ended = all(step.status is not StepStatus.IN_PROGRESS for step in self._steps_of(study))
        weaker = study.row.evidence in (Evidence.ASSOCIATION, Evidence.IDLE)
        if study.row.state is StudyState.COMPLETE and counted and ended and weaker:
            self._turn(study, StudyState.COMPLETE, Evidence.PROCEDURE_STEP)

    def _steps_of(self, study: _Study) -> list[_Step]:
        return [step for step in self._steps.values() if study.row.study_instance_uid in step.studies]

    def _deadline_s(self, study: _Study) -> float:
        """When the study will be complete if nothing more is heard of it."""
        steps = self._steps_of(study)
        if any(step.status is StepStatus.IN_PROGRESS for step in steps):
            return study.last_s + STEP_PATIENCE_S
        if steps and study.row.expected and not study.awaited:
            return study.last_s  # all that was counted is here
        quiet_s = self._pace.idle_s(study.row.calling_ae_title)
        patient = study.awaited or not study.closed
        return study.last_s + quiet_s * (OPEN_FACTOR if patient else 1)

    def _judge(self, study: _Study, now_s: float) -> bool:
        """Turn the study to complete if its time has come; True if it is complete now."""
        if study.row.state is StudyState.COMPLETE:
            return True
        if self._deadline_s(study) > now_s:
            return False
        counted = bool(study.row.expected) and not study.awaited
        evidence = (
            Evidence.PROCEDURE_STEP if counted else Evidence.ASSOCIATION if study.closed else Evidence.IDLE
        )
        self._turn(study, StudyState.COMPLETE, evidence)
        return True

    def _turn(self, study: _Study, state: StudyState, evidence: Evidence | None) -> None:
        ends = state is StudyState.COMPLETE and study.row.state is not StudyState.COMPLETE
        study.row, study.dirty = study.row.turned(state, evidence), True
        self._news.append(standing_of(study.row))
        if ends:
            self._pace.learn(study.row.calling_ae_title, study.longest_gap_s)
            study.longest_gap_s = 0.0
        self._flush_at_s = self._clock()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            self._join()
            self._make_room()
            with self._changed:
                now_s = self._clock()
                if any(not study.joined for study in self._studies.values()):
                    continue
                due = [
                    study for study in self._studies.values() if study.row.state is not StudyState.COMPLETE
                ]
                deadlines = [self._deadline_s(study) for study in due if not self._judge(study, now_s)]
                if self._flush_at_s is not None:
                    deadlines.append(self._flush_at_s)
                news, self._news = self._news, []
                if not news and not self._stopping and (not deadlines or min(deadlines) > now_s):
                    self._changed.wait(min(deadlines) - now_s if deadlines else None)
                    continue
                flush = self._flush_at_s is not None and self._flush_at_s <= now_s
            if flush:
                self._flush()
            for standing in news:
                self._tell(standing)
            if self._stopping:
                return

    def _tell(self, standing: StudyStanding) -> None:
        try:
            self._on_change(standing)
        except Exception:
            _log.exception("a study's news could not be handed on")

    def _flush(self) -> None:
        with self._changed:
            self._flush_at_s = None
            dirty = [study for study in self._studies.values() if study.dirty]
        self._save(dirty)

    def _save(self, studies: Iterable[_Study]) -> None:
        with self._changed:
            taken = [(replace(study.row), frozenset(study.digests)) for study in studies]
            for study in studies:
                study.dirty = False
        try:
            self._rows.save(taken, self._pace)
        except SpoolError as error:
            _log.warning("the studies' states could not be written", extra={"reason": str(error)})
            with self._changed:
                for study in studies:
                    study.dirty = True
                self._flush_at_s = self._clock() + FLUSH_S
