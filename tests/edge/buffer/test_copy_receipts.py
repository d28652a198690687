"""The step back of what a copy central lost: its own row alone, whole or not at all, and the file stays for it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from contract.identifiers import ObjectId
from edge.buffer.copy_receipts import CopyReceipts
from edge.buffer.errors import SpoolError
from edge.buffer.receipts import Progress
from edge.buffer.spool import Spool
from edge.buffer.states import State
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import Central, content_of, store
from tests.edge.buffer.test_deliveries import LONG_S, counts, receipt, state_of, to

NORTH, SOUTH = "north", "south"
KEPT, GONE = timedelta(hours=1), timedelta(0)


def copying(open_spool: OpenSpool) -> tuple[Spool, CopyReceipts]:
    spool = open_spool(route=to(NORTH, SOUTH), copies=(NORTH, SOUTH))
    return spool, spool.receipts_of_copy(NORTH)


def sign(spool: Spool, central: str, object_id: ObjectId, token: str) -> None:
    queue = spool.owed_to(central)
    assert queue.claim_several(lease_s=LONG_S, max_objects=1, max_bytes=0, these=[object_id])
    queue.acknowledge_all([(object_id, token)])


def everywhere(spool: Spool, number: int, retain: timedelta) -> ObjectId:
    """Signed for by all three."""
    spool.retained.period = retain
    object_id = store(spool, number).object_id
    assert receipt(spool) == object_id
    for central in (NORTH, SOUTH):
        sign(spool, central, object_id, f"{central}'s receipt of {number}")
    return object_id


def is_at_every_central(spool: Spool, number: int) -> bool | None:
    found = spool.holdings.standing([f"1.2.3.{number}"]).get(f"1.2.3.{number}")
    return found and found.at_central


def test_each_numbers_its_own_in_the_order_they_were_given(open_spool: OpenSpool) -> None:
    spool, north = copying(open_spool)
    first, second = (store(spool, number).object_id for number in (1, 2))
    for _ in range(2):
        receipt(spool)
    for central, object_id in ((NORTH, second), (SOUTH, first), (NORTH, first)):
        sign(spool, central, object_id, f"{central}'s")
    given = north.given_since(0, limit=9)
    assert [(one.number, one.object_id, one.token) for one in given] == [
        (1, second, "north's"),
        (2, first, "north's"),
    ]
    assert given[0].sha256 != given[1].sha256
    assert north.given_before(2, limit=1) == given[:1]
    assert [one.object_id for one in spool.receipts_of_copy(SOUTH).given_since(0, limit=9)] == [first]
    north.advance(Progress(5))
    assert spool.receipts.progress() == spool.receipts_of_copy(SOUTH).progress() == Progress()
    assert spool.receipts.checked_with(NORTH).progress() == Progress(), "as a stand-in it had other receipts"
    assert north.newest_number() == 5


def test_what_is_here_is_owed_again_and_what_is_not_is_lost_there_alone(
    open_spool: OpenSpool, receiving_central: Central
) -> None:
    spool, north = copying(open_spool)
    kept, freed = everywhere(spool, 1, KEPT), everywhere(spool, 2, GONE)
    waiting = store(spool, 3).object_id  # the first has not signed for this one
    sign(spool, NORTH, waiting, "north's")
    voided = north.void([kept, freed, waiting, ObjectId("f" * 32)], Progress(3, 1))
    assert (voided.recalled, voided.missed) == (2, 1)
    assert counts(spool, NORTH) == (2, 0)
    assert [state_of(spool, one) for one in (kept, freed, waiting)] == [State.OWED, State.FREED, State.READY]
    assert len(spool.receipts.given_since(0, limit=9)) == 2, "the first keeps its receipts"
    assert len(spool.receipts_of_copy(SOUTH).given_since(0, limit=9)) == 2
    assert north.given_since(0, limit=9) == []
    (lost,) = north.lost(untold=True)
    assert (lost.central, lost.instances, lost.at_another) == (NORTH, 1, True)
    assert spool.lost_studies() == [lost]
    north.note_told()
    assert north.lost(untold=True) == []
    assert is_at_every_central(spool, 1) is False
    assert is_at_every_central(spool, 2) is None, "nobody vouches for it: the scanner sends it again"
    again = north.void([kept, freed, waiting], Progress(3, 1))
    assert (again.recalled, again.missed) == (0, 0)

    assert spool.owed_to(NORTH).claim(lease_s=0) is not None, "due at once, the oldest first"
    assert receiving_central.unseal(spool, kept) == content_of(1)
    spool.retained.period = KEPT
    sign(spool, NORTH, kept, "north's once more")
    assert state_of(spool, kept) is State.RETAINED
    assert is_at_every_central(spool, 1) is True
    assert north.given_since(0, limit=9)[0].number == 4, "above every number that was given"
    assert receipt(spool) == waiting
    everywhere(spool, 2, GONE)
    assert spool.lost_studies() == []
    assert is_at_every_central(spool, 2) is True


def test_a_crash_in_the_middle_leaves_all_or_nothing_and_the_file_stays(
    open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, north = copying(open_spool)
    ids = [everywhere(spool, number, KEPT) for number in (1, 2)]
    step, taken = spool._index.step_within, 0

    def breaks(*arguments: object, **values: object) -> None:
        nonlocal taken
        taken += 1
        if taken == 2:
            raise sqlite3.OperationalError("disk I/O error")
        step(*arguments, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(spool._index, "step_within", breaks)
    with pytest.raises((SpoolError, sqlite3.OperationalError)):
        north.void(ids, Progress(2, 1))
    monkeypatch.undo()
    assert [state_of(spool, one) for one in ids] == [State.RETAINED] * 2
    assert len(north.given_since(0, limit=9)) == 2
    north.void(ids, Progress(2, 1))
    spool.close()
    spool, north = copying(open_spool)
    assert [state_of(spool, one) for one in ids] == [State.OWED] * 2
    assert north.progress() == Progress(2, 1)
    assert counts(spool, NORTH) == (2, 0)


def test_an_object_whose_file_is_gone_is_lost_and_not_owed(open_spool: OpenSpool) -> None:
    spool, north = copying(open_spool)
    object_id = everywhere(spool, 1, KEPT)
    spool._files.unlink(object_id)
    assert north.void([object_id], Progress(1)).missed == 1
    assert state_of(spool, object_id) is State.FREED
    assert counts(spool, NORTH) == (0, 0)
    assert [study.instances for study in north.lost()] == [1]


def test_what_is_lost_is_not_listed_while_the_same_bytes_wait(open_spool: OpenSpool) -> None:
    spool, north = copying(open_spool)
    object_id = everywhere(spool, 1, GONE)
    north.void([object_id], Progress(1))
    assert len(north.lost()) == 1
    again = store(spool, 1).object_id
    assert again != object_id
    assert north.lost() == []
    assert counts(spool, NORTH) == (1, 0)


def test_an_index_of_a_former_version_gets_numbers_for_its_receipts(
    open_spool: OpenSpool, tmp_path: Path
) -> None:
    spool, _ = copying(open_spool)
    object_id = everywhere(spool, 1, KEPT)
    spool.close()
    with closing(sqlite3.connect(tmp_path / "spool" / "index.sqlite3")) as older, older:
        older.execute("DROP INDEX copy_receipts_by_number")
        older.execute("ALTER TABLE deliveries DROP COLUMN receipt_number")
    spool, north = copying(open_spool)
    assert [one.object_id for one in north.given_since(0, limit=9)] == [object_id]
    everywhere(spool, 2, KEPT)
    assert len(north.given_since(0, limit=9)) == 2
