"""Who called this box, counted and bounded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge.buffer import scanners as scanners_module
from edge.buffer.records import Origin
from edge.buffer.spool import Spool
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import ORIGIN, content_of, store


def test_scanners_are_counted_and_refusals_remembered(open_spool: OpenSpool) -> None:
    spool = open_spool()
    store(spool, 1)
    store(spool, 1)
    store(spool, 2, origin=Origin("MR1", "DICOMNET", "192.0.2.8", "1.2.840.10008.1.2"))
    spool.entrance.note_rejection("CT1", "192.0.2.7", "called another AE title")
    spool.entrance.note_rejection("CT1", "192.0.2.7", "the data set has no SOP Instance UID")
    spool.entrance.note_rejection("", "198.51.100.1", "too many connections")
    spool.close()

    seen = {(one.calling_ae_title, one.peer_address): one for one in open_spool().scanners.all()}

    ct = seen["CT1", "192.0.2.7"]
    assert (ct.instances, ct.size_bytes, ct.rejected) == (1, len(content_of(1)), 2)
    assert ct.last_error == "the data set has no SOP Instance UID"
    assert ct.last_store_at_utc is not None
    assert seen["MR1", "192.0.2.8"].instances == 1
    assert seen["", "198.51.100.1"].last_store_at_utc is None


def test_what_senders_called_the_box_last_outlives_the_process(open_spool: OpenSpool) -> None:
    spool = open_spool()
    for number, called in enumerate(("DICOMNET", "PACS")):
        store(spool, number, b"x", origin=replace(ORIGIN, called_ae_title=called))
    store(spool, 2, b"x", origin=replace(ORIGIN, peer_address="192.0.2.8"))
    spool.close()

    assert open_spool().scanners.called() == {
        ("CT1", "192.0.2.7"): "PACS",
        ("CT1", "192.0.2.8"): "DICOMNET",
    }


def test_made_up_names_cannot_grow_the_table(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanners_module, "MAX_SCANNERS", 10)
    store(spool, 1)
    for batch in range(4):
        for number in range(20):
            spool.entrance.note_rejection(f"EVIL{batch}{number}", "198.51.100.1", "no")
        spool.scanners.all()

    seen = [one.calling_ae_title for one in spool.scanners.all()]
    assert len(seen) == 10
    assert "CT1" in seen


def test_who_called_can_be_asked_while_the_index_takes_nothing(spool: Spool) -> None:
    store(spool, 1)
    seen = spool.scanners.all()
    store(spool, 2)
    spool._index.db.pragma("query_only", 1)
    last = spool.holdings.depth().last_received_at_utc
    assert last is not None
    assert seen[0].last_store_at_utc is not None
    assert last > seen[0].last_store_at_utc
    assert spool.scanners.all() == seen
    spool._index.db.pragma("query_only", 0)
    assert spool.scanners.all()[0].last_store_at_utc == last
