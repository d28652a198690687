"""Rows on their way into the index, also into one that takes none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from edge.buffer import arrivals
from edge.buffer.errors import DiskFullError
from edge.buffer.spool import Spool
from edge.buffer.states import State
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import leftovers, store


def test_an_index_that_is_full_costs_no_instance(
    spool: Spool, open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are durable: they are kept, known as duplicates, and their rows follow when there is room."""
    monkeypatch.setattr(arrivals, "_TRY_AGAIN_S", 0.01)
    store(spool, 0)
    assert spool.holdings.depth().unsent.objects == 1
    spool._index.db.pragma("max_page_count", spool._index.db.pragma("page_count"))

    stored = [store(spool, number, content=b"x").object_id for number in range(1, 200)]

    assert (
        1 <= spool.holdings.depth().unsent.objects < 200
    )  # asking is possible, and says what the index knows
    assert store(spool, 199, content=b"x").outcome == "duplicate"
    spool._index.db.pragma("max_page_count", 1 << 20)
    assert spool.holdings.depth().unsent.objects == 200
    assert set(stored) < {
        row.object_id for row in spool.holdings.list_objects(states=[State.READY], limit=999)
    }


def test_an_index_that_takes_nothing_makes_scanners_wait(
    spool: Spool, open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "_MAX_WAITING", 20)
    spool._index.db.pragma("max_page_count", spool._index.db.pragma("page_count"))
    stored = []

    def store_many() -> None:
        for number in range(300):
            stored.append(store(spool, number, content=b"x"))

    with pytest.raises(DiskFullError):
        store_many()

    assert len(stored) >= 20
    assert len(leftovers(spool)) == len(stored), "the one that was refused left no file"
    spool.close()
    report = open_spool().recovery
    assert (report.files_missing, report.torn_files, report.files_set_aside) == (0, 0, 0)


def test_who_waits_for_work_is_woken_whoever_brings_the_rows_in(spool: Spool) -> None:
    """A look at the queue in between writes them first: the sender must hear of them all the same."""
    for number in range(20):
        waiting = ThreadPoolExecutor(1)
        woken = waiting.submit(spool.queue.wait_for_work, 30)
        store(spool, number)
        spool.holdings.depth()
        assert woken.result(60)
        claimed = spool.queue.claim(lease_s=60)
        assert claimed is not None
        spool.queue.acknowledge(claimed.object_id, "receipt")
        waiting.shutdown()
