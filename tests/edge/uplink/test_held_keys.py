"""A sealing key is needed for as long as anything here is sealed for it, also what central has already."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from contract.sealing import DataKeyRing, RecipientPrivateKey
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.uplink.held_keys import keys_in_spool
from tests.edge.buffer.instances import store


def test_what_is_kept_after_its_receipt_still_needs_its_key(tmp_path: Path) -> None:
    former, newest = (RecipientPrivateKey.generate().public_key() for _ in range(2))
    spool = Spool.open(
        tmp_path / "spool",
        reserve_bytes=0,
        quarantine_max_bytes=0,
        keys=DataKeyRing((former,)),
        retain=timedelta(hours=1),
    )
    try:
        object_id = store(spool, 1).object_id
        assert spool.queue.claim(lease_s=60)
        spool.queue.acknowledge(object_id, "receipt")
        (row,) = spool.holdings.list_objects(states=list(State), limit=10)
        assert row.state is State.RETAINED
        spool.entrance.set_keys(DataKeyRing((newest,)))
        store(spool, 2)
        assert keys_in_spool(spool.holdings) == {former.key_id.hex(), newest.key_id.hex()}
    finally:
        spool.close()
