"""Packs over a line that is cut anywhere, between a central and a box that restart: nothing lost, nothing doubled.

The peers are real: a whole central over TLS, a real spool and forwarder, a proxy that resets connections in between.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from edge.buffer.states import State
from edge.uplink.line_pace import LEAST_BYTES
from tests.central.app.house import everything_in
from tests.central.databases import open_index
from tests.line.conftest import Scene

SOAK = bool(os.environ.get("DICOMNET_SOAK"))
pytestmark = pytest.mark.timeout(3600 if SOAK else 180)

HANDSHAKES_BYTES = 8 << 10  # of TLS, and the requests' heads, for each connection that a test makes anew


def packs_decided(root: Path) -> int:
    db = open_index(root)
    try:
        return int(db.execute_sql("SELECT COUNT(*) FROM decided_pack").fetchone()[0])  # type: ignore[no-untyped-call]
    finally:
        db.close()


def test_small_objects_go_together_and_large_ones_alone(scene: Scene) -> None:
    for _ in range(12):
        scene.store()
    scene.store(side=700)
    scene.forward(connections=3)
    scene.wait()
    scene.check()
    assert 1 <= packs_decided(scene.house.root) <= 3
    assert list((scene.house.root / "packs").rglob("*.part")) == []


def test_a_line_cut_at_any_byte_costs_no_more_than_a_chunk(scene: Scene) -> None:
    """In the soak at every 97th byte each way; else at a few. The bytes are those of TLS, as the line has them."""
    scene.forward()
    scene.wait(lambda: scene.link.status().state == "connected")
    seed = int(os.environ.get("DICOMNET_SEED", random.SystemRandom().randrange(1 << 32)))
    points = range(1, 14_000, 97) if SOAK else sorted(random.Random(seed).sample(range(1, 14_000), 8))
    for number, at in enumerate(points):
        before, cuts = scene.proxy.carried, scene.proxy.cuts
        answers = number % 3 == 2
        scene.proxy.cut_after(at % 1500 + 1 if answers else at, answers=answers)
        payload = scene.store_and_wait(5)
        carried = scene.proxy.carried - before
        connections = scene.proxy.cuts - cuts + 2
        assert carried <= payload + LEAST_BYTES + connections * HANDSHAKES_BYTES, (
            f"cut at {at}; DICOMNET_SEED={seed}"
        )
    assert scene.proxy.cuts > 0
    scene.check()


def test_a_large_object_cut_in_the_middle_is_not_sent_anew(scene: Scene) -> None:
    scene.forward()
    scene.wait(lambda: scene.link.status().state == "connected")
    before = scene.proxy.carried
    scene.proxy.cut_after(3 << 20)
    stored = scene.store(side=1600)
    assert stored.stored_bytes > 5_000_000
    scene.wait()
    again = scene.proxy.carried - before - stored.stored_bytes
    assert scene.proxy.cuts == 1
    # What central had of the chunk that was under way, it kept.
    assert again < 1 << 20
    scene.check()


def test_central_restarted_in_the_middle_of_a_pack(scene: Scene) -> None:
    stored = [scene.store(side=40) for _ in range(8)]
    scene.proxy.cut_after(12_000)
    forwarder = scene.forward()
    scene.wait(lambda: scene.proxy.cuts == 1)
    forwarder.pause()
    scene.restart_central()
    forwarder.resume()
    scene.wait()
    scene.check()
    assert len(stored) == len(everything_in(scene.house.root))


def test_box_restarted_in_the_middle_of_a_pack(scene: Scene) -> None:
    for _ in range(8):
        scene.store(side=40)
    scene.proxy.cut_after(12_000)
    forwarder = scene.forward()
    scene.wait(lambda: scene.proxy.cuts == 1)
    forwarder.pause()
    scene.restart_box()
    assert State.SENDING not in scene.states()
    before, waiting = scene.proxy.carried, scene.waiting_bytes()
    scene.forward()
    scene.wait()
    assert scene.proxy.carried - before <= waiting + 3 * HANDSHAKES_BYTES
    scene.check()


def test_a_poisoned_object_is_set_aside_and_its_pack_goes_on(scene: Scene) -> None:
    stored = [scene.store() for _ in range(6)]
    poisoned = stored[2]
    path = next(scene.folder.rglob(f"{poisoned.object_id}.sealed"))
    content = bytearray(path.read_bytes())
    content[poisoned.stored_bytes - 10] ^= 1
    path.write_bytes(content)
    shortened = next(scene.folder.rglob(f"{stored[4].object_id}.sealed"))
    shortened.write_bytes(shortened.read_bytes()[:100])
    scene.forward()
    scene.wait(lambda: sorted(scene.states()) == [State.FREED] * 4 + [State.QUARANTINED] * 2)
    reasons = {
        row.object_id: row.last_error or ""
        for row in scene.spool.list_objects(states=[State.QUARANTINED], limit=10)
    }
    assert "422" in reasons[poisoned.object_id]
    assert "shorter" in reasons[stored[4].object_id]
    assert len(everything_in(scene.house.root)) == 4
    assert scene.link.status().state == "connected"


def test_a_central_without_packs_gets_objects_one_by_one(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.uplink.transfer._PackAttempt.collection", "/ingest/v1/not-there")
    for _ in range(5):
        scene.store()
    scene.forward()
    scene.wait()
    assert packs_decided(scene.house.root) == 0
    scene.check()
