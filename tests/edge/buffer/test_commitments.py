"""The store of commitment requests: durable before it answers, bounded, and ages that no clock can jump."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import edge.buffer.commitments as commitments
from edge.buffer.commitments import (
    Asker,
    CommitmentState,
    CommitmentStore,
    DuplicateTransactionError,
    Failure,
    Reference,
    TooManyPendingError,
)
from edge.buffer.service_database import ServiceDatabase

CT = "1.2.840.10008.5.1.4.1.1.2"
ASKER = Asker("CT1", "DICOMNET", "10.0.0.1")


def references(*uids: str) -> list[Reference]:
    return [Reference(CT, uid) for uid in uids]


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


Open = Callable[[], CommitmentStore]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reopen(tmp_path: Path, clock: Clock) -> Iterator[Open]:
    """The store in its next life; the one before is closed."""
    opened: list[ServiceDatabase] = []

    def opening() -> CommitmentStore:
        for database in opened:
            database.close()
        opened.append(ServiceDatabase(tmp_path / "services.sqlite3"))
        return CommitmentStore(opened[-1], clock=clock)

    yield opening
    for database in opened:
        database.close()


def test_a_request_goes_its_way_through_restarts(reopen: Open, clock: Clock) -> None:
    number = reopen().add("1.9", ASKER, references("1.1", "1.2", "1.3"))

    store = reopen()
    (waiting,) = store.waiting()
    assert (waiting.number, waiting.transaction_uid, waiting.asker) == (number, "1.9", ASKER)
    assert waiting.instances == 3
    assert store.references(number, first=1, limit=1) == references("1.2")
    store.decide(number, {1: 0x0112}, due_in_s=30)

    clock.now_s += 10
    assert [one.due_in_s for one in store.decided()] == [20]
    store = reopen()
    assert store.waiting() == []
    (decided,) = store.decided()
    assert decided.due_in_s <= 0  # after a restart everything is due
    assert store.verdict(number) == (
        references("1.1", "1.3"),
        [Failure(Reference(CT, "1.2"), 0x0112)],
    )
    assert store.last_error() == ""
    store.retry(number, error="nobody there", retry_in_s=60)
    assert store.last_error() == "nobody there"
    (later,) = store.decided()
    assert (later.attempts, later.due_in_s) == (1, 60)
    store.hurry("MR1")
    assert store.decided()[0].due_in_s == 60
    store.hurry("CT1")
    assert store.decided()[0].due_in_s <= 0

    store.deliver(number)
    assert reopen().counts() == {
        CommitmentState.WAITING: 0,
        CommitmentState.DECIDED: 0,
        CommitmentState.DELIVERED: 1,
        CommitmentState.ABANDONED: 0,
    }


def test_ages_count_what_was_run_and_are_written_down_now_and_then(reopen: Open, clock: Clock) -> None:
    store = reopen()
    clock.now_s += 500
    store.add("1.9", ASKER, references("1.1"))
    assert store.waiting()[0].age_s == 0
    clock.now_s += 100
    assert store.waiting()[0].age_s == 100
    store.tick()
    assert store.waiting()[0].age_s == 100

    clock.now_s = 5.0  # the next life's clock begins anew
    store = reopen()
    clock.now_s += 7
    assert store.waiting()[0].age_s == 107


def test_the_same_request_again_is_one(reopen: Open, clock: Clock) -> None:
    store = reopen()
    number = store.add("1.9", ASKER, references("1.1", "1.2"))
    clock.now_s += 50
    assert store.add("1.9", ASKER, references("1.1", "1.2")) == number
    assert store.waiting()[0].age_s == 50  # asking again buys no time

    store.decide(number, {0: 0x0112}, due_in_s=0)
    store.abandon(number, error="too late")
    moved = Asker("CT1", "OTHER", "10.0.0.9")
    assert store.add("1.9", moved, references("1.1", "1.2")) == number
    store.decide(number, {}, due_in_s=0)
    assert store.last_error() == ""  # of the former request
    store.deliver(number)
    assert store.add("1.9", moved, references("1.1", "1.2")) == number
    (again,) = store.waiting()
    assert (again.asker, again.age_s) == (moved, 0)
    assert store.verdict(number)[1] == []


@pytest.mark.parametrize("other", [("1.1",), ("1.1", "1.2", "1.3"), ("1.2", "1.1")])
def test_a_transaction_uid_in_use_for_others(other: tuple[str, ...], reopen: Open) -> None:
    store = reopen()
    store.add("1.9", ASKER, references("1.1", "1.2"))
    with pytest.raises(DuplicateTransactionError):
        store.add("1.9", ASKER, references(*other))
    store.add("1.9", Asker("MR1", "DICOMNET", "10.0.0.2"), references(*other))  # another scanner's own

    assert [one.instances for one in store.waiting()] == [2, len(other)]


def test_what_waits_is_bounded(reopen: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitments, "MAX_PENDING", 3)
    monkeypatch.setattr(commitments, "MAX_PENDING_INSTANCES", 10)
    store = reopen()
    first = store.add("1.1", ASKER, references(*(f"1.{n}" for n in range(8))))
    with pytest.raises(TooManyPendingError):
        store.add("1.2", ASKER, references("1.1", "1.2", "1.3"))
    store.add("1.3", ASKER, references("1.1"))
    store.add("1.4", ASKER, references("1.1"))
    with pytest.raises(TooManyPendingError):
        store.add("1.5", ASKER, references("1.1"))

    store.decide(first, {}, due_in_s=0)
    store.deliver(first)
    store.add("1.5", ASKER, references("1.1"))  # what ended makes room


def test_what_is_reconsidered_waits_again_without_the_old_reasons(reopen: Open, clock: Clock) -> None:
    store = reopen()
    number = store.add("1.9", ASKER, references("1.1", "1.2"))
    store.decide(number, {1: 0x0112}, due_in_s=0)
    clock.now_s += 10

    store.reconsider(number)

    assert [(one.number, one.age_s) for one in store.waiting()] == [(number, 10)]
    assert store.decided() == []
    store.decide(number, {0: 0x0112}, due_in_s=0)
    assert store.verdict(number) == (references("1.2"), [Failure(Reference(CT, "1.1"), 0x0112)])


def test_a_step_from_another_state_changes_nothing(reopen: Open) -> None:
    store = reopen()
    number = store.add("1.9", ASKER, references("1.1"))
    store.deliver(number)
    store.retry(number, error="x", retry_in_s=1)
    assert [one.number for one in store.waiting()] == [number]
    store.decide(number, {}, due_in_s=0)
    store.deliver(number)
    store.abandon(number, error="x")
    store.reconsider(number)
    assert store.counts()[CommitmentState.DELIVERED] == 1


def test_what_ended_is_forgotten_after_a_while(reopen: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitments, "_KEPT", commitments.timedelta(days=-1))
    store = reopen()
    number = store.add("1.9", ASKER, references("1.1"))
    store.add("1.10", ASKER, references("1.1"))
    store.decide(number, {}, due_in_s=0)
    store.deliver(number)
    store.tick()

    assert store.verdict(number) == ([], [])
    assert [one.transaction_uid for one in store.waiting()] == ["1.10"]
