"""A box's half that serves destinations: a real spool with instances that both central and the box itself can open."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydicom import dcmread

from contract.identifiers import ObjectId
from contract.part10 import file_meta
from contract.sealing import DataKeyRing
from edge.buffer.deliveries import NOTHING_OWED, DeliveryTally
from edge.buffer.label import Label
from edge.buffer.local_recipient import LocalRecipient
from edge.buffer.records import InstanceIdentity, Origin
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.config import Settings
from edge.destinations import Destinations
from tests.edge.buffer.instances import Central
from tests.peers.scripted_scu import CT_STORAGE, EXPLICIT_LITTLE, ds_element
from tests.peers_installed import program


def wait_until(predicate: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait for something that another process brings about; fail loudly if it does not."""
    deadline_s = time.monotonic() + timeout_s
    pause = threading.Event()
    while not predicate():
        assert time.monotonic() < deadline_s, "it did not come about in time"
        pause.wait(0.02)


def data_set(
    uid: str, *, pixels: bytes | None = b"\x01\x02" * 500, sop_class: str | None = CT_STORAGE
) -> bytes:
    parts = [
        (0x0008, 0x0016, "UI", sop_class.encode()) if sop_class else None,
        (0x0008, 0x0018, "UI", uid.encode()),
        (0x0008, 0x0060, "CS", b"CT"),
        (0x0010, 0x0010, "PN", b"NOBODY^AT ALL"),
        (0x0010, 0x0020, "LO", b"P1"),
        (0x0020, 0x000D, "UI", b"1.2.9"),
        (0x0020, 0x000E, "UI", b"1.2.9.1"),
        (0x7FE0, 0x0010, "OW", pixels) if pixels is not None else None,
    ]
    return b"".join(ds_element(*part) for part in parts if part)


class SendingBox:
    """`start` begins to serve the destinations of `settings`; `restart` is the box's next life."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.central = Central()
        self.recipient = LocalRecipient.load(folder / "local_key" / "local.key")
        self.route: Callable[[Label], tuple[str, ...]] = lambda _: self.names
        self.names: tuple[str, ...] = ()
        self._destinations: Destinations | None = None
        self.configure(**settings)
        self.spool = self._open()
        self._count = 0

    def configure(self, **destinations: object) -> None:
        self.settings = Settings.model_validate(
            {
                "box": {"state_directory": self.folder},
                "query": {"enabled": True},
                "destinations": {"backoff_ceiling_s": 0.2, **destinations},
            }
        )
        self.names = tuple(one.name for one in self.settings.destinations.all)

    def _open(self) -> Spool:
        return Spool.open(
            self.folder / "spool",
            reserve_bytes=0,
            quarantine_max_bytes=1 << 20,
            keys=DataKeyRing((self.central.private.public_key(), self.recipient.public_key)),
            route=lambda label: self.route(label),
        )

    def start(self) -> SendingBox:
        self._destinations = Destinations(
            self.settings, self.spool, self.recipient, on_delivered=lambda: None
        )
        self._destinations.start()
        return self

    @property
    def destinations(self) -> Destinations:
        assert self._destinations is not None
        return self._destinations

    def stop(self) -> None:
        if self._destinations is not None:
            self._destinations.stop(5)
        self.spool.close()
        if self._destinations is not None:
            self._destinations.join(3)
            self._destinations = None

    def restart(self) -> None:
        self.stop()
        self.spool = self._open()
        self.start()

    def store(
        self, content: bytes | None = None, *, syntax: str = EXPLICIT_LITTLE, **more: object
    ) -> ObjectId:
        """One instance, acknowledged to its scanner. Its UID is ``1.2.3.<count>``."""
        self._count += 1
        uid = f"1.2.3.{self._count}"
        content = data_set(uid, **more) if content is None else content  # type: ignore[arg-type]
        with self.spool.entrance.receive(Origin("CT1", "DICOMNET", "127.0.0.1", syntax)) as reception:
            reception.write(file_meta(CT_STORAGE, uid, syntax))
            reception.write(content)
            return reception.commit(InstanceIdentity(CT_STORAGE, uid, "1.2.9", "1.2.9.1", "CT")).object_id

    def give_to_central(self) -> None:
        while (claimed := self.spool.queue.claim(lease_s=60)) is not None:
            self.spool.queue.acknowledge(claimed.object_id, "a receipt")

    def tally(self, name: str) -> DeliveryTally:
        return self.spool.deliveries.tallies().get(name, NOTHING_OWED)

    def waits(self, name: str) -> int:
        return self.tally(name).waiting

    def reasons(self, name: str) -> list[str]:
        return [
            row.reason for row in self.spool.deliveries.set_aside_rows(limit=99) if row.destination == name
        ]

    def trouble(self, name: str) -> str:
        (status,) = [one for one in self.destinations.status() if one.name == name]
        return status.last_error

    def states(self) -> set[State]:
        return {row.state for row in self.spool.holdings.list_objects(states=list(State), limit=999)}


class StoreScp:
    """DCMTK's storescp on a port of its own, started and stopped at will."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> StoreScp:
        self.folder.mkdir(exist_ok=True)
        command = [
            str(program("storescp")),
            "-od",
            str(self.folder),
            "-aet",
            "PACS",
            *options,
            str(self.port),
        ]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "TCP_NODELAY": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._listens)
        return self

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "storescp ended"
        # Not by connecting: that would be an association to it.
        rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
        found = [row.split()[1:4] for row in rows]
        return any(
            int(local.rpartition(":")[2], 16) == self.port and state == "0A" for local, _, state in found
        )

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def uids(self) -> set[str]:
        return {str(dcmread(path, force=True).SOPInstanceUID) for path in self.folder.iterdir()}

    def lose_its_disk(self) -> None:
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port on which connections stand and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]
