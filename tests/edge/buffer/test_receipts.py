"""The step back of what central lost: whole or not at all, durable, and only from where it is allowed."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from contract.identifiers import ObjectId
from edge.buffer.errors import SpoolError
from edge.buffer.files import Place
from edge.buffer.receipts import Progress, forget_receipts
from edge.buffer.spool import Spool
from edge.buffer.states import MISS, RECALL, State
from tests.edge.buffer.instances import Central, content_of, identity, store

OpenSpool = Callable[..., Spool]
KEPT, GONE = timedelta(hours=1), timedelta(0)


def receipted(spool: Spool, number: int, retain: timedelta = GONE) -> ObjectId:
    spool.retained.period = retain
    object_id = store(spool, number).object_id
    assert spool.queue.claim_several(lease_s=60, max_objects=1, max_bytes=0, these=[object_id])
    spool.queue.acknowledge(object_id, f"receipt of {number}")
    return object_id


def states(spool: Spool) -> dict[ObjectId, State]:
    return {row.object_id: row.state for row in spool.holdings.list_objects(states=list(State), limit=100)}


def test_receipts_are_numbered_in_the_order_they_were_given(spool: Spool) -> None:
    ids = [receipted(spool, number, retain) for number, retain in ((1, GONE), (2, KEPT), (3, GONE))]
    since = spool.receipts.given_since(0, limit=10)
    assert [(one.number, one.object_id, one.token) for one in since] == [
        (number, object_id, f"receipt of {number}") for number, object_id in enumerate(ids, start=1)
    ]
    assert spool.receipts.given_before(3, limit=1) == since[1:2]
    assert spool.receipts.given_since(3, limit=10) == []


def test_each_central_has_a_progress_of_its_own(open_spool: OpenSpool) -> None:
    spool = open_spool()
    receipted(spool, 1)
    spool.receipts.advance(Progress(1))
    north = spool.receipts.checked_with("north")
    assert north.progress() == Progress(0)
    north.advance(Progress(7, 3))
    spool.close()
    spool = open_spool()
    assert spool.receipts.progress() == Progress(1)
    assert spool.receipts.checked_with("north").progress() == Progress(7, 3)
    assert spool.receipts.newest_number() == 7, "above every number that was ever checked"


def test_what_is_here_is_recalled_and_what_is_not_is_lost(
    open_spool: OpenSpool, receiving_central: Central
) -> None:
    spool = open_spool()
    kept, freed = receipted(spool, 1, KEPT), receipted(spool, 2, GONE)
    waiting = store(spool, 3).object_id
    progress = Progress(2, 1)
    voided = spool.receipts.void([kept, freed, waiting, ObjectId("f" * 32)], progress)
    assert (voided.recalled, voided.missed) == (1, 1)
    assert states(spool) == {kept: State.READY, freed: State.LOST, waiting: State.READY}
    assert spool.receipts.given_since(0, limit=10) == []
    assert spool.receipts.progress() == progress
    assert not spool.holdings.standing([identity(1).sop_instance_uid])[
        identity(1).sop_instance_uid
    ].at_central
    assert identity(2).sop_instance_uid not in spool.holdings.standing([identity(2).sop_instance_uid])
    again = spool.receipts.void([kept, freed], progress)  # void already: nothing to be done
    assert (again.recalled, again.missed) == (0, 0)
    assert receiving_central.unseal(spool, kept) == content_of(1)
    assert receipted(spool, 2) != freed  # sent again, and receipted
    assert spool.receipts.lost() == []
    assert freed not in states(spool)


def test_a_crash_in_the_middle_of_the_step_leaves_all_or_nothing(
    open_spool: OpenSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool()
    ids = [receipted(spool, number, KEPT) for number in (1, 2)] + [receipted(spool, 3, GONE)]
    before = states(spool)
    step, taken = spool._index.step_within, 0

    def breaks(*arguments: Any, **values: Any) -> None:
        nonlocal taken
        taken += 1
        if taken == 3:
            raise sqlite3.OperationalError("disk I/O error")
        step(*arguments, **values)

    monkeypatch.setattr(spool._index, "step_within", breaks)
    with pytest.raises((SpoolError, sqlite3.OperationalError)):
        spool.receipts.void(ids, Progress(3, 1))
    monkeypatch.undo()
    assert states(spool) == before
    assert spool.receipts.progress() == Progress()
    assert len(spool.receipts.given_since(0, limit=10)) == 3
    spool.receipts.void(ids, Progress(3, 1))
    # Killed here: what lies on the disk now is what the next life finds.
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "spool", killed)
    with_spool = Spool.open(killed, reserve_bytes=0, quarantine_max_bytes=1 << 20, keys=None)
    try:
        assert states(with_spool) == {ids[0]: State.READY, ids[1]: State.READY, ids[2]: State.LOST}
        assert with_spool.receipts.progress() == Progress(3, 1)
        assert [study.instances for study in with_spool.receipts.lost(untold=True)] == [1]
    finally:
        with_spool.close()


def test_an_object_whose_file_is_gone_is_lost_and_not_recalled(spool: Spool) -> None:
    object_id = receipted(spool, 1, KEPT)
    assert spool._files.place_of(object_id) is Place.OBJECTS
    spool._files.unlink(object_id)
    spool.receipts.void([object_id], Progress(1))
    assert states(spool) == {object_id: State.LOST}
    assert spool.queue.claim(lease_s=60) is None


def test_the_same_bytes_under_another_object_are_not_lost(spool: Spool) -> None:
    """Sent twice, freed once: the other is recalled, or central has it."""
    gone, here = receipted(spool, 1, GONE), receipted(spool, 1, KEPT)
    assert gone != here
    spool.receipts.void([gone], Progress(2))
    assert spool.receipts.lost() == []
    spool.receipts.void([here], Progress(2))
    assert spool.receipts.lost() == []
    assert (
        spool.holdings.standing([identity(1).sop_instance_uid])[identity(1).sop_instance_uid].at_central
        is False
    )
    assert spool.queue.claim(lease_s=60) is not None
    spool.queue.acknowledge(here, "again")
    assert states(spool).keys() == {here}


def test_people_are_told_once(spool: Spool) -> None:
    lost = [receipted(spool, number) for number in (1, 2)]
    spool.receipts.void(lost, Progress(2))
    (study,) = spool.receipts.lost(untold=True)
    assert (study.calling_ae_title, study.study_instance_uid, study.instances) == ("CT1", "1.2.9", 2)
    assert study.first_at_utc <= study.last_at_utc
    spool.receipts.note_told()
    assert spool.receipts.lost(untold=True) == []
    assert spool.receipts.lost() == [study]


def test_numbers_are_not_given_twice_after_receipts_were_forgotten(open_spool: OpenSpool) -> None:
    spool = open_spool()
    receipted(spool, 1)
    spool.receipts.advance(Progress(checked_through=1))
    forget_receipts(spool._index, older_than=timedelta(seconds=-1))
    assert states(spool) == {}
    receipted(spool, 2)
    assert [one.number for one in spool.receipts.given_since(1, limit=10)] == [2]


def test_an_index_of_a_former_version_gets_numbers_for_its_receipts(
    open_spool: OpenSpool, tmp_path: Path
) -> None:
    spool = open_spool()
    ids = [receipted(spool, number) for number in (1, 2)]
    store(spool, 3)
    spool.close()
    with sqlite3.connect(tmp_path / "spool" / "index.sqlite3") as db:
        db.execute("DROP INDEX receipts_by_number")
        db.execute("ALTER TABLE objects DROP COLUMN receipt_number")
        db.execute("DROP TABLE receipt_check")
    db.close()
    spool = open_spool()
    assert [one.object_id for one in spool.receipts.given_since(0, limit=10)] == ids
    assert receipted(spool, 4)
    assert [one.number for one in spool.receipts.given_since(0, limit=10)][-1] > 2


@pytest.mark.parametrize("state", [State.READY, State.SENDING, State.QUARANTINED, State.LOST])
def test_no_other_state_is_stepped_back(state: State) -> None:
    assert state not in (*RECALL.from_states, *MISS.from_states)
