"""What waits for a person: kept, bounded, and put back into the queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.buffer.errors import WrongStateError
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
