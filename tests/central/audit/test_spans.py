"""One record for a look that goes on: when it stands for the next, and when not."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import peewee
import pytest

from central.audit import record as record_module
from central.audit import spans as spans_module
from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, AuditEvent
from central.audit.looks import PAUSE_S
from central.audit.reading import Wanted
from central.audit.record import Audit
from central.audit.spans import SPAN_S, Spans
from tests.central.databases import open_record

LOOK = AuditEvent("house", "doctor", Action.VIEW, "success", "::1", "1.2", "1.2.3", detail="frames")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[Audit]:
    audit = open_record(tmp_path)
    yield audit
    audit.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spans(audit: Audit, clock: Clock) -> Spans:
    return Spans(audit, clock)


def count(audit: Audit) -> int:
    return len(audit.newest(Wanted(), limit=1000))


def test_a_record_stands_for_the_same_again_until_its_time_is_over(
    audit: Audit, spans: Spans, clock: Clock
) -> None:
    for now_s, recorded in ((0.0, 1), (1.0, 1), (SPAN_S - 0.1, 1), (SPAN_S, 2), (SPAN_S + 1, 2)):
        clock.now_s = now_s
        spans.begin("s", LOOK).wait()
        assert count(audit) == recorded
    assert SPAN_S < PAUSE_S, "what goes on is one look to a patient"


@pytest.mark.parametrize(
    "changed",
    [
        {"actor": "wilson"},
        {"actor_role": "radiologist"},
        {"action": Action.EXPORT},
        {"source_address": "::2"},
        {"study_instance_uid": "1.3"},
        {"series_instance_uid": "1.2.4"},
        {"detail": "frames, opened in an emergency"},
        {"institutions": frozenset({"north"})},
    ],
)
def test_whatever_else_it_is_is_another_record(
    audit: Audit, spans: Spans, changed: dict[str, object]
) -> None:
    spans.begin("s", LOOK).wait()
    spans.begin("s", replace(LOOK, **changed)).wait()  # type: ignore[arg-type]
    assert count(audit) == 2


def test_another_session_is_another_record(audit: Audit, spans: Spans) -> None:
    spans.begin("s", LOOK).wait()
    spans.begin("t", LOOK).wait()
    assert count(audit) == 2


def test_of_many_at_once_one_writes_and_all_wait_for_it(audit: Audit, spans: Spans) -> None:
    with audit._write_lock, ThreadPoolExecutor(4) as pool:
        looks = [pool.submit(spans.begin("s", LOOK).wait) for _ in range(4)]
        assert not any(look.done() for look in looks)
        audit._write_lock.release()
        try:
            for look in looks:
                look.result(60)
        finally:
            audit._write_lock.acquire()
    assert count(audit) == 1


def test_a_list_that_changed_is_recorded_anew(audit: Audit, spans: Spans) -> None:
    for shown, recorded in ((b"A", 1), (b"A", 1), (b"B", 2), (b"B", 2), (b"A", 3)):
        spans.begin("s", LOOK).wait()
        if (changed := spans.begin_shown("s", LOOK, shown)) is not None:
            changed.wait()
        assert count(audit) == recorded, shown


def test_no_span_holds_while_nothing_can_be_written(audit: Audit, spans: Spans) -> None:
    spans.begin("s", LOOK).wait()
    audit.close()
    for look in (LOOK, replace(LOOK, series_instance_uid="1.2.4")):
        with pytest.raises(AuditUnavailableError):
            spans.begin("s", look).wait()


def test_a_disk_that_was_full_costs_the_looks_of_that_time_only(
    audit: Audit, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans.begin("s", LOOK).wait()
    with monkeypatch.context() as full:
        full.setattr(record_module, "end_of_chain", _full)
        with pytest.raises(AuditUnavailableError):
            audit.record(replace(LOOK, action=Action.SIGN_IN))
        with pytest.raises(AuditUnavailableError):
            spans.begin("s", LOOK).wait()
    spans.begin("s", LOOK).wait()
    assert count(audit) == 2
    spans.begin("s", LOOK).wait()
    assert count(audit) == 2


def _full(_db: object) -> tuple[int, str]:
    raise peewee.OperationalError("database or disk is full")


def test_what_is_remembered_is_bounded(audit: Audit, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans_module, "_MOST", 2)
    for session in ("a", "b", "c", "b", "a"):  # a made way for c, b for a
        spans.begin(session, LOOK).wait()
    assert count(audit) == 4
