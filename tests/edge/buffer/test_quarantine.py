"""What waits for a person: kept, bounded, and put back into the queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.buffer.errors import WrongStateError
from edge.buffer.label import BLOCK_BYTES
from edge.buffer.spool import Spool
from edge.buffer.states import State
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import Central, claim, content_of, quarantine, state_of, store, taken_files


def test_what_central_refuses_for_good_is_kept_and_can_be_requeued(
    spool: Spool, tmp_path: Path, receiving_central: Central
) -> None:
    stored = store(spool, 1)
    claim(spool)

    spool.queue.set_aside(stored.object_id, reason="not DICOM")

    assert [path.parent.name for path in taken_files(spool, tmp_path)] == ["quarantine"]
    assert spool.queue.claim(lease_s=1) is None
    spool.quarantine.requeue(stored.object_id)
    claimed = claim(spool)
    assert (claimed.object_id, claimed.attempts) == (stored.object_id, 1), "its tries count anew"
    assert receiving_central.unseal(spool, stored.object_id) == content_of(1)
    with pytest.raises(WrongStateError):
        spool.quarantine.requeue(stored.object_id)


def test_quarantine_of_what_nobody_was_promised_is_bounded_oldest_first(
    open_spool: OpenSpool, tmp_path: Path
) -> None:
    spool = open_spool(quarantine_max_bytes=250_000)
    promised = store(spool, 1).object_id
    claim(spool)
    spool.queue.set_aside(promised, reason="refused")

    kept = [quarantine(spool, 100_000) for _ in range(5)]

    files = {path.stem for path in (tmp_path / "spool" / "quarantine").iterdir()}
    assert files == {promised, *kept[-2:]}
    assert state_of(spool, kept[0]) is State.FREED
    with pytest.raises(WrongStateError, match="never acknowledged"):
        spool.quarantine.requeue(kept[-1])


def test_small_files_count_as_the_blocks_they_take(open_spool: OpenSpool) -> None:
    spool = open_spool(quarantine_max_bytes=3 * BLOCK_BYTES)
    kept = [quarantine(spool, 10) for _ in range(5)]
    assert [state_of(spool, one) for one in kept] == [State.FREED] * 2 + [State.QUARANTINED] * 3
    assert sum(spool._files.size_of(one) for one in kept) == 3 * BLOCK_BYTES


def test_their_number_is_bounded_too_and_counted_on_after_a_restart(
    open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.buffer.quarantine.MAX_FILES", 4)
    spool = open_spool()
    kept = [quarantine(spool, 10) for _ in range(3)]
    promised = store(spool, 1, b"x").object_id
    claim(spool)
    spool.queue.set_aside(promised, reason="refused")
    spool.close()

    spool = open_spool()
    kept += [quarantine(spool, 10) for _ in range(3)]

    assert [state_of(spool, one) for one in kept] == [State.FREED] * 2 + [State.QUARANTINED] * 4
    assert state_of(spool, promised) is State.QUARANTINED, "it was promised, so it counts for nothing here"


def test_a_bound_that_became_lower_holds_from_the_next_one_on(
    open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.buffer.quarantine._EVICTED_AT_ONCE", 2)
    spool = open_spool()
    kept = [quarantine(spool, 10) for _ in range(6)]
    spool.close()

    spool = open_spool(quarantine_max_bytes=BLOCK_BYTES)
    newest = quarantine(spool, 10)

    assert {state_of(spool, one) for one in kept} == {State.FREED}
    assert state_of(spool, newest) is State.QUARANTINED


def test_one_more_does_not_look_through_what_is_kept(spool: Spool) -> None:
    """A sender of rubbish would stall the others, since all of this is under the spool's lock."""
    for _ in range(2):
        quarantine(spool, 10)
    asked: list[str] = []
    spool._index._connection().set_trace_callback(asked.append)

    quarantine(spool, 10)

    spool._index._connection().set_trace_callback(None)
    assert [one for one in asked if one.lstrip().startswith("SELECT") and "FROM objects" in one] == []
