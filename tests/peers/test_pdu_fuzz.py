"""Mutated PDUs by the thousand against a real box: it neither falls nor swells, and the scanner next door is served.

`DICOMNET_SEED` repeats a run: each sender's sessions follow from it alone.
"""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from random import SystemRandom

import pytest

from edge.buffer.spool import Spool
from edge.buffer.states import State
from tests.peers.bystander import Bystander
from tests.peers.pdu_mutator import Mutator, sessions
from tests.peers.real_box import RealBox
from tests.peers.scripted_scu import ScriptedScu, small_data_set

SOAK = bool(os.environ.get("DICOMNET_SOAK"))
MUTATED_PDUS = 100_000 if SOAK else 3_000
SENDERS = 3
ECHO_P99_S = 1.0 if SOAK else 3.0  # see test_hostile_peers
MEMORY_MB = 200

pytestmark = pytest.mark.timeout(3600 if SOAK else 600)


class Sender(threading.Thread):
    """Sends mutated sessions, each on a connection of its own, and hangs up its half after each."""

    def __init__(self, port: int, seed: int, mutated: int) -> None:
        super().__init__(name=f"fuzz-{seed}", daemon=True)
        self.mutator = Mutator(seed)
        self.hung: list[str] = []
        self._port, self._wanted = port, mutated

    def run(self) -> None:
        while self.mutator.mutated < self._wanted:
            session = self.mutator.session()
            try:
                with ScriptedScu(self._port, source="127.0.0.3", timeout_s=20) as scu:
                    try:
                        scu.send(session)
                        scu.socket.shutdown(socket.SHUT_WR)
                    except OSError:
                        pass  # it had enough of it before the end
                    scu.wait_for_close()
            except TimeoutError:
                self.hung.append(session.hex())
                return


def test_the_sessions_are_valid_before_they_are_mutated(box: RealBox) -> None:
    for session in sessions():
        with ScriptedScu(box.port) as scu:
            scu.send(b"".join(session))
            scu.socket.shutdown(socket.SHUT_WR)
            answer = scu.wait_for_close()
        assert answer[0] == 0x02, "the association was not accepted"
        assert b"\x07\x00\x00\x00\x00\x04" not in answer, "it was aborted"


def test_mutated_sessions(box: RealBox) -> None:
    seed = int(os.environ.get("DICOMNET_SEED", SystemRandom().randrange(1 << 32)))
    print(f"DICOMNET_SEED={seed}")
    pid = box.process.pid
    senders = [Sender(box.port, seed + number, MUTATED_PDUS // SENDERS + 1) for number in range(SENDERS)]
    with Bystander(box.port) as bystander:
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    assert [sender.hung for sender in senders] == [[]] * SENDERS, "a session was never ended"
    bystander.check(ECHO_P99_S)
    assert box.process.poll() is None, box.last_log()
    assert box.complaints() == []
    peak_mb = box.memory_mb("VmHWM")
    assert peak_mb < MEMORY_MB
    with ScriptedScu(box.port) as scu:
        scu.associate()
        assert scu.store(small_data_set("1.2.7.7"), "1.2.7.7").status == 0
        scu.release()
    assert box.process.pid == pid
    box.stop()
    _check_spool(box.spool)
    mutated = sum(sender.mutator.mutated for sender in senders)
    print(f"{mutated} PDUs mutated; echo p99 {bystander.p99_s * 1000:.0f} ms; at most {peak_mb:.0f} MB")


def _check_spool(root: Path) -> None:
    """Whatever got through is in order, and nothing torn is left."""
    spool = Spool.open(root, reserve_bytes=0, quarantine_max_bytes=1 << 30, keys=None)
    try:
        assert (
            spool.recovery.torn_files == spool.recovery.files_missing == spool.recovery.files_set_aside == 0
        )
        ready = spool.holdings.list_objects(states=[State.READY], limit=1_000_000)
        assert "1.2.7.7" in {row.sop_instance_uid for row in ready}
        assert all(row.success_answered for row in ready)
    finally:
        spool.close()
