"""A start with a large queue: by names alone, and with no more in memory than it needs.

The short form says what is not done; how long 100,000 objects take is measured where `DICOMNET_SOAK` is set.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest

from contract.identifiers import ObjectId
from edge.buffer.files import SpoolFiles
from edge.buffer.index import SpoolIndex
from edge.buffer.records import InstanceIdentity, Origin, RecoveryReport
from edge.buffer.spool import Spool
from edge.buffer.states import State
from tests.edge.buffer.conftest import OpenSpool

SOAK = bool(os.environ.get("DICOMNET_SOAK"))
OBJECTS = 100_000 if SOAK else 5_000
JPEG = Origin("CT1", "DICOMNET", "192.0.2.7", "1.2.840.10008.1.2.4.70")
MOST_S = 10.0
MOST_BYTES_EACH = 160  # while it compares; nothing of it is left afterwards

pytestmark = pytest.mark.timeout(3400 if SOAK else 600)


def fill(spool: Spool, count: int) -> None:
    for number in range(count):
        with spool.entrance.receive(JPEG) as reception:
            reception.write(b"a small image")
            study = f"1.2.9.{number // 100}"
            reception.commit(
                InstanceIdentity("1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{number}", study, f"{study}.1", "CT")
            )


@contextmanager
def files_not_synced() -> Iterator[None]:
    """The test's objects need not survive a power cut."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fdatasync", lambda _: None)
        patched.setattr(os, "fsync", lambda _: None)
        yield


def test_a_start_opens_no_file_it_knows_and_keeps_no_list(
    open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool()
    with files_not_synced():
        fill(spool, OBJECTS)
    claimed = [spool.queue.claim(lease_s=3600) for _ in range(3)]
    assert all(claimed)
    spool.close()
    touched: list[ObjectId] = []

    def refuse(_: SpoolFiles, object_id: ObjectId) -> BinaryIO | None:
        touched.append(object_id)
        return None

    monkeypatch.setattr(SpoolFiles, "open_file", refuse)
    monkeypatch.setattr(SpoolFiles, "size_of", refuse)
    monkeypatch.setattr(SpoolFiles, "place_of", refuse)
    began_s = time.monotonic()
    spool = open_spool()
    took_s = time.monotonic() - began_s

    assert touched == []
    assert spool.recovery == RecoveryReport(leases_dropped=3)
    assert spool.holdings.depth().by_state[State.READY].objects == OBJECTS
    if SOAK:
        assert took_s < MOST_S
    spool.close()

    tracemalloc.start()
    try:
        spool = open_spool()
        spool.holdings.depth()
        left_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MOST_BYTES_EACH * OBJECTS + (1 << 20)
    assert left_bytes < 1 << 20


def test_a_month_of_receipts_is_not_searched_for_what_was_under_way(
    spool: Spool, open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Freed rows outnumber live ones by far: every question of a start goes through an index of the live ones."""
    seen: list[str] = []
    fill(spool, 3)
    spool.close()
    plans: dict[str, str] = {}
    prepare = SpoolIndex._prepare

    def traced(index: SpoolIndex) -> None:
        prepare(index)
        index.db.connection().set_trace_callback(seen.append)

    monkeypatch.setattr(SpoolIndex, "_prepare", traced)
    spool = open_spool()
    connection = spool._index.db.connection()
    connection.set_trace_callback(None)
    for text in seen:
        if text.lstrip().split(" ", 1)[0] in {"SELECT", "UPDATE", "DELETE"} and "objects" in text:
            plans[text] = str(connection.execute(f"EXPLAIN QUERY PLAN {text}").fetchall())

    assert len(plans) >= 4
    for text, plan in plans.items():
        assert "INDEX" in plan, (text, plan)
