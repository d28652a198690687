"""A central archive behind its DICOM port, with peers, and DCMTK's programs to call it with."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE

from central.access.institutions import Institutions
from central.app import converter
from central.archive.archive import Archive
from central.audit.record import Audit
from central.database import Database
from central.dimse.association import Routes
from central.dimse.commitment import Commitments
from central.dimse.opening import Rooms, routes_for
from central.dimse.peers import Peers
from central.dimse.server import DimseServer
from central.dimse.settings import DimseSettings
from central.institution import DEFAULT_INSTITUTION
from central.workflow.peer_steps import PeerSteps
from central.workflow.procedures import ProcedureStore
from central.workflow.worklist import WorklistStore
from tests.central.access.house import ORIGIN
from tests.central.databases import open_archive_in, open_index, open_record, put_in
from tests.central.drawing import shared_renderer
from tests.peers_installed import program

EVERYTHING = ["query", "retrieve", "store", "commitment", "worklist", "procedure-step"]
PEER = {"ae_title": "PEER", "address": "127.0.0.1", "may": EVERYTHING}


@dataclass
class House:
    """Everything opened."""

    archive: Archive
    audit: Audit
    server: DimseServer
    db: Database
    root: Path
    worklist: WorklistStore
    steps: ProcedureStore
    routes: Routes
    institutions: Institutions

    @property
    def port(self) -> int:
        return self.server.port

    def put(self, content: bytes, institution: str = DEFAULT_INSTITUTION) -> None:
        """Archive a Part 10 file."""
        put_in(self.archive, content, replace(ORIGIN, institution=institution))

    def find(
        self, keys: dict[str, object], model: str, *, ae_title: str = "PEER"
    ) -> tuple[int, list[Dataset]]:
        """The final status and the identifiers of a C-FIND."""
        ae = AE(ae_title)
        ae.add_requested_context(model)
        assoc = ae.associate("127.0.0.1", self.port, ae_title="DICOMNET")
        assert assoc.is_established
        answers = list(assoc.send_c_find(identifier(keys), UID(model)))
        assoc.release()
        return answers[-1][0].Status, [ds for _, ds in answers if ds is not None]


def identifier(keys: dict[str, object]) -> Dataset:
    ds = Dataset()
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return ds


@contextmanager
def open_house(
    root: Path, *, has_room: bool = True, max_object_bytes: int = 1 << 30, **settings: object
) -> Iterator[House]:
    """An archive in `root`, served; `settings` are those of ``[dicom]``."""
    db = open_index(root)
    audit, archive = open_record(root), open_archive_in(root, db)
    chosen = DimseSettings.model_validate(
        {"port": 0, "peers": [PEER], "idle_timeout_s": 10, "max_connections_per_address": 50, **settings}
    )
    commitments = Commitments(chosen, Peers(chosen.peers), archive, db)
    worklist = WorklistStore(db)
    steps = ProcedureStore(db)
    rooms = Rooms(
        archive,
        audit,
        converter(shared_renderer()),
        lambda: has_room,
        worklist,
        PeerSteps(steps),
        commitments,
    )
    routes = routes_for(chosen, rooms)
    institutions = Institutions.open(db)
    server = DimseServer(
        chosen,
        routes,
        audit,
        archive.receiving.new_object,
        max_object_bytes=max_object_bytes,
        agreements_of=institutions.opened_to,
    )
    server.start()
    commitments.start()
    try:
        yield House(archive, audit, server, db, root, worklist, steps, routes, institutions)
    finally:
        commitments.stop()
        server.stop()
        audit.close()
        db.close()


def dcmtk(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run one of DCMTK's programs to its end."""
    path = program(name)
    assert path is not None, name
    return subprocess.run(
        [path, *map(str, arguments)],
        env={**os.environ, "TCP_NODELAY": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@contextmanager
def dcmtk_listening(port: int, name: str, *arguments: object) -> Iterator[None]:
    """One of DCMTK's servers, from when its port answers to the end of the block."""
    path = program(name)
    assert path is not None, name
    process = subprocess.Popen(
        [path, *map(str, arguments)],
        env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port)
        yield
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def storage_scp(port: int, folder: Path, *options: str) -> Iterator[None]:
    """storescp as a destination, writing what comes into `folder` bit by bit."""
    folder.mkdir(exist_ok=True)
    with dcmtk_listening(port, "storescp", "--bit-preserving", "-aet", "DEST", "-od", folder, *options, port):
        yield


def wait_for_port(port: int, timeout_s: float = 60) -> None:
    """Until something on loopback accepts connections there."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline_s, f"nothing listens on port {port}"
            time.sleep(0.02)
        else:
            return
