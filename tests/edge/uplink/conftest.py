"""A box's uplink without its gateway: a real spool, a real identity, a real central."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.sealing import DataKeyRing
from edge.buffer.records import InstanceIdentity, Origin, Stored
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.uplink.enrolment import enrol
from edge.uplink.forwarder import Forwarder
from edge.uplink.identity import Identity, IdentityStore
from edge.uplink.link import Link
from tests.edge.scripted_central import ScriptedCentral
from tests.soft_tpm import chip as chip
from tests.soft_tpm import chips as chips


class Uplink:
    """Starts and stops forwarders over one spool directory, as a box's lives would."""

    def __init__(self, directory: Path, identity: Identity) -> None:
        self.directory = directory
        self.identity = identity
        self.link = Link()
        self.spool = self._open()
        self._forwarder: Forwarder | None = None
        self._count = 0

    def _open(self) -> Spool:
        return Spool.open(
            self.directory,
            reserve_bytes=0,
            quarantine_max_bytes=1 << 20,
            keys=DataKeyRing(self.identity.recipients),
        )

    def store(self, size_bytes: int = 3000) -> Stored:
        """One instance of incompressible bytes, durable in the spool."""
        self._count += 1
        uid = f"1.2.3.{self._count}"
        origin = Origin("CT1", "DICOMNET", "127.0.0.1", "1.2.840.10008.1.2.1")
        with self.spool.entrance.receive(origin) as reception:
            for _ in range(size_bytes >> 20):
                reception.write(os.urandom(1 << 20))
            reception.write(os.urandom(size_bytes % (1 << 20)))
            return reception.commit(InstanceIdentity("1.2.840.10008.5.1.4.1.1.2", uid, "1.2", "1.2.3", "CT"))

    def forward(
        self, *, connections: int = 1, timeout_s: float = 30.0, backoff_ceiling_s: float = 0.05
    ) -> Forwarder:
        self._forwarder = Forwarder(
            self.spool.queue,
            self.link,
            connections=connections,
            lease_s=60.0,
            backoff_ceiling_s=backoff_ceiling_s,
            timeout_s=timeout_s,
        )
        self._forwarder.start()
        self._forwarder.use(self.identity)
        return self._forwarder

    def stop(self) -> None:
        if self._forwarder is not None:
            self._forwarder.stop(5)
        self.spool.close()
        if self._forwarder is not None:
            self._forwarder.join(60)
            self._forwarder = None

    def restart(self) -> None:
        """Stop in order; the next life starts without a forwarder."""
        self.stop()
        self.spool = self._open()

    def states(self) -> dict[str, State]:
        return {
            str(row.object_id): row.state
            for row in self.spool.holdings.list_objects(states=list(State), limit=1000)
        }


@pytest.fixture
def uplink(central: ScriptedCentral, tmp_path: Path) -> Iterator[Uplink]:
    identity = IdentityStore(tmp_path / "identity").save(*enrol(central.pairing))
    made = Uplink(tmp_path / "spool", identity)
    yield made
    made.stop()


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Wait for something that another thread brings about; fail loudly if it does not."""

    def wait(predicate: Callable[[], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        while not predicate():
            assert time.monotonic() < deadline, "it did not come about in time"
            pause.wait(0.02)

    return wait
