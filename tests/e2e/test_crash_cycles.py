"""`kill -9` of the box at random instants, again and again, while four scanners send and the uplink forwards.

The fast cycle: the whole box as it runs at a site, against a small central of this process, its lives forked from
one that has imported everything. `tests/e2e/test_crash.py` does the same, less often, to the whole system.
`DICOMNET_SEED` repeats the moments as far as a scheduler can be repeated.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random, SystemRandom

import pytest

from contract.part10 import file_meta
from edge.buffer.spool import Spool
from edge.buffer.states import State
from tests.edge.buffer.instances import held_files
from tests.edge.scripted_central import ScriptedCentral
from tests.peers.real_box import wait_until
from tests.peers.scripted_scu import CT_STORAGE, EXPLICIT_LITTLE, ScriptedScu, small_data_set
from tests.peers.warm_box import WarmBox

SOAK = bool(os.environ.get("DICOMNET_SOAK"))
CYCLES = 1000 if SOAK else 50
SCANNERS = 4
DRAIN_S = 120.0  # without any progress

pytestmark = pytest.mark.timeout(3600 if SOAK else 600)


class Scanner(threading.Thread):
    """Sends one instance after another, the same one again until it is acknowledged, whatever becomes of the box."""

    def __init__(self, box: WarmBox, number: int, seed: int, heard: threading.Condition) -> None:
        super().__init__(name=f"scanner-{number}", daemon=True)
        self.acknowledged: list[str] = []  # SHA-256 of the Part 10 file
        self.sent: Counter[str] = Counter()  # how often, by the same
        self.refused: list[str] = []
        self.up = threading.Event()
        self._box, self._number, self._random, self._heard = box, number, Random(seed), heard
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            if not self.up.wait(0.1):
                continue
            # Refused, reset, cut off in the middle: the box is gone, and a scanner calls again.
            with (
                contextlib.suppress(OSError, AssertionError),
                ScriptedScu(self._box.port, timeout_s=20) as scu,
            ):
                scu.associate(calling=f"CT{self._number}".encode())
                while not self._over.is_set():
                    self._send_one(scu)

    def _send_one(self, scu: ScriptedScu) -> None:
        number = len(self.acknowledged)
        uid = f"1.2.3.{self._number}.{number + 1}"
        # By the number alone: what is sent again is the same to the byte.
        random = Random(f"{self._number} {number}")
        pixels = random.randbytes(2_000) * random.choice((2, 10, 30))
        data = small_data_set(uid, pixels=pixels)
        sha256 = hashlib.sha256(file_meta(CT_STORAGE, uid, EXPLICIT_LITTLE) + data).hexdigest()
        self.sent[sha256] += 1
        response = scu.store(data, uid)
        if response.status != 0:
            self.refused.append(f"0x{response.status:04X} {response.comment}")
            return
        with self._heard:
            self.acknowledged.append(sha256)
            self._heard.notify_all()

    def end(self) -> None:
        self._over.set()
        self.join(60)
        assert not self.is_alive()


def test_no_kill_loses_or_changes_anything(tmp_path: Path) -> None:
    seed = int(os.environ.get("DICOMNET_SEED", SystemRandom().randrange(1 << 32)))
    print(f"DICOMNET_SEED={seed}")
    random = Random(seed)
    (tmp_path / "central").mkdir()
    central = ScriptedCentral(tmp_path / "central").start()
    heard = threading.Condition()
    with WarmBox(tmp_path / "box") as box:
        box.start()
        box.enrol(central)
        scanners = [Scanner(box, number, seed, heard) for number in range(1, SCANNERS + 1)]
        for scanner in scanners:
            scanner.start()
        for _ in range(CYCLES):
            _live(box, scanners, random, heard)
        box.start()
        for scanner in scanners:
            scanner.end()
        acknowledged = {sha256 for scanner in scanners for sha256 in scanner.acknowledged}
        _drain(central, acknowledged)
        # Central has it all; the last receipts may still be on their way back.
        wait_until("every receipt is kept", lambda: box.status().queue_objects == 0, DRAIN_S)
        box.stop()
        _check_spool(box.spool)
    central.stop()
    assert [scanner.refused for scanner in scanners] == [[]] * SCANNERS
    sent = sum((scanner.sent for scanner in scanners), Counter[str]())
    archived = Counter(content.sha256 for content in central.archived.values())
    assert archived.keys() <= sent.keys(), "central has what nobody sent"
    assert central.doubled == []
    twice = [sha256 for sha256, count in archived.items() if count > sent[sha256]]
    assert twice == [], "central got more often what the scanner sent"
    assert len(acknowledged) >= CYCLES, "too little was sent to prove anything"
    print(f"{CYCLES} kills, {len(acknowledged)} acknowledged, {sent.total() - len(sent)} sent again")


def _live(box: WarmBox, scanners: list[Scanner], random: Random, heard: threading.Condition) -> None:
    """From a start, or from a life that goes on, to a kill at a random moment."""
    if box.running:
        box.kill()
    box.begin()
    if random.random() < 0.15:
        time.sleep(random.random() * 0.15)  # inside the start-up; no event: the moment is the test's input
        box.kill()
        return
    box.wait_listening()
    for scanner in scanners:
        scanner.up.set()
    with heard:
        wanted = random.randrange(1, 40) + sum(len(scanner.acknowledged) for scanner in scanners)
        reached = heard.wait_for(
            lambda: sum(len(scanner.acknowledged) for scanner in scanners) >= wanted, timeout=60
        )
    assert reached, f"nothing goes on: {box.last_log()}"
    time.sleep(random.random() * 0.02)
    for scanner in scanners:
        scanner.up.clear()
    box.kill()


def _drain(central: ScriptedCentral, wanted: set[str]) -> None:
    def missing() -> int:
        return len(wanted - {content.sha256 for content in list(central.archived.values())})

    left = missing()
    while left:
        progress = functools.partial(lambda before: missing() < before, left)
        assert central.wait_for(progress, DRAIN_S), f"{left} acknowledged never came"
        left = missing()


def _check_spool(root: Path) -> None:
    """Nothing is left over: not waiting, not set aside, not half."""
    spool = Spool.open(root, reserve_bytes=0, quarantine_max_bytes=0, keys=None)
    try:
        left = spool.holdings.list_objects(
            states=[state for state in State if state is not State.FREED], limit=10
        )
        assert [(row.state, row.last_error) for row in left if row.success_answered] == []
        assert spool.recovery.files_missing == 0
    finally:
        spool.close()
    files = {path.stem for path in held_files(root)}
    assert files == {row.object_id for row in left}
