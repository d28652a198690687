"""A box's uplink before a whole central, and a line between them that breaks on order."""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian

from contract.sealing import DataKeyRing
from edge.buffer.coding_pace import Coding
from edge.buffer.receipts import LostStudy
from edge.buffer.records import InstanceIdentity, Origin, Stored
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.uplink.client import open_client
from edge.uplink.enrolment import enrol
from edge.uplink.forwarder import Forwarder
from edge.uplink.identity import IdentityStore
from edge.uplink.link import Link
from edge.uplink.receipt_check import ReceiptChecker
from tests.central.app.house import everything_in
from tests.line.cutting_proxy import CuttingProxy
from tests.line.faulty_house import Faults, FaultyHouse

BARE = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "PatientID"),
    *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored"),
    *("HighBit", "PixelRepresentation", "PixelData"),
)


class Scene:
    """`store`, `forward`, `wait`, `check`: what was stored is at central once, and nowhere else."""

    TEMPLATE_UID = "1.2.3.4000000000"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.house = FaultyHouse(folder / "central")
        self.house.start()
        self.proxy = CuttingProxy(self.house.central.gateways.port)
        key, enrolment = enrol(self.house.pairing())
        self.identity = IdentityStore(folder / "identity").save(
            key, enrolment.model_copy(update={"central_port": self.proxy.port})
        )
        self.link = Link()
        self.stored: dict[str, bytes] = {}
        self._written: dict[int, tuple[bytes, bytes]] = {}
        self.source: Dataset = dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
        self._forwarder: Forwarder | None = None
        self.told: list[tuple[int, Sequence[LostStudy]]] = []
        self.spool = self._open()

    def _open(self) -> Spool:
        return Spool.open(
            self.folder / "spool",
            reserve_bytes=0,
            quarantine_max_bytes=1 << 20,
            keys=DataKeyRing(self.identity.recipients),
            coding=Coding.NEVER,
        )

    def store(self, *, side: int = 4) -> Stored:
        """An instance with pixels of noise."""
        uid = f"1.2.3.5{len(self.stored) + 1:09d}"
        return self.store_content(uid, self._part10(uid, side))

    def template(self) -> bytes:
        """A small instance of the UID `TEMPLATE_UID`, not stored: to be made others of by replacing that."""
        return self._part10(self.TEMPLATE_UID, 4)

    def _part10(self, uid: str, side: int) -> bytes:
        """Written by pydicom once for each size; UID and pixels are exchanged in what it wrote."""
        if side not in self._written:
            ds = self.source
            ds.Rows = ds.Columns = side
            ds.PixelData = random.Random(side).randbytes(2 * side * side)
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = self.TEMPLATE_UID
            out = io.BytesIO()
            ds.save_as(out, enforce_file_format=True)
            self._written[side] = out.getvalue(), ds.PixelData
        written, pixels = self._written[side]
        assert len(uid) == len(self.TEMPLATE_UID)
        noise = random.Random(uid).randbytes(len(pixels))
        return written.replace(self.TEMPLATE_UID.encode(), uid.encode()).replace(pixels, noise)

    def make_bare(self) -> None:
        """From now on instances hold what names them and a few pixels, so that a pack of them is short."""
        bare = Dataset()
        bare.file_meta = self.source.file_meta
        for keyword in BARE:
            bare[keyword] = self.source[keyword]
        self.source = bare
        self._written.clear()

    def store_content(self, uid: str, content: bytes) -> Stored:
        """What `store` made, from the scanner once more."""
        ds = self.source
        identity = InstanceIdentity(
            ds.SOPClassUID, uid, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality
        )
        with self.spool.entrance.receive(
            Origin("CT1", "BOX", "127.0.0.1", str(ExplicitVRLittleEndian))
        ) as reception:
            reception.write(content)
            stored = reception.commit(identity)
        self.stored[uid] = content
        return stored

    def restart_central_with(self, faults: Faults) -> None:
        self.house.faults = faults
        self.restart_central()

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

    def stop_box(self) -> None:
        if self._forwarder is not None:
            self._forwarder.stop(5)
        self.spool.close()
        if self._forwarder is not None:
            self._forwarder.join(60)
            self._forwarder = None

    def restart_box(self) -> None:
        self.stop_box()
        self.spool = self._open()

    def restart_central(self) -> None:
        """On another port, as far as the proxy is concerned."""
        self.stop_central()
        self.start_central()

    def stop_central(self) -> None:
        # Nobody is let in any more: central would wait ten seconds for connections that lie idle.
        self.proxy.target_port = 0
        self.proxy.hang_up()
        self.house.stop()

    def start_central(self) -> None:
        self.house.start()
        self.proxy.target_port = self.house.central.gateways.port

    def check_receipts(self) -> None:
        """One round of the upkeep's check; what it tells people is in `told`."""
        checker = ReceiptChecker(self.spool.receipts, lambda again, lost: self.told.append((again, lost)))
        url = self.identity.central_url
        with open_client(url, self.identity.tls_context(), timeout_s=30, connections=1) as client:
            checker.check(self.identity, client, lambda: False)

    def states(self) -> list[State]:
        return [row.state for row in self.spool.holdings.list_objects(states=list(State), limit=1000)]

    def is_empty(self) -> bool:
        """Whether central has everything that was stored, and the box nothing; however much it was."""
        return not any(tally.objects for tally in self.spool.holdings.depth().by_state.values())

    def waiting_bytes(self) -> int:
        return self.spool.holdings.depth().unsent.stored_bytes

    def wait(
        self, holds: Callable[[], bool] | None = None, timeout_s: float = 60.0, every_s: float = 0.01
    ) -> None:
        """For what another thread brings about; by default, that nothing waits on the box. Asks `every_s`."""
        deadline_s = time.monotonic() + timeout_s
        pause = threading.Event()
        while not (holds() if holds else self.is_empty()):
            assert time.monotonic() < deadline_s, (
                f"it did not come about: {self.states()}, {self.link.status()}"
            )
            pause.wait(every_s)

    def store_and_wait(self, objects: int) -> int:
        """Several at once, as one pack; their sealed bytes once they are all at central."""
        assert self._forwarder is not None
        self._forwarder.pause()
        sealed = sum(self.store().stored_bytes for _ in range(objects))
        self._forwarder.resume()
        self.wait()
        return sealed

    def check(self) -> None:
        """Nothing lost, nothing doubled."""
        found = [one.content for one in everything_in(self.house.root)]
        assert sorted(found) == sorted(self.stored.values())
        assert not [one for one in everything_in(self.house.root) if one.row.flagged]

    def close(self) -> None:
        self.stop_box()
        self.house.stop()
        self.proxy.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()
