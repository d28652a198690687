"""Who comes while another transaction is being synced shares the next one: its sync, and its failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import peewee
import pytest

from central.archive.together import Together
from contract.receipt import Outcome
from tests.central.archive.conftest import MakeFile, Stocked

BOUND_S = 60


class Writer:
    """What is written, transaction by transaction. The first one ends when it is `let_go`."""

    def __init__(self, fault: Callable[[Sequence[int]], Exception | None] = lambda items: None) -> None:
        self.transactions: list[list[int]] = []
        self.let_go = threading.Event()
        self._fault = fault

    def write_all(self, items: Sequence[int]) -> list[str]:
        self.transactions.append(list(items))
        assert self.let_go.wait(BOUND_S)
        error = self._fault(items)
        if error is not None:
            raise error
        return [f"wrote {item}" for item in items]


def written(writer: Writer, callers: Sequence[Sequence[int]], at_most: int = 100) -> list[list[Any]]:
    """What each caller is told when all the others come while the first one's transaction is under way."""
    together = Together(writer.write_all, at_most)
    with ThreadPoolExecutor(len(callers)) as threads:
        first = threads.submit(together.write, callers[0])
        until(lambda: bool(writer.transactions))
        others = [threads.submit(together.write, items) for items in callers[1:]]
        until(lambda: len(together._queue) == sum(map(len, callers[1:])))
        writer.let_go.set()
        return [one.result(BOUND_S) for one in (first, *others)]


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_who_comes_meanwhile_shares_one_transaction() -> None:
    writer = Writer()
    told = written(writer, [[0], [1], [2, 3], [4]])
    assert told == [["wrote 0"], ["wrote 1"], ["wrote 2", "wrote 3"], ["wrote 4"]]
    assert [sorted(one) for one in writer.transactions] == [[0], [1, 2, 3, 4]]


def test_a_transaction_has_a_largest_size() -> None:
    writer = Writer()
    assert written(writer, [[0], [1, 2, 3, 4, 5]], at_most=2)[1] == [f"wrote {item}" for item in range(1, 6)]
    assert writer.transactions == [[0], [1, 2], [3, 4], [5]]


def test_a_fault_of_the_database_is_of_all_who_shared_it_and_of_nobody_else() -> None:
    full = peewee.OperationalError("disk is full")
    writer = Writer(lambda items: full if 2 in items else None)
    told = written(writer, [[0], [1], [2], [3]])
    assert told == [["wrote 0"], [full], [full], [full]]
    assert len(writer.transactions) == 2, "and it was not tried again"


def test_a_fault_of_one_item_is_its_own() -> None:
    fault = ValueError("this one cannot be written")
    writer = Writer(lambda items: fault if 2 in items else None)
    assert written(writer, [[0], [1], [2], [3]]) == [["wrote 0"], ["wrote 1"], [fault], ["wrote 3"]]


def test_of_a_failed_commit_nobody_is_told_success_and_nothing_is_found(
    stocked: Stocked, made: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real index, whose one commit fails: its sharers are told so, and those before and after are there."""
    files = [made(StudyInstanceUID="1.2.9", SOPInstanceUID=f"1.2.9.{number}") for number in range(6)]
    assert stocked.put(files[0]) is Outcome.ARCHIVED
    db, failed = stocked.archive._db, []
    commit = db.commit

    def fail(*arguments: object) -> None:
        if not failed:
            failed.append(True)
            raise peewee.OperationalError("disk I/O error")
        commit(*arguments)

    def put(content: bytes) -> bool:
        try:
            return stocked.put(content) is Outcome.ARCHIVED
        except peewee.OperationalError:
            return False

    monkeypatch.setattr(db, "commit", fail)
    with ThreadPoolExecutor(5) as threads:
        told = list(threads.map(put, files[1:]))
    monkeypatch.undo()
    assert not all(told)
    found = {row.sop_instance_uid for row in stocked.archive.reading.instances_of(stocked.grant("1.2.9"))}
    expected = {f"1.2.9.{number}" for number, ok in enumerate([True, *told]) if ok}
    assert found == expected
    assert all(stocked.put(content) in (Outcome.ARCHIVED, Outcome.DUPLICATE) for content in files)
