"""What central has and the site wants near: kept, given out, and gone when its time or the room is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contract.identifiers import ObjectId
from edge.buffer import retention
from edge.buffer.coding_pace import Coding
from edge.buffer.errors import UnknownObjectError, WrongStateError
from edge.buffer.records import RecoveryReport
from edge.buffer.retention import Freeing
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.buffer.tables import SpoolObject, utc_text
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import Central, content_of, held_files, store

DAY = timedelta(days=1)


def receipted(spool: Spool, number: int) -> ObjectId:
    """Store an instance and let central have it."""
    stored = store(spool, number)
    claimed = spool.queue.claim(lease_s=60)
    assert claimed is not None
    assert claimed.object_id == stored.object_id
    spool.queue.acknowledge(stored.object_id, f"the receipt of {number}")
    return stored.object_id


def counts(spool: Spool) -> dict[State, int]:
    return {state: tally.objects for state, tally in spool.holdings.depth().by_state.items() if tally.objects}


def files(root: Path) -> set[str]:
    return {path.stem for path in held_files(root)}


def let_age(spool: Spool, object_id: ObjectId, by: timedelta) -> None:
    received = utc_text(datetime.now(UTC) - by)
    spool.holdings.depth()  # its row is in the index
    SpoolObject.update(received_at_utc=received).where(SpoolObject.object_id == object_id).execute(
        spool._index.db
    )


def test_by_default_a_receipt_frees_at_once(spool: Spool, tmp_path: Path) -> None:
    receipted(spool, 1)
    assert counts(spool) == {}
    assert files(tmp_path) == set()


def test_what_is_retained_is_there_and_no_work(
    open_spool: OpenSpool, tmp_path: Path, receiving_central: Central
) -> None:
    spool = open_spool(retain=DAY)
    object_id = receipted(spool, 1)

    assert counts(spool) == {State.RETAINED: 1}
    assert spool.holdings.depth().unsent.objects == 0
    assert spool.queue.claim(lease_s=1) is None
    assert not spool.queue.wait_for_work(0.01)
    assert receiving_central.unseal(spool, object_id) == content_of(1)
    (row,) = spool.holdings.list_objects(states=[State.RETAINED], limit=9)
    assert row.has_receipt
    assert files(tmp_path) == {object_id}
    assert spool.holdings.standing(["1.2.3.1"])["1.2.3.1"].at_central
    with pytest.raises(WrongStateError):
        spool.queue.acknowledge(object_id, "again")
    with pytest.raises(WrongStateError):
        spool.quarantine.requeue(object_id)


def test_a_resend_of_what_is_retained_adds_nothing(open_spool: OpenSpool, tmp_path: Path) -> None:
    spool = open_spool(retain=DAY)
    object_id = receipted(spool, 1)

    again = store(spool, 1)
    other = store(spool, 1, content=b"the same UID, another image")

    assert (again.outcome, again.object_id) == ("duplicate", object_id)
    assert other.outcome == "stored"
    assert files(tmp_path) == {object_id, other.object_id}


def test_a_restart_keeps_what_is_retained_and_repairs_nothing(
    open_spool: OpenSpool, receiving_central: Central
) -> None:
    spool = open_spool(retain=DAY)
    object_id = receipted(spool, 1)
    spool.close()

    spool = open_spool(retain=DAY)

    assert spool.recovery == RecoveryReport()
    assert counts(spool) == {State.RETAINED: 1}
    assert receiving_central.unseal(spool, object_id) == content_of(1)


def test_a_retained_file_that_is_gone_is_no_damage(open_spool: OpenSpool, tmp_path: Path) -> None:
    """A power cut may take the row's last step and leave the unlink."""
    spool = open_spool(retain=DAY)
    object_id = receipted(spool, 1)
    spool.close()
    next(tmp_path.rglob(f"{object_id}.sealed")).unlink()

    spool = open_spool(retain=DAY)

    assert spool.recovery == RecoveryReport(frees_finished=1)
    assert counts(spool) == {}


def test_what_arrived_too_long_ago_is_freed_and_nothing_else(open_spool: OpenSpool, tmp_path: Path) -> None:
    spool = open_spool(retain=DAY)
    old, young = receipted(spool, 1), receipted(spool, 2)
    unsent = store(spool, 3).object_id
    for object_id in (old, unsent):
        let_age(spool, object_id, 2 * DAY)

    freed = spool.retained.free(Freeing(before_utc=datetime.now(UTC) - DAY))

    assert freed.objects == 1
    assert files(tmp_path) == {young, unsent}
    (row,) = spool.holdings.list_objects(states=[State.FREED], limit=9)
    assert (row.object_id, row.has_receipt) == (old, True)
    with pytest.raises(UnknownObjectError):
        spool.holdings.open_object(old)


def test_what_waited_for_central_longer_than_that_is_freed_by_its_receipt(open_spool: OpenSpool) -> None:
    spool = open_spool(retain=DAY)
    stored = store(spool, 1)
    let_age(spool, stored.object_id, 2 * DAY)
    claimed = spool.queue.claim(lease_s=60)
    assert claimed is not None

    spool.queue.acknowledge(claimed.object_id, "receipt")

    assert counts(spool) == {}


def test_wanted_room_takes_the_oldest_and_no_more_than_is_wanted(
    open_spool: OpenSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "AT_ONCE", 2)
    spool = open_spool(retain=DAY, coding=Coding.NEVER)
    retained = [receipted(spool, number) for number in range(6)]
    one_bytes = spool.holdings.depth().by_state[State.RETAINED].stored_bytes // 6

    assert spool.retained.free(Freeing(want_bytes=4 * one_bytes + 1)).objects == 5
    assert files(tmp_path) == set(retained[5:])
    assert spool.retained.free(Freeing()).objects == 0
    assert spool.retained.free(Freeing(want_files=9)).objects == 1
    assert counts(spool) == {}
