"""Three days without central, then a drain: nothing lost, nothing doubled, what is urgent first, memory flat.

72 hours pass for the data keys, the box restarts on each day, and 500 small objects wait; in the soak 100,000.
"""

from __future__ import annotations

import os
import resource
import time

import psutil
import pytest

from contract.pack import MAX_OBJECTS
from contract.sealing import DataKeyRing
from edge.buffer.records import InstanceIdentity, Origin
from edge.buffer.states import State
from edge.memory import share_heaps
from tests.central.databases import contents_in, open_index
from tests.line.conftest import Scene

SOAK = bool(os.environ.get("DICOMNET_SOAK"))
pytestmark = pytest.mark.timeout(10_800 if SOAK else 600)
HOURS, DAYS = 72, 3
OBJECTS = 100_000 if SOAK else 500
STAT = 20
GROWTH_BYTES = 32 << 20


def test_three_days_offline_then_everything_arrives_and_the_urgent_first(scene: Scene) -> None:
    share_heaps()  # as the box's own program does: a heap for each thread grows by its holes alone
    scene.stop_central()
    hour = 0
    ring = DataKeyRing(scene.identity.recipients, clock=lambda: hour * 3600.0)
    template = scene.template()
    resident: list[int] = []
    began_s = time.monotonic()
    for number in range(OBJECTS):
        if number % (OBJECTS // DAYS) == 0:
            scene.restart_box()
            scene.spool.entrance.set_keys(ring)
            # Seldom: pytest keeps what is logged of each attempt, and that is no memory of the box's.
            scene.forward(connections=2, backoff_ceiling_s=2.0)
        hour = number * HOURS // OBJECTS
        if number % (OBJECTS // 10) == 0:
            resident.append(psutil.Process().memory_info().rss)
        store(scene, template, number, study=f"1.2.8.{number // 10}")
    assert resident[-1] - resident[1] < GROWTH_BYTES, resident
    for number in range(OBJECTS, OBJECTS + STAT):
        store(scene, template, number, study="1.2.9")
    assert scene.spool.queue.prioritise("1.2.9") == STAT
    assert scene.spool.holdings.depth().unsent.objects == OBJECTS + STAT
    assert scene.link.status().state == "waiting"

    before = psutil.Process().memory_info().rss
    made_s = time.monotonic() - began_s
    scene.start_central()
    draining: list[int] = []

    def is_drained() -> bool:
        draining.append(psutil.Process().memory_info().rss)
        return not scene.spool.holdings.depth().unsent.objects

    scene.wait(is_drained, timeout_s=7200 if SOAK else 120, every_s=2.0 if SOAK else 0.01)
    took_s = time.monotonic() - began_s - made_s
    print(f"{OBJECTS} objects: made in {made_s:.0f} s, drained in {took_s:.0f} s")
    print("resident MiB at each tenth:", *(size >> 20 for size in [*resident, before]))
    print("resident MiB in the drain:", *(size >> 20 for size in draining[:: 1 + len(draining) // 20]))
    print(f"peak MiB: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}")
    assert max(draining) - before < 4 * GROWTH_BYTES, "box and central are both in this process"

    rows = scene.spool.holdings.list_objects(states=list(State), limit=2 * OBJECTS)
    assert {row.state for row in rows} == {State.FREED}
    receipts = scene.spool.receipts.given_since(0, limit=2 * OBJECTS)
    assert len(rows) == len(receipts) == OBJECTS + STAT
    urgent = {row.object_id for row in rows if row.study_instance_uid == "1.2.9"}
    last_urgent = max(one.number for one in receipts if one.object_id in urgent)
    assert last_urgent <= MAX_OBJECTS + STAT  # one pack of the other connection may be before them
    db = open_index(scene.house.root)
    try:
        instances = db.execute_sql("SELECT COUNT(*) FROM instance").fetchone()[0]  # type: ignore[no-untyped-call]
        signed = db.execute_sql("SELECT object_id, sha256 FROM accepted_upload").fetchall()  # type: ignore[no-untyped-call]
    finally:
        db.close()
    assert instances == OBJECTS + STAT
    assert sorted(signed) == sorted((one.object_id, one.sha256) for one in receipts)
    if not SOAK:
        assert len(set(contents_in(scene.house.root))) == OBJECTS + STAT


def store(scene: Scene, template: bytes, number: int, *, study: str) -> None:
    """The template as another instance; its length does not change."""
    uid = f"1.2.3.4{number + 1:09d}"
    content = template.replace(scene.TEMPLATE_UID.encode(), uid.encode())
    assert content != template
    ds = scene.source
    identity = InstanceIdentity(ds.SOPClassUID, uid, study, ds.SeriesInstanceUID, ds.Modality)
    with scene.spool.entrance.receive(
        Origin("CT1", "BOX", "127.0.0.1", ds.file_meta.TransferSyntaxUID)
    ) as reception:
        reception.write(content)
        reception.commit(identity)
