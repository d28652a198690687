"""When a study is complete: by count, by association, by silence; late images; crashes; bounds."""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from contract.workflow import StepStatus
from edge.buffer import completeness, service_database
from edge.buffer.completeness import OPEN_FACTOR, Studies
from edge.buffer.completeness_rows import CompletenessRows, Evidence, StudyState
from edge.buffer.pace import MAX_SCANNERS, Pace
from edge.buffer.service_database import ServiceDatabase
from edge.buffer.study_standing import StepReport, StudyStanding

QUIET_S = 0.2


@dataclass
class Tracker:
    studies: Studies
    pace: Pace
    heard: queue.Queue[StudyStanding]

    def note(self, *instances: str, study: str = "1.2", series: str = "1.2.1", scanner: str = "CT1") -> None:
        for instance in instances:
            self.studies.note_instance(scanner, study, series, instance)

    def step(
        self,
        status: StepStatus | None,
        *made: str,
        uid: str = "9.9",
        study: str | None = "1.2",
        series: str = "1.2.1",
    ) -> None:
        self.studies.note_procedure(
            StepReport(
                uid,
                "CT1",
                status,
                frozenset({study} if study else ()),
                {series: frozenset(made)} if made else None,
            )
        )

    def next(self, state: StudyState) -> StudyStanding:
        standing = self.heard.get(timeout=60)
        assert standing.state is state, standing
        return standing

    def silent(self, for_s: float = 0.5) -> None:
        with pytest.raises(queue.Empty):
            self.heard.get(timeout=for_s)


OpenTracker = Callable[..., Tracker]


@pytest.fixture
def open_tracker(tmp_path: Path) -> Iterator[OpenTracker]:
    """Lives of one tracker; `crash` leaves the database as it is."""
    opened: list[tuple[Studies, ServiceDatabase]] = []

    def opening(quiet_s: float = QUIET_S, start: bool = True) -> Tracker:
        for studies, database in opened:
            studies.stop()
            database.close()
        opened.clear()
        database = ServiceDatabase(tmp_path / "services.sqlite3")
        pace = Pace(default_s=quiet_s, least_s=0.1, longest_s=60)
        heard: queue.Queue[StudyStanding] = queue.Queue()
        studies = Studies(CompletenessRows(database, pace), pace, on_change=heard.put)
        opened.append((studies, database))
        if start:
            studies.start()
        return Tracker(studies, pace, heard)

    yield opening
    for studies, database in opened:
        studies.stop()
        database.close()


@pytest.fixture
def tracker(open_tracker: OpenTracker) -> Tracker:
    return open_tracker()


def test_all_that_the_scanner_counted_is_complete_at_once(open_tracker: OpenTracker) -> None:
    tracker = open_tracker(quiet_s=3600)
    tracker.step(StepStatus.IN_PROGRESS)
    tracker.note("1", "2")
    tracker.next(StudyState.RECEIVING)
    tracker.step(StepStatus.COMPLETED, "1", "2", "3", study=None)
    tracker.note("3")
    done = tracker.next(StudyState.COMPLETE)
    assert (done.evidence, done.expected, done.received, done.late) == (Evidence.PROCEDURE_STEP, 3, 3, 0)


def test_the_count_may_come_last(open_tracker: OpenTracker) -> None:
    tracker = open_tracker(quiet_s=3600)
    tracker.note("1", "2")
    tracker.next(StudyState.RECEIVING)
    tracker.step(StepStatus.COMPLETED, "1", "2")
    assert tracker.next(StudyState.COMPLETE).evidence is Evidence.PROCEDURE_STEP


def test_two_steps_are_both_waited_for(open_tracker: OpenTracker) -> None:
    tracker = open_tracker(quiet_s=3600)
    tracker.note("1", "2")
    tracker.next(StudyState.RECEIVING)
    tracker.step(StepStatus.IN_PROGRESS, uid="9.8")
    tracker.step(StepStatus.COMPLETED, "1")
    tracker.silent()
    tracker.step(StepStatus.DISCONTINUED, "2", uid="9.8")
    assert tracker.next(StudyState.COMPLETE).expected == 2


def test_a_step_in_progress_outlasts_silence(tracker: Tracker) -> None:
    tracker.step(StepStatus.IN_PROGRESS)
    tracker.note("1")
    tracker.studies.association_ended("CT1")
    tracker.next(StudyState.RECEIVING)
    tracker.silent(QUIET_S * OPEN_FACTOR * 2)


def test_an_image_that_never_comes_is_said_with_the_count(tracker: Tracker) -> None:
    tracker.step(StepStatus.COMPLETED, "1", "2")
    tracker.note("1")
    tracker.studies.association_ended("CT1")
    tracker.next(StudyState.RECEIVING)
    done = tracker.next(StudyState.COMPLETE)
    assert (done.evidence, done.expected, done.received) == (Evidence.ASSOCIATION, 2, 1)


def test_association_closed_and_quiet(tracker: Tracker) -> None:
    began = time.monotonic()
    tracker.note("1", "2")
    tracker.studies.association_ended("MR1")  # somebody else's
    tracker.studies.association_ended("CT1")
    tracker.next(StudyState.RECEIVING)
    done = tracker.next(StudyState.COMPLETE)
    assert done.evidence is Evidence.ASSOCIATION
    assert done.expected is None
    assert time.monotonic() - began >= QUIET_S


def test_an_open_association_is_given_longer(tracker: Tracker) -> None:
    began = time.monotonic()
    tracker.note("1", "2")
    tracker.next(StudyState.RECEIVING)
    assert tracker.next(StudyState.COMPLETE).evidence is Evidence.IDLE
    assert time.monotonic() - began >= QUIET_S * OPEN_FACTOR


def test_a_late_image_reopens_and_a_resend_does_not(tracker: Tracker) -> None:
    tracker.note("1", "2")
    tracker.studies.association_ended("CT1")
    tracker.next(StudyState.RECEIVING)
    tracker.next(StudyState.COMPLETE)
    tracker.note("1", "2")
    tracker.silent()
    tracker.note("3")
    tracker.note("3")
    reopened = tracker.next(StudyState.REOPENED)
    assert (reopened.received, reopened.late) == (3, 1)
    tracker.studies.association_ended("CT1")
    again = tracker.next(StudyState.COMPLETE)
    assert (again.received, again.late) == (3, 1)


def test_the_same_instance_under_two_series_is_two(tracker: Tracker) -> None:
    tracker.note("1", series="1.2.1")
    tracker.note("1", series="1.2.2")
    assert tracker.studies.list_studies(10)[0].received == 2


def test_silence_that_the_count_confirms_is_said_again(tracker: Tracker) -> None:
    tracker.note("1")
    tracker.studies.association_ended("CT1")
    tracker.next(StudyState.RECEIVING)
    assert tracker.next(StudyState.COMPLETE).evidence is Evidence.ASSOCIATION
    tracker.step(StepStatus.COMPLETED, "1")
    assert tracker.next(StudyState.COMPLETE).evidence is Evidence.PROCEDURE_STEP


def test_a_late_image_after_a_restart_is_a_delta(open_tracker: OpenTracker) -> None:
    tracker = open_tracker()
    tracker.note(*map(str, range(50)))
    tracker.studies.association_ended("CT1")
    tracker.next(StudyState.RECEIVING)
    tracker.next(StudyState.COMPLETE)
    tracker = open_tracker()
    tracker.note(*map(str, range(50)))
    tracker.silent()
    tracker.note("late")
    reopened = tracker.next(StudyState.REOPENED)
    assert (reopened.received, reopened.late) == (51, 1)


def test_a_study_under_way_goes_on_after_a_stop(open_tracker: OpenTracker) -> None:
    tracker = open_tracker(quiet_s=3600)
    tracker.step(StepStatus.IN_PROGRESS)
    tracker.note("1", "2")
    tracker = open_tracker(quiet_s=3600)
    assert tracker.studies.restore_from_utc() is not None
    tracker.note("2", "3")
    tracker.step(StepStatus.COMPLETED, "1", "2", "3", study=None)
    done = tracker.next(StudyState.COMPLETE)
    assert (done.expected, done.received, done.evidence) == (3, 3, Evidence.PROCEDURE_STEP)


def test_what_a_crash_lost_comes_back_from_the_spools_rows(tmp_path: Path) -> None:
    def life() -> tuple[Studies, ServiceDatabase, queue.Queue[StudyStanding]]:
        database = ServiceDatabase(tmp_path / "services.sqlite3")
        pace = Pace(default_s=QUIET_S, least_s=0.1, longest_s=60)
        heard: queue.Queue[StudyStanding] = queue.Queue()
        return Studies(CompletenessRows(database, pace), pace, on_change=heard.put), database, heard

    studies, database, _ = life()
    studies.start()
    for number in range(10):
        studies.note_instance("CT1", "1.2", "1.2.1", str(number))
    database.close()  # nothing more gets to the disk: as if the power went

    again, database, heard = life()
    assert again.restore_from_utc() is None
    spool_rows = [
        SimpleNamespace(
            calling_ae_title="CT1",
            study_instance_uid="1.2" if number < 10 else None,
            series_instance_uid="1.2.1",
            sop_instance_uid=str(number),
        )
        for number in range(12)
    ]
    again.restore(spool_rows)  # type: ignore[arg-type]  # a row of the spool has more
    again.start()
    assert heard.get(timeout=60).state is StudyState.RECEIVING
    done = heard.get(timeout=60)
    assert (done.state, done.received) == (StudyState.COMPLETE, 10)
    again.stop()
    database.close()
    studies.stop()


def test_no_instance_waits_for_the_disk(
    open_tracker: OpenTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(service_database._PRAGMAS, "busy_timeout", 300_000)
    monkeypatch.setattr(completeness, "FLUSH_S", 0.0)  # its thread writes all the time
    tracker = open_tracker(quiet_s=3600)
    tracker.note("0")
    tracker.next(StudyState.RECEIVING)
    with contextlib.closing(sqlite3.connect(tmp_path / "services.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # from here nothing can be written
        noting = threading.Thread(target=tracker.note, args=tuple(map(str, range(20_000))))
        noting.start()
        noting.join(60)
        assert not noting.is_alive(), "it waits for the disk"
        other.execute("ROLLBACK")


def test_studies_beyond_the_bound_leave_memory_and_stay_on_record(
    open_tracker: OpenTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completeness, "MAX_STUDIES", 3)
    tracker = open_tracker(quiet_s=3600)
    states = []
    for number in range(5):
        tracker.note("1", study=f"1.{number}")
        states.append(tracker.heard.get(timeout=60))
        if number >= 3:
            states.append(tracker.heard.get(timeout=60))
    done = [standing for standing in states if standing.state is StudyState.COMPLETE]
    assert [standing.study_instance_uid for standing in done] == ["1.0", "1.1"]
    assert {standing.evidence for standing in done} == {Evidence.IDLE}
    assert {study.study_instance_uid for study in tracker.studies.list_studies(10)} == {
        f"1.{number}" for number in range(5)
    }


def test_a_callback_that_fails_ends_nothing(tmp_path: Path) -> None:
    database = ServiceDatabase(tmp_path / "services.sqlite3")
    pace = Pace(default_s=QUIET_S, least_s=0.1, longest_s=60)
    heard: queue.Queue[StudyStanding] = queue.Queue()

    def failing(standing: StudyStanding) -> None:
        heard.put(standing)
        raise ValueError("no")

    studies = Studies(CompletenessRows(database, pace), pace, on_change=failing)
    studies.start()
    studies.note_instance("CT1", "1.2", "1.2.1", "1")
    assert heard.get(timeout=60).state is StudyState.RECEIVING
    assert heard.get(timeout=60).state is StudyState.COMPLETE
    studies.stop()
    database.close()


class TestPace:
    def test_little_known_scanners_get_the_default(self) -> None:
        pace = Pace(default_s=120, least_s=20, longest_s=1800)
        for _ in range(4):
            pace.learn("CT1", 5)
        assert pace.idle_s("CT1") == 120
        pace.learn("CT1", 5)
        assert pace.idle_s("CT1") == 20  # 7.5 s would be below the bound

    def test_a_slow_scanner_is_waited_for_and_one_odd_study_is_not(self) -> None:
        pace = Pace(default_s=120, least_s=20, longest_s=1800)
        for _ in range(60):
            pace.learn("MR1", 200)
        pace.learn("MR1", 1500)
        pace.learn("MR1", 86_000)  # next day: no pause
        assert pace.idle_s("MR1") == 300

    def test_names_made_up_do_not_fill_it(self) -> None:
        pace = Pace(default_s=120, least_s=20, longest_s=1800)
        for number in range(MAX_SCANNERS * 2):
            pace.learn(f"X{number}", 1)
        assert len(pace.unwritten()) == MAX_SCANNERS

    def test_what_was_learnt_survives(self, open_tracker: OpenTracker) -> None:
        tracker = open_tracker()
        for _ in range(6):
            tracker.pace.learn("MR1", 20)
        tracker.note("1")
        tracker.studies.association_ended("CT1")
        tracker.next(StudyState.RECEIVING)
        tracker.next(StudyState.COMPLETE)
        assert open_tracker().pace.idle_s("MR1") == 30


def test_a_study_of_last_month_begins_anew(open_tracker: OpenTracker, tmp_path: Path) -> None:
    tracker = open_tracker()
    tracker.note("1")
    tracker.studies.association_ended("CT1")
    tracker.next(StudyState.RECEIVING)
    tracker.next(StudyState.COMPLETE)
    tracker.studies.stop()
    with sqlite3.connect(tmp_path / "services.sqlite3") as db:
        db.execute("UPDATE completeness_study SET written_at_utc = '2001-01-01T00:00:00.000000Z'")
    db.close()
    tracker = open_tracker()
    tracker.note("2")
    assert tracker.next(StudyState.RECEIVING).received == 1


def test_listed_with_the_latest_first(tracker: Tracker) -> None:
    tracker.note("1", study="1.1")
    tracker.note("1", study="1.2")
    listed = tracker.studies.list_studies(10)
    assert [study.study_instance_uid for study in listed] == ["1.2", "1.1"]
    assert listed[0].last_at_utc <= datetime.now(UTC)
    assert tracker.studies.list_studies(1) == listed[:1]
