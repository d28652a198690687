"""Packs over a line that is cut anywhere, between a central and a box that restart: nothing lost, nothing doubled.

The peers are real: a whole central over TLS, a real spool and forwarder, a proxy that resets connections in between.
"""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from central.archive.examining import Indexable
from central.archive.receiving import Receiving
from contract.receipt import Outcome
from edge.buffer.states import State
from edge.uplink.line_pace import LEAST_BYTES
from tests.central.app.house import everything_in
from tests.central.databases import open_index
from tests.line.conftest import Scene
from tests.line.faulty_house import Fault, Faults

SOAK = bool(os.environ.get("DICOMNET_SOAK"))
pytestmark = pytest.mark.timeout(14_400 if SOAK else 600)

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


@pytest.mark.parametrize("answers", [False, True], ids=["requests", "answers"])
def test_a_line_cut_at_any_byte_costs_no_more_than_a_chunk(scene: Scene, answers: bool) -> None:
    """A small pack, cut at every 97th byte, in the soak at every byte, until the cut comes behind its end.

    The bytes are those of TLS, as the line has them.
    """
    scene.make_bare()
    forwarder = scene.forward()
    scene.wait(lambda: scene.link.status().state == "connected")
    at = 1
    while True:
        before, cuts = scene.proxy.carried, scene.proxy.cuts
        scene.proxy.cut_after(at, answers=answers)
        payload = scene.store_and_wait(2)
        carried, cut = scene.proxy.carried - before, scene.proxy.cuts - cuts
        assert carried <= payload + LEAST_BYTES + (cut + 2) * HANDSHAKES_BYTES, f"cut at {at}"
        if not cut:
            break
        at += 1 if SOAK else 97
    forwarder.pause()
    print(f"cut {scene.proxy.cuts} times; the last at byte {at}; {len(scene.stored)} objects")
    assert at > (3 * 97 if answers else 10 * 97)
    assert scene.proxy.cuts == len(range(1, at, 1 if SOAK else 97))
    scene.check()


@pytest.mark.parametrize("answers", [False, True], ids=["requests", "answers"])
def test_a_line_that_falls_silent_is_left_and_the_pack_goes_on(scene: Scene, answers: bool) -> None:
    """Half-open: neither end is told. The box calls again after its time-out, and central lets the newcomer through."""
    scene.forward(timeout_s=1.0)
    scene.wait(lambda: scene.link.status().state == "connected")
    for at in (1, 700) if answers else (1, 3000):
        before = scene.proxy.cuts
        scene.proxy.cut_after(at, answers=answers, mute=True)
        scene.store_and_wait(3)
        assert scene.proxy.cuts == before + 1
    scene.check()


def test_a_slow_reader_gets_it_without_a_second_try(scene: Scene) -> None:
    """The object takes three times as long as the time-out; its reader never falls silent for so long."""
    stored = scene.store(side=900)
    scene.proxy.read_slowly(stored.stored_bytes / 9.0)
    began_s = time.monotonic()
    scene.forward(timeout_s=3.0)
    scene.wait()
    assert time.monotonic() - began_s > 6.0
    assert scene.proxy.carried <= stored.stored_bytes + 3 * HANDSHAKES_BYTES
    (row,) = scene.spool.holdings.list_objects(states=[State.FREED], limit=10)
    assert row.attempts == 1
    scene.check()


FAULTS = [fault for fault in Fault if fault is not Fault.NONE]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_by_itself_loses_and_doubles_nothing(scene: Scene, fault: Fault) -> None:
    scene.restart_central_with(Faults([Fault.NONE, *[fault, Fault.NONE] * 3, fault, fault], seed=1))
    scene.forward(connections=2)
    scene.store(side=400)
    while scene.house.faults.done[fault] < 5:
        scene.store_and_wait(4)
    scene.check()


def test_faults_by_schedule_and_seed_lose_and_double_nothing(scene: Scene) -> None:
    """`DICOMNET_SEED` runs one again; the soak runs many."""
    seed = int(os.environ.get("DICOMNET_SEED", random.SystemRandom().randrange(1 << 32)))
    for turn in range(100 if SOAK else 1):
        chance = random.Random(seed + turn)
        schedule = [chance.choice([*FAULTS, Fault.NONE, Fault.NONE]) for _ in range(30)]
        scene.restart_central_with(Faults(schedule, seed + turn))
        if turn == 0:
            scene.forward(connections=3)
        for _ in range(4):
            if chance.random() < 0.5:
                scene.proxy.cut_after(chance.randrange(1, 6000), answers=chance.random() < 0.3)
            scene.store(side=chance.choice((4, 40, 200)))
            scene.store_and_wait(chance.randrange(1, 6))
        assert scene.house.faults.done.total() > 4, f"DICOMNET_SEED={seed + turn}"
        found = sorted(one.content for one in everything_in(scene.house.root))
        assert found == sorted(scene.stored.values()), f"DICOMNET_SEED={seed + turn}"
    scene.check()


def test_a_full_disk_at_central_is_waited_out(scene: Scene) -> None:
    """Full in the middle of an object: no file in this process may grow beyond two megabytes; the rest are small."""
    scene.store(side=1600)
    scene.store()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, hard))
    try:
        scene.forward()
        scene.wait(lambda: "disk is full" in scene.link.status().detail)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert not {State.QUARANTINED, State.LOST} & set(scene.states())
    assert len(everything_in(scene.house.root)) <= 1
    scene.wait()
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
        for row in scene.spool.holdings.list_objects(states=[State.QUARANTINED], limit=10)
    }
    assert "422" in reasons[poisoned.object_id]
    assert "shorter" in reasons[stored[4].object_id]
    assert len(everything_in(scene.house.root)) == 4
    assert scene.link.status().state == "connected"


def test_an_object_that_central_fails_over_is_set_aside_once_others_have_passed_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.uplink.dispatch.GIVEN_UP_AFTER", 12)
    stored = [scene.store() for _ in range(4)]
    bad = stored[1].object_id
    index_all = Receiving.index_all

    def index_all_but_one(
        receiving: Receiving,
        objects: Sequence[Indexable],
        in_transaction: Callable[[Sequence[Outcome]], None],
    ) -> Sequence[Outcome]:
        if any(one.origin.object_id == bad for one in objects):
            raise ValueError("a fault that one object brings about")
        return index_all(receiving, objects, in_transaction)

    def others_come_and_pass() -> bool:
        if State.READY not in scene.states():
            scene.store()
        return State.QUARANTINED in scene.states()

    monkeypatch.setattr(Receiving, "index_all", index_all_but_one)
    scene.forward(connections=2)
    scene.wait(others_come_and_pass)
    (row,) = scene.spool.holdings.list_objects(states=[State.QUARANTINED], limit=10)
    assert row.object_id == bad
    assert row.attempts >= 12
    assert "a fault in central's program" in (row.last_error or "")
    scene.wait(lambda: len(everything_in(scene.house.root)) == len(scene.stored) - 1)
    assert scene.link.status().state == "connected"
    monkeypatch.setattr(Receiving, "index_all", index_all)
    scene.spool.quarantine.requeue(bad)
    scene.wait()
    scene.check()


def test_a_central_that_fails_over_everything_has_nothing_set_aside(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.uplink.dispatch.GIVEN_UP_AFTER", 1)

    def fail(*_: object) -> None:
        raise ValueError("a fault in central's program")

    monkeypatch.setattr(Receiving, "index_all", fail)
    scene.store()
    scene.store(side=700)
    scene.forward(connections=2)
    rows = scene.spool.holdings.list_objects
    scene.wait(lambda: min(row.attempts for row in rows(states=list(State), limit=10)) > 20)
    assert not {State.QUARANTINED, State.LOST} & set(scene.states())


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
