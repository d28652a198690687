"""Events survive: restarts, torn files, a full list, a disk that fails, a central that forgot or a box restored."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.command import EventMark
from contract.heartbeat import Event, EventKind
from edge.uplink import outbox as module
from edge.uplink.outbox import MAX_EVENTS, Outbox


def filled(directory: Path, count: int) -> Outbox:
    outbox = Outbox(directory)
    for number in range(1, count + 1):
        outbox.add(EventKind.STARTED, f"event {number}")
    return outbox


def numbers(events: list[Event]) -> list[int]:
    return [event.number for event in events]


def mark(outbox: Outbox, through: int) -> EventMark:
    return EventMark(stream=outbox.waiting(1)[0].stream, through=through)


def test_events_wait_over_a_restart_until_central_has_them(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    again = Outbox(tmp_path)
    assert [(event.number, event.after) for event in again.waiting(9)] == [(1, 0), (2, 1), (3, 2)]
    again.acknowledge(mark(again, 2))
    assert numbers(Outbox(tmp_path).waiting(9)) == [3]
    third = Outbox(tmp_path)
    third.acknowledge(mark(third, 3))
    last = Outbox(tmp_path)
    assert last.waiting(9) == []
    last.add(EventKind.STARTED, "after all were acknowledged")
    assert numbers(last.waiting(9)) == [4], "a number is never used twice"


def test_a_torn_line_is_no_event_and_its_number_is_not_used_again(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    path = tmp_path / "events.jsonl"
    whole = path.read_bytes()
    last_line = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last_line + 1, len(whole) - 1):
        path.write_bytes(whole[:cut])
        torn = Outbox(tmp_path)
        assert numbers(torn.waiting(9)) == [1, 2]
        torn.add(EventKind.STARTED, "the next")
        assert numbers(Outbox(tmp_path).waiting(9)) == [1, 2, 4], cut


def test_a_file_that_is_none_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b"\x00\xffnonsense\n")
    outbox = filled(tmp_path, 1)
    assert numbers(outbox.waiting(9)) == [1]
    assert (tmp_path / "events.damaged").exists()


def test_the_list_is_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    outbox = filled(tmp_path, MAX_EVENTS + 1)
    waiting = outbox.waiting(MAX_EVENTS + 1)
    assert len(waiting) == MAX_EVENTS * 3 // 4
    assert waiting[-1].number == MAX_EVENTS + 1
    assert waiting[0].after == 0, "nothing before it is still to come"
    assert numbers(Outbox(tmp_path).waiting(MAX_EVENTS)) == numbers(waiting)


def test_a_mark_of_another_stream_is_nobodys(tmp_path: Path) -> None:
    outbox = filled(tmp_path, 2)
    outbox.acknowledge(EventMark(stream="0" * 16, through=2))
    assert numbers(outbox.waiting(9)) == [1, 2]


def test_a_box_restored_from_an_older_disk_begins_a_new_stream(tmp_path: Path) -> None:
    outbox = filled(tmp_path, 2)
    former = outbox.waiting(1)[0].stream
    outbox.acknowledge(EventMark(stream=former, through=9))  # central knows nine, this disk only two
    waiting = outbox.waiting(9)
    assert [(event.number, event.after) for event in waiting] == [(1, 0), (2, 1)]
    assert waiting[0].stream != former
    assert Outbox(tmp_path).waiting(9) == waiting


def test_a_disk_that_fails_costs_durability_and_not_the_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = filled(tmp_path, 1)
    with monkeypatch.context() as broken:
        broken.setattr(module.os, "fsync", _fails)
        outbox.add(EventKind.STARTED, "while the disk fails")
    assert numbers(outbox.waiting(9)) == [1, 2]
    outbox.add(EventKind.STARTED, "when it is well again")
    assert numbers(Outbox(tmp_path).waiting(9)) == [1, 2, 3]


def _fails(_descriptor: int) -> None:
    raise OSError(5, "Input/output error")


def test_nothing_is_written_while_nothing_happens(tmp_path: Path) -> None:
    outbox = filled(tmp_path, 2)
    before = (tmp_path / "events.jsonl").stat().st_mtime_ns
    for _ in range(10):
        outbox.waiting(50)
        outbox.acknowledge(EventMark(stream="0" * 16, through=2))
    assert (tmp_path / "events.jsonl").stat().st_mtime_ns == before
