"""One record for a look that goes on: when it stands for the next, and when not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import peewee
import pytest

from central.audit import record as record_module
from central.audit import spans as spans_module
from central.audit.errors import AuditUnavailableError
from central.audit.looks import PAUSE_S
from central.audit.record import Action, Audit, AuditEvent
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
    return len(audit.search(limit=1000))


def test_a_record_stands_for_the_same_again_until_its_time_is_over(
    audit: Audit, spans: Spans, clock: Clock
) -> None:
    for now_s, recorded in ((0.0, 1), (1.0, 1), (SPAN_S - 0.1, 1), (SPAN_S, 2), (SPAN_S + 1, 2)):
        clock.now_s = now_s
        spans.record("s", LOOK)
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
    spans.record("s", LOOK)
    spans.record("s", replace(LOOK, **changed))  # type: ignore[arg-type]
    assert count(audit) == 2


def test_another_session_is_another_record(audit: Audit, spans: Spans) -> None:
    spans.record("s", LOOK)
    spans.record("t", LOOK)
    assert count(audit) == 2


def test_of_many_at_once_one_writes_and_all_wait_for_it(audit: Audit) -> None:
    at_it, go = threading.Event(), threading.Event()

    class Slow:
        can_write = True

        def record(self, event: AuditEvent) -> None:
            at_it.set()
            assert go.wait(60)
            audit.record(event)

    spans = Spans(Slow())  # type: ignore[arg-type]  # an Audit whose disk is slow
    with ThreadPoolExecutor(4) as pool:
        looks = [pool.submit(spans.record, "s", LOOK) for _ in range(4)]
        assert at_it.wait(60)
        assert not any(look.done() for look in looks)
        go.set()
        for look in looks:
            look.result(60)
    assert count(audit) == 1


def test_a_list_that_changed_is_recorded_anew(audit: Audit, spans: Spans) -> None:
    for shown, recorded in ((b"A", 1), (b"A", 1), (b"B", 2), (b"B", 2), (b"A", 3)):
        spans.record("s", LOOK)
        spans.record_shown("s", LOOK, shown)
        assert count(audit) == recorded, shown


def test_no_span_holds_while_nothing_can_be_written(audit: Audit, spans: Spans) -> None:
    spans.record("s", LOOK)
    audit.close()
    for look in (LOOK, replace(LOOK, series_instance_uid="1.2.4")):
        with pytest.raises(AuditUnavailableError):
            spans.record("s", look)


def test_a_disk_that_was_full_costs_the_looks_of_that_time_only(
    audit: Audit, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans.record("s", LOOK)
    with monkeypatch.context() as full:
        full.setattr(record_module, "end_of_chain", _full)
        with pytest.raises(AuditUnavailableError):
            audit.record(replace(LOOK, action=Action.SIGN_IN))
        with pytest.raises(AuditUnavailableError):
            spans.record("s", LOOK)
    spans.record("s", LOOK)
    assert count(audit) == 2
    spans.record("s", LOOK)
    assert count(audit) == 2


def _full(_db: object) -> tuple[int, str]:
    raise peewee.OperationalError("database or disk is full")


def test_what_is_remembered_is_bounded(audit: Audit, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans_module, "_MOST", 2)
    for session in ("a", "b", "c", "b", "a"):  # a made way for c, b for a
        spans.record(session, LOOK)
    assert count(audit) == 4
