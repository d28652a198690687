"""Lending to the sender: leases, receipts, what is given back, and who waits."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contract.identifiers import ObjectId, new_object_id
from edge.buffer.errors import SpoolClosedError, StorageFailedError, UnknownObjectError, WrongStateError
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.buffer.upkeep import Upkeep
from tests.edge.buffer.instances import ORIGIN, claim, content_of, store, taken_files


def test_objects_are_claimed_oldest_first_and_once(spool: Spool) -> None:
    stored = [store(spool, number).object_id for number in range(3)]

    claimed = [claim(spool) for _ in range(3)]

    assert [one.object_id for one in claimed] == stored
    assert spool.queue.claim(lease_s=60) is None
    first = claimed[0]
    assert (first.sop_instance_uid, first.calling_ae_title, first.attempts) == ("1.2.3.0", "CT1", 1)
    assert first.size_bytes == len(content_of(0))
    assert abs(datetime.now(UTC) - first.received_at_utc) < timedelta(seconds=30)


def test_eight_claimants_never_share_an_object(spool: Spool) -> None:
    for number in range(24):
        store(spool, number, content=b"x")
    claimed: list[ObjectId] = []

    def work() -> None:
        while (one := spool.queue.claim(lease_s=60)) is not None:
            claimed.append(one.object_id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(claimed) == len(set(claimed)) == 24


def test_a_lease_that_ran_out_is_given_to_the_next(spool: Spool) -> None:
    store(spool, 1)
    first = claim(spool, lease_s=3)
    assert spool.queue.claim(lease_s=60) is None

    assert spool.queue.wait_for_work(60)

    again = claim(spool)
    assert (again.object_id, again.attempts) == (first.object_id, 2)


def test_only_a_receipt_frees_the_file(spool: Spool, tmp_path: Path) -> None:
    stored = store(spool, 1)
    with pytest.raises(WrongStateError) as caught:
        spool.queue.acknowledge(stored.object_id, "receipt")
    assert caught.value.found == State.READY
    claim(spool)

    spool.queue.acknowledge(stored.object_id, "the receipt")

    assert taken_files(spool, tmp_path) == []
    with pytest.raises(UnknownObjectError):
        spool.holdings.open_object(stored.object_id)
    (row,) = spool.holdings.list_objects(states=[State.FREED], limit=9)
    assert row.has_receipt
    assert row.freed_at_utc is not None
    with pytest.raises(WrongStateError):
        spool.queue.acknowledge(stored.object_id, "again")


def test_receipts_that_come_together_count_together_or_not_at_all(spool: Spool) -> None:
    for number in range(3):
        store(spool, number)
    lent = [claim(spool) for _ in range(2)]
    receipts = [(one.object_id, f"receipt {number}") for number, one in enumerate(lent)]
    (waiting,) = spool.holdings.list_objects(states=[State.READY], limit=9)
    with pytest.raises(WrongStateError):
        spool.queue.acknowledge_all([*receipts, (waiting.object_id, "for one that was never lent")])
    assert len(spool.holdings.list_objects(states=[State.SENDING], limit=9)) == 2

    spool.queue.acknowledge_all(receipts)

    freed = spool.holdings.list_objects(states=[State.FREED], limit=9)
    assert {row.object_id for row in freed if row.has_receipt} == {one.object_id for one in lent}


def test_a_pack_of_receipts_takes_no_more_transactions_than_one(spool: Spool) -> None:
    for number in range(10):
        store(spool, number)
    lent = [claim(spool).object_id for _ in range(10)]
    spool.queue.acknowledge(lent[0], "receipt")  # the first one forgets old receipts, too
    statements: list[str] = []
    spool._index.db.connection().set_trace_callback(statements.append)

    spool.queue.acknowledge(lent[1], "receipt")
    of_one = count_begun(statements)
    statements.clear()
    spool.queue.acknowledge_all([(object_id, "receipt") for object_id in lent[2:]])

    assert count_begun(statements) == of_one > 0
    assert {row.object_id for row in spool.holdings.list_objects(states=[State.FREED], limit=99)} == set(lent)
    assert not any(spool._files.unlink(object_id) for object_id in lent)


def count_begun(statements: list[str]) -> int:
    return sum(statement.startswith("BEGIN") for statement in statements)


def test_what_could_not_be_given_back_is_given_back_before_the_next_claim(spool: Spool) -> None:
    """The index takes nothing for a while: an hour's lease need not lapse for it."""
    lent, returned = (store(spool, number).object_id for number in range(2))
    assert [claim(spool, lease_s=3600).object_id for _ in range(2)] == [lent, returned]
    spool._index.db.pragma("query_only", 1)
    with pytest.raises(StorageFailedError):
        spool.queue.release(returned, error="this box failed", retry_in_s=0)
    with pytest.raises(StorageFailedError):
        spool.queue.claim(lease_s=60)
    assert spool.holdings.depth().by_state[State.SENDING].objects == 2
    spool._index.db.pragma("query_only", 0)

    again = claim(spool)

    assert (again.object_id, again.attempts) == (returned, 2)
    assert spool.queue.claim(lease_s=60) is None


@pytest.mark.parametrize("woken_by", ["a sender", "the upkeep"])
def test_what_central_has_goes_as_soon_as_the_index_takes_it(
    spool: Spool, tmp_path: Path, woken_by: str
) -> None:
    """Between the receipt and the rest the disk fills up; nobody restarts the box for it."""
    stored = store(spool, 1)
    claim(spool)
    spool._index.execute(
        "CREATE TEMP TRIGGER full BEFORE UPDATE ON objects WHEN NEW.state = 'freed' "
        "BEGIN SELECT RAISE(ABORT, 'full'); END",
        (),
    )
    spool.queue.acknowledge(stored.object_id, "receipt")
    assert len(taken_files(spool, tmp_path)) == 1
    upkeep = Upkeep(spool.room, spool.retained, spool.queue.catch_up)
    spool._index.execute("DROP TRIGGER full", ())

    if woken_by == "a sender":
        assert spool.queue.claim(lease_s=60) is None
    else:
        upkeep.start()
        upkeep.stop(30)

    (row,) = spool.holdings.list_objects(states=list(State), limit=9)
    assert (row.state, row.has_receipt) == (State.FREED, True)
    assert taken_files(spool, tmp_path) == []


def test_unknown_objects_are_refused(spool: Spool) -> None:
    with pytest.raises(UnknownObjectError):
        spool.queue.acknowledge(new_object_id(), "receipt")
    with pytest.raises(UnknownObjectError):
        spool.holdings.open_object(new_object_id())
    with pytest.raises(UnknownObjectError):
        spool.quarantine.requeue(new_object_id())


def test_a_released_object_comes_back_at_its_time(spool: Spool) -> None:
    store(spool, 1)
    first = claim(spool)

    spool.queue.release(first.object_id, error="central is away", retry_in_s=2)

    assert spool.queue.claim(lease_s=60) is None
    (row,) = spool.holdings.list_objects(states=[State.READY], limit=9)
    assert row.last_error == "central is away"
    assert row.next_attempt_in_s is not None
    assert 0 < row.next_attempt_in_s <= 2
    began_s = time.monotonic()
    assert spool.queue.wait_for_work(120)
    assert time.monotonic() - began_s < 60
    assert claim(spool).attempts == 2


def test_waiting_ends_with_an_arrival_a_timeout_and_the_close(spool: Spool) -> None:
    assert not spool.queue.wait_for_work(0.02)
    answers: list[bool] = []

    def wait() -> None:
        answers.append(spool.queue.wait_for_work(None))

    for wake in (lambda: store(spool, 1), spool.close):
        thread = threading.Thread(target=wait)
        thread.start()
        wake()
        thread.join(60)
        assert not thread.is_alive()
        if len(answers) == 1:
            claim(spool)

    assert answers == [True, False]
    with pytest.raises(SpoolClosedError):
        spool.queue.claim(lease_s=1)
    with pytest.raises(SpoolClosedError):
        spool.entrance.receive(ORIGIN)


def test_a_claim_walks_the_queue_and_does_not_sort_it(spool: Spool) -> None:
    seen: list[str] = []
    spool._index.db.connection().set_trace_callback(seen.append)
    store(spool, 1)
    claim(spool)
    spool.holdings.depth()
    spool._index.db.connection().set_trace_callback(None)
    plans = {
        text: str(spool._index.db.execute_sql(f"EXPLAIN QUERY PLAN {text}").fetchall())
        for text in seen
        if text.lstrip().startswith("SELECT") and "objects" in text
    }
    assert len(plans) >= 4
    for text, plan in plans.items():
        assert "live_by_" in plan or "object_id" in plan, text
        assert "TEMP B-TREE" not in plan, text
