"""Modality Worklist with real peers: DCMTK's findscu as the modality, its wlmscpfs as the hospital's server."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt

from edge.buffer.device_key import DeviceKey
from edge.buffer.spool import Spool
from edge.buffer.worklist_cache import MAX_ITEMS, WorklistCache, WorklistItem, WorklistTooLargeError
from edge.buffer.worklist_refresh import WorklistRefresher, WorklistSourceError
from edge.gateway.addresses import Address
from edge.gateway.data_set import read_data_set
from edge.gateway.server import GatewayServer
from edge.gateway.settings import GatewaySettings
from edge.gateway.worklist import MODALITY_WORKLIST_FIND, WorklistService
from edge.gateway.worklist_source import UpstreamWorklist
from tests.edge.gateway.worklist_samples import NAMES, encoded, name_bytes, several_scripts, worklist_item
from tests.peers.scripted_scu import ScriptedScu, c_store_rq, element, p_data
from tests.peers_installed import program
from tests.ports import free_base_port

SYNTAXES = [str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)]


class Box:
    """A gateway that serves a worklist and nothing is enrolled for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = WorklistCache(
            folder / "worklist.sealed",
            DeviceKey.load(folder / "identity" / "device.key"),
            source="test",
            owner="one",
        )
        self._spool = Spool.open(folder / "spool", reserve_bytes=0, quarantine_max_bytes=0, keys=None)
        settings = GatewaySettings.model_validate({"host": "127.0.0.1", "port": 0})
        self._server = GatewayServer(settings, self._spool.entrance, services=[WorklistService(self.cache)])

    def __enter__(self) -> Box:
        self._server.start()
        self.port = self._server.port
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self._spool.close()

    def schedule(self, items: Sequence[Dataset]) -> None:
        self.cache.replace([encoded(item) for item in items])

    def find(self, query: Dataset, syntax: str = SYNTAXES[0]) -> tuple[int, list[Dataset]]:
        """Status, and every identifier that came before it."""
        ae = AE(ae_title="CT1")
        ae.add_requested_context(MODALITY_WORKLIST_FIND, syntax)
        association = ae.associate("127.0.0.1", self.port, ae_title="DICOMNET")
        assert association.is_established
        answers = list(association.send_c_find(query, MODALITY_WORKLIST_FIND))
        association.release()
        return int(answers[-1][0].Status), [found for _, found in answers[:-1] if found is not None]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with Box(tmp_path) as running:
        yield running


def step_query(**keys: str) -> Dataset:
    step = Dataset()
    for keyword, value in keys.items():
        setattr(step, keyword, value)
    query = Dataset()
    query.PatientName = ""
    query.PatientID = ""
    query.ScheduledProcedureStepSequence = [step]
    return query


@pytest.mark.needs("dcmtk")
@pytest.mark.parametrize("syntax_option", ["-xe", "-xi"])
def test_findscu_gets_every_name_in_its_own_bytes(box: Box, tmp_path: Path, syntax_option: str) -> None:
    box.schedule(several_scripts())
    out = tmp_path / "answers"
    out.mkdir()
    findscu = program("findscu")
    assert findscu
    done = subprocess.run(
        [
            findscu,
            *("-W", syntax_option, "-aet", "CT1", "-aec", "DICOMNET", "-X", "-od", str(out)),
            *("-k", "0010,0010", "-k", "0010,0020", "-k", "0020,000d"),
            *("-k", "(0040,0100)[0].Modality=CT", "-k", "(0040,0100)[0].ScheduledProcedureStepStartTime"),
            *("127.0.0.1", str(box.port)),
        ],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = [dcmread(path, force=True) for path in sorted(out.iterdir())]
    # In the order of the scheduled start.
    assert [answer.PatientID for answer in answers] == list(NAMES)
    for ds, wanted in zip(answers, several_scripts(), strict=True):
        assert str(ds.PatientName) == str(wanted.PatientName)
        assert ds.SpecificCharacterSet == wanted.SpecificCharacterSet
        raw = next(path for path in out.iterdir() if name_bytes(wanted) in path.read_bytes())
        assert dcmread(raw, force=True).PatientID == wanted.PatientID
        assert "PatientBirthDate" not in ds  # it was not asked for


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_only_what_matches_and_only_what_was_asked_for(box: Box, syntax: str) -> None:
    box.schedule([worklist_item("1"), worklist_item("2", station="MR1", modality="MR")])
    status, found = box.find(step_query(Modality="MR", ScheduledStationAETitle="", PreMedication=""), syntax)
    assert status == 0x0000
    assert [ds.PatientID for ds in found] == ["2"]
    step = found[0].ScheduledProcedureStepSequence[0]
    assert (step.Modality, step.ScheduledStationAETitle, step.PreMedication) == ("MR", "MR1", "")
    assert "ScheduledProcedureStepStartDate" not in step


def test_an_empty_sequence_key_brings_the_whole_sequence(box: Box) -> None:
    box.schedule([worklist_item()])
    query = Dataset()
    query.ScheduledProcedureStepSequence = []
    _, found = box.find(query)
    assert found[0].ScheduledProcedureStepSequence[0].ScheduledProcedureStepID == "SPS1"


def test_a_box_that_never_saw_its_worklist_does_not_say_that_nobody_is_scheduled(box: Box) -> None:
    status, found = box.find(step_query())
    assert (status, found) == (0xA700, [])
    box.schedule([])
    assert box.find(step_query()) == (0x0000, [])


def test_the_worklist_survives_a_restart_and_is_closed_on_the_disk(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        box.schedule(several_scripts())
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"19620410" not in content, path
            for ds in several_scripts():
                assert name_bytes(ds) not in content, path
    with Box(tmp_path) as box:
        status, found = box.find(step_query())
        assert (status, len(found)) == (0x0000, len(NAMES))
        refreshed = box.cache.snapshot().refreshed_at_utc
        assert refreshed is not None


def test_a_cancelled_query_ends(box: Box) -> None:
    box.schedule([worklist_item(str(number)) for number in range(MAX_ITEMS)])
    ae = AE(ae_title="CT1")
    ae.add_requested_context(MODALITY_WORKLIST_FIND)
    association = ae.associate("127.0.0.1", box.port)
    statuses = []
    for number, (status, _) in enumerate(association.send_c_find(step_query(), MODALITY_WORKLIST_FIND, 7)):
        statuses.append(int(status.Status))
        if number == 0:
            association.send_c_cancel(7, None, MODALITY_WORKLIST_FIND)
    association.release()
    assert statuses[-1] == 0xFE00
    assert len(statuses) < MAX_ITEMS


def c_find(scu: ScriptedScu, identifier: bytes) -> int:
    """Send it on context 1; the status of the first response."""
    body = (
        element(0x0002, MODALITY_WORKLIST_FIND.encode())
        + element(0x0100, struct.pack("<H", 0x0020))
        + element(0x0110, struct.pack("<H", 1))
        + element(0x0700, struct.pack("<H", 0))
        + element(0x0800, struct.pack("<H", 1))
    )
    scu.send(p_data(1, 3, element(0x0000, struct.pack("<I", len(body))) + body))
    pieces = [identifier[at : at + 16_000] for at in range(0, len(identifier), 16_000)]
    for piece in pieces[:-1]:
        scu.send(p_data(1, 0, piece))
    scu.send(p_data(1, 2, pieces[-1]))
    return scu.read_response().status


NEST = struct.pack("<HH2sHI", 0x0040, 0x0100, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
    "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
)
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)


@pytest.mark.parametrize(
    "identifier",
    [
        NEST * 5_000,
        struct.pack("<HH2sH", 0x0010, 0x0010, b"\0\1", 4) + b"DOE^",
        struct.pack("<HH2sH", 0x0010, 0x0010, b"PN", 400) + b"DOE^",
        struct.pack("<HH2sHI", 0x0040, 0x0100, b"SQ", 0, 16) + ITEM * 2,  # two items in a key
        b"\xff" * 1_000,
        b"".join(struct.pack("<HH2sH", 0x0011, 0x1000 + number, b"LO", 0) for number in range(2_001)),
    ],
    ids=["nested", "bad VR", "cut", "two items", "noise", "wide"],
)
def test_a_hostile_query_is_refused_and_the_next_one_answered(box: Box, identifier: bytes) -> None:
    box.schedule([worklist_item()])
    with box_scu(box) as scu:
        assert c_find(scu, identifier) == 0xA900
        assert c_find(scu, struct.pack("<HH2sH", 0x0010, 0x0020, b"LO", 0)) == 0xFF00
        assert scu.read_pdu()[0] == 0x04  # the identifier
        assert scu.read_response().status == 0x0000
        scu.release()


def test_a_huge_query_does_not_fill_memory(box: Box) -> None:
    box.schedule([worklist_item()])
    with box_scu(box) as scu, contextlib.suppress(AssertionError, OSError):
        assert c_find(scu, b"\0" * (8 << 20)) >= 0xA700
    assert box.find(step_query())[0] == 0x0000


@contextlib.contextmanager
def box_scu(box: Box) -> Iterator[ScriptedScu]:
    with ScriptedScu(box.port) as scu:
        scu.associate([(1, MODALITY_WORKLIST_FIND, [SYNTAXES[0]])])
        yield scu


def test_no_store_on_a_worklist_context(box: Box) -> None:
    with box_scu(box) as scu:
        scu.send(p_data(1, 3, c_store_rq("1.2.840.10008.5.1.4.1.1.2", "1.2.3")))
        scu.send(p_data(1, 2, b"\0" * 8))
        assert scu.read_response().status != 0x0000


# Upstream: a worklist server of the hospital.


@contextlib.contextmanager
def wlmscpfs(folder: Path, items: Sequence[Dataset]) -> Iterator[int]:
    """DCMTK's worklist server with `items`, called RIS; the port it listens on."""
    place = folder / "RIS"
    place.mkdir(parents=True, exist_ok=True)
    (place / "lockfile").touch()
    for number, item in enumerate(items):
        item.file_meta = FileMetaDataset()
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.file_meta.MediaStorageSOPClassUID = MODALITY_WORKLIST_FIND
        item.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        item.save_as(place / f"{number}.wl", enforce_file_format=True)
    port = free_base_port(1)
    path = program("wlmscpfs")
    assert path
    server = subprocess.Popen(
        [path, "-s", "-dfr", "-csk", "-dhl", "-dfp", str(folder), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port)
        yield port
    finally:
        server.terminate()
        server.wait(60)


def wait_for_port(port: int) -> None:
    for _ in range(1200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        threading.Event().wait(0.05)
    raise AssertionError("the server did not come up")


def upstream(port: int, horizon_days: int = 3) -> UpstreamWorklist:
    return UpstreamWorklist(
        Address("127.0.0.1", port),
        ae_title="RIS",
        calling_ae_title="DICOMNET",
        horizon_days=horizon_days,
        timeout_s=10,
    )


@pytest.mark.needs("dcmtk")
def test_names_come_through_from_the_hospital_to_the_scanner_byte_for_byte(box: Box, tmp_path: Path) -> None:
    with wlmscpfs(tmp_path / "wl", several_scripts()) as port:
        fetched = upstream(port).fetch("")
        assert len(fetched.items) == len(NAMES)
        box.cache.replace(fetched.items)
    # The hospital's server is gone; the box answers.
    for syntax in SYNTAXES:
        status, found = box.find(step_query(), syntax)
        assert status == 0x0000
        by_id = {str(ds.PatientID): ds for ds in found}
        for wanted in several_scripts():
            assert name_bytes(by_id[str(wanted.PatientID)]) == name_bytes(wanted)


@pytest.mark.needs("dcmtk")
def test_what_lies_outside_the_horizon_is_not_fetched(tmp_path: Path) -> None:
    items = [worklist_item("1"), worklist_item("2", date="19990101"), worklist_item("3", date="29990101")]
    with wlmscpfs(tmp_path, items) as port:
        fetched = upstream(port).fetch("")
    ids = [read_data_set(item.data_set, item.transfer_syntax_uid)[0x00100020].value for item in fetched.items]
    assert ids == [b"1 "]


@pytest.mark.needs("dcmtk")
def test_the_refresher_notes_news_and_outages(tmp_path: Path) -> None:
    key = DeviceKey.load(tmp_path / "device.key")
    cache = WorklistCache(tmp_path / "worklist.sealed", key, source="upstream", owner="one")
    refreshed = threading.Event()
    with wlmscpfs(tmp_path / "wl", [worklist_item()]) as port:
        source = upstream(port)

        def fetch(version: str) -> object:
            try:
                return source.fetch(version)
            finally:
                refreshed.set()

        refresher = WorklistRefresher(cache, fetch, interval_s=3600)  # type: ignore[arg-type]
        refresher.start()
        assert refreshed.wait(60)
    refreshed.clear()
    refresher.soon()
    assert refreshed.wait(60)
    refresher.stop(10)
    state = refresher.state()
    assert (state.source, state.items) == ("upstream", 1)
    assert state.refreshed_at_utc is not None
    assert "cannot be reached" in state.last_error


@pytest.mark.parametrize("port_of", ["nobody", "storage only"])
def test_what_is_wrong_upstream_is_said(port_of: str) -> None:
    ae = AE("RIS")
    ae.add_supported_context("1.2.840.10008.5.1.4.1.1.2")
    server = ae.start_server(("127.0.0.1", 0), block=False)
    port = server.server_address[1]
    expected = "does not offer"
    try:
        if port_of == "nobody":
            ae.shutdown()
            expected = "cannot be reached"
        with pytest.raises(WorklistSourceError, match=expected):
            upstream(port).fetch("")
    finally:
        ae.shutdown()


def serve_upstream(answers: Iterator[tuple[int, Dataset | None]]) -> tuple[AE, int]:
    ae = AE("RIS")
    ae.add_supported_context(MODALITY_WORKLIST_FIND)
    handlers = [(evt.EVT_C_FIND, lambda _: answers)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)  # type: ignore[arg-type]
    return ae, server.server_address[1]


def test_a_server_without_end_is_cut_off() -> None:
    def endless() -> Iterator[tuple[int, Dataset | None]]:
        item = worklist_item()
        while True:
            yield 0xFF00, item

    ae, port = serve_upstream(endless())
    try:
        with pytest.raises(WorklistTooLargeError):
            upstream(port).fetch("")
    finally:
        ae.shutdown()


def test_a_single_answer_without_end_is_cut_off() -> None:
    def huge() -> Iterator[tuple[int, Dataset | None]]:
        item = worklist_item()
        item.PatientComments = "x" * (40 << 20)
        yield 0xFF00, item

    ae, port = serve_upstream(huge())
    try:
        with pytest.raises(WorklistTooLargeError):
            upstream(port).fetch("")
    finally:
        ae.shutdown()


def test_a_failure_upstream_keeps_the_former_worklist() -> None:
    ae, port = serve_upstream(iter([(0xFF00, worklist_item()), (0xC001, None)]))
    try:
        with pytest.raises(WorklistSourceError, match="0xC001"):
            upstream(port).fetch("")
    finally:
        ae.shutdown()


def test_an_item_that_cannot_be_read_hides_no_other(box: Box) -> None:
    box.cache.replace([WorklistItem(b"\xff" * 9, SYNTAXES[0]), encoded(worklist_item())])
    assert [ds.PatientID for ds in box.find(step_query())[1]] == ["1"]
