"""What a further central is owed, as a forwarder borrows it: leases, several at once, order, ends."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from contract.identifiers import ObjectId
from contract.priority import Priority
from edge.buffer.delivery_queue import DeliveryQueue
from edge.buffer.errors import SpoolClosedError, StorageFailedError
from edge.buffer.records import Claimed
from edge.buffer.spool import Spool
from edge.buffer.states import State
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import store
from tests.edge.buffer.test_deliveries import LONG_S, counts, receipt, state_of, to

NORTH = "north"


def filled(
    open_spool: OpenSpool, objects: int, **settings: object
) -> tuple[Spool, DeliveryQueue, list[ObjectId]]:
    spool = open_spool(route=to(NORTH), copies=(NORTH,), **settings)
    return (
        spool,
        spool.owed_to(NORTH),
        [store(spool, number, b"x" * 900).object_id for number in range(1, objects + 1)],
    )


def ids(claims: list[Claimed]) -> list[ObjectId]:
    return [claimed.object_id for claimed in claims]


def several(
    queue: DeliveryQueue, most: int, max_bytes: int = 1 << 30, these: tuple[ObjectId, ...] = ()
) -> list[ObjectId]:
    return ids(queue.claim_several(lease_s=LONG_S, max_objects=most, max_bytes=max_bytes, these=these))


def test_a_lease_holds_for_one_central_and_ends_with_the_process(open_spool: OpenSpool) -> None:
    spool, queue, objects = filled(open_spool, 3)
    assert several(queue, 2) == objects[:2]
    assert several(queue, 2) == objects[2:]
    assert several(queue, 2) == []
    first = spool.queue.claim(lease_s=LONG_S)
    assert first is not None
    assert first.object_id == objects[0], "the first central has leases of its own"
    queue.release(objects[1], error="busy", retry_in_s=0)
    again = queue.claim(lease_s=LONG_S)
    assert again is not None
    assert (again.object_id, again.attempts, again.sop_instance_uid) == (objects[1], 2, "1.2.3.2")
    queue.release(objects[1], error="busy", retry_in_s=LONG_S)
    assert queue.claim(lease_s=LONG_S) is None
    spool.close()
    spool = open_spool(route=to(NORTH))
    assert several(spool.owed_to(NORTH), 9) == objects


def test_what_could_not_be_given_back_is_given_back_before_the_next_claim(open_spool: OpenSpool) -> None:
    spool, queue, objects = filled(open_spool, 2)
    assert several(queue, 2) == objects
    spool._index.db.pragma("query_only", 1)
    with pytest.raises(StorageFailedError):
        queue.release(objects[1], error="this box failed", retry_in_s=0)
    spool._index.db.pragma("query_only", 0)
    assert several(queue, 2) == objects[1:]


def test_what_was_interrupted_goes_on_as_it_was_or_not_at_all(open_spool: OpenSpool) -> None:
    _, queue, objects = filled(open_spool, 3)
    these = tuple(objects[:2])
    assert several(queue, 9, these=these) == objects[:2]
    for one in these:
        queue.release(one, error="the line broke", retry_in_s=LONG_S)
    assert several(queue, 9, these=these) == objects[:2], "before their time"
    queue.acknowledge_all([(objects[0], "a receipt")])
    assert several(queue, 9, these=these) == []


def test_several_go_as_far_as_they_fit_and_what_is_urgent_goes_first(open_spool: OpenSpool) -> None:
    ranks = {"1.2.3.3": Priority.STAT, "1.2.3.4": Priority.FIRST}
    spool, queue, objects = filled(
        open_spool,
        5,
        rank=lambda label: ranks.get(label.identity.sop_instance_uid, Priority.ROUTINE),  # type: ignore[union-attr]
    )
    size = spool.holdings.list_objects(states=[State.READY], limit=1)[0].stored_bytes
    assert several(queue, 9, 3 * size + 9) == [objects[3], objects[2], objects[0]]
    assert several(queue, 9, 1) == [objects[1]], "one goes whatever its size"


def test_a_receipt_is_kept_and_frees_what_waited_for_nothing_else(open_spool: OpenSpool) -> None:
    spool, queue, (object_id,) = filled(open_spool, 1)
    assert several(queue, 1) == [object_id]
    receipt(spool)
    assert state_of(spool, object_id) is State.OWED
    assert not spool.holdings.standing(["1.2.3.1"])["1.2.3.1"].at_central
    queue.acknowledge_all([(object_id, "north's receipt")])
    assert state_of(spool, object_id) is State.FREED
    assert spool.holdings.standing(["1.2.3.1"])["1.2.3.1"].at_central
    kept = spool._index.execute("SELECT state, receipt FROM deliveries", ()).fetchall()
    assert kept == [("delivered", "north's receipt")]


def test_what_it_refuses_is_set_aside_and_given_up_stays_given_up(open_spool: OpenSpool) -> None:
    spool, queue, objects = filled(open_spool, 2)
    several(queue, 2)
    queue.set_aside(objects[0], reason="unknown key")
    assert counts(spool, NORTH) == (1, 1)
    spool.deliveries.give_up(NORTH, objects[1])
    queue.acknowledge_all([(objects[1], "too late")])
    assert spool._index.execute("SELECT receipt FROM deliveries WHERE state = 'given-up'", ()).fetchone() == (
        None,
    )
    spool.close()
    with pytest.raises(SpoolClosedError):
        queue.wait_for_work(None)


def test_an_index_and_labels_of_an_older_program_go_on(open_spool: OpenSpool, tmp_path: Path) -> None:
    """Columns and indexes are added; what was there is of no station, and opened by the first central alone."""
    spool, _, (object_id,) = filled(open_spool, 1)
    spool.queue.prioritise("1.2.9", Priority.FIRST)
    spool.close()
    with closing(sqlite3.connect(tmp_path / "spool" / "index.sqlite3")) as older, older:
        for index in ("live_by_study_2", "live_by_priority_2"):
            older.execute(f"DROP INDEX {index}")
        for column in ("station", "department", "sealed_for"):
            older.execute(f"ALTER TABLE objects DROP COLUMN {column}")
        older.execute("ALTER TABLE deliveries DROP COLUMN receipt")
        older.execute("DROP TABLE study_priorities")
        older.execute("CREATE INDEX live_by_study ON objects (study_instance_uid) WHERE freed_at_utc IS NULL")
    spool = open_spool(route=to(NORTH), copies=(NORTH,))
    queue = spool.owed_to(NORTH)
    assert several(queue, 9) == [object_id]
    assert spool.queue.claim_several(lease_s=1, max_objects=1, max_bytes=0, opened_by=["00" * 16]) == []
    assert receipt(spool) == object_id
    queue.acknowledge_all([(object_id, "north's receipt")])
    assert state_of(spool, object_id) is State.FREED
    names = {name for (name,) in spool._index.execute("SELECT name FROM sqlite_master", ()).fetchall()}
    assert "live_by_study" not in names
    assert {"live_by_study_2", "live_by_priority_2", "study_priorities"} <= names
