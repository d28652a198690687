"""Query and retrieve on the box: DCMTK's findscu, getscu and movescu, who may ask, and what cannot be sent."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.events import Event

from contract.identifiers import ObjectId
from contract.sealing import DataKeyRing
from edge.buffer.catalogue import Catalogue
from edge.buffer.device_key import DeviceKey
from edge.buffer.local_recipient import LocalRecipient
from edge.buffer.records import Present
from edge.buffer.service_database import ServiceDatabase
from edge.buffer.spool import Spool
from edge.gateway.query import STUDY_ROOT_FIND, Doorkeeper, QueryService
from edge.gateway.query_index import QueryIndex
from edge.gateway.retrieve import STUDY_ROOT_GET, STUDY_ROOT_MOVE, RetrieveService
from edge.gateway.service_settings import DestinationSettings
from edge.gateway.settings import TlsSettings
from tests.edge.buffer.instances import contents
from tests.edge.destinations.sending import StoreScp
from tests.edge.gateway.authority import Authority
from tests.edge.gateway.conftest import Gateway, StartGateway
from tests.edge.gateway.test_association import wait_until
from tests.peers.scripted_scu import (
    CT_STORAGE,
    EXPLICIT_LITTLE,
    VERIFICATION,
    associate_rq,
    command,
    ds_element,
    item,
    p_data,
    pdu,
)
from tests.peers_installed import program
from tests.ports import free_base_port

JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
MUELLER = "Müller^Jörg"


class LateSpool:
    """The spool, which the fixture opens after it has made the services."""

    spool: Spool

    def present(self, *, after: int, limit: int) -> list[Present]:
        return self.spool.holdings.present(after=after, limit=limit)

    def open_object(self, object_id: ObjectId) -> BinaryIO:
        return self.spool.holdings.open_object(object_id)


@dataclass
class Querying:
    gateway: Gateway
    catalogue: Catalogue
    index: QueryIndex
    folder: Path
    workstation_port: int
    authority: Authority

    @property
    def port(self) -> int:
        return self.gateway.port

    def store(self, uid: str, *, study: str = "1.2.9", series: str = "", **more: object) -> bytes:
        """Send an instance and wait until it can be found; its data set."""
        data = instance(uid, study, series or f"{study}.1", **more)  # type: ignore[arg-type]
        syntax = str(more.get("syntax", EXPLICIT_LITTLE))
        with self.gateway.connect() as scu:
            scu.associate([(1, CT_STORAGE, [syntax])])
            assert scu.store(data, uid).status == 0
            scu.release()
        self.index.look_again()
        wait_until(lambda: self.catalogue.objects(sop_instance_uid=[uid]))
        return data

    def find(self, *keys: str, level: str = "STUDY", ae_title: str = "WORKSTATION") -> list[Dataset]:
        """What findscu wrote down."""
        folder = self.folder / f"found-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        wanted = [argument for key in (f"QueryRetrieveLevel={level}", *keys) for argument in ("-k", key)]
        done = run(
            "findscu", "-S", "-aet", ae_title, "-X", "-od", str(folder), *wanted, "127.0.0.1", str(self.port)
        )
        assert done.returncode == 0, done.stderr
        return [dcmread(path, force=True) for path in sorted(folder.iterdir())]


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program(name)), *arguments],
        env={**os.environ, "TCP_NODELAY": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def instance(
    uid: str,
    study: str,
    series: str,
    *,
    name: str = MUELLER,
    patient_id: str = "P1",
    date: str = "20261123",
    pixels: bytes = b"\x01\x02" * 500,
    syntax: str = EXPLICIT_LITTLE,
    modality: str = "CT",
) -> bytes:
    del syntax
    parts = [
        (0x0008, 0x0005, "CS", b"ISO_IR 100"),
        (0x0008, 0x0016, "UI", CT_STORAGE.encode()),
        (0x0008, 0x0018, "UI", uid.encode()),
        (0x0008, 0x0020, "DA", date.encode()),
        (0x0008, 0x0060, "CS", modality.encode("latin-1")),
        (0x0010, 0x0010, "PN", name.encode("latin-1")),
        (0x0010, 0x0020, "LO", patient_id.encode()),
        (0x0010, 0x0030, "DA", b"19700131"),
        (0x0020, 0x000D, "UI", study.encode()),
        (0x0020, 0x000E, "UI", series.encode()),
        (0x0020, 0x0013, "IS", uid.rpartition(".")[2].encode()),
        (0x7FE0, 0x0010, "OW", pixels),
    ]
    return b"".join(ds_element(*part) for part in parts)


@pytest.fixture
def querying(
    start_gateway: StartGateway, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Querying]:
    """Parametrized with scanners, those alone may send; else everybody."""
    database = ServiceDatabase(tmp_path / "services.sqlite3")
    catalogue = Catalogue(database, DeviceKey.load(tmp_path / "identity" / "device.key"))
    recipient = LocalRecipient.load(tmp_path / "local_key" / "local.key")
    port = free_base_port()
    authority = Authority(tmp_path / "ca")
    ours = authority.issue("box")
    tls = TlsSettings(certificate=ours.certificate, key=ours.key, client_ca=authority.ca)
    doorkeeper = Doorkeeper(
        [
            DestinationSettings(ae_title="WORKSTATION", host="localhost", port=port),
            DestinationSettings(ae_title="SECURE", host="127.0.0.1", port=port, tls=True),
            DestinationSettings(ae_title="ELSEWHERE", host="192.0.2.1", port=104),
        ]
    )
    cache = LateSpool()
    gateway = start_gateway(
        services=[
            QueryService(catalogue, doorkeeper),
            RetrieveService(catalogue, cache, recipient, doorkeeper, tls),
        ],
        scanners=getattr(request, "param", ()),
        may_ask=doorkeeper.knows,
    )
    cache.spool = gateway.spool
    gateway.spool.entrance.set_keys(DataKeyRing((gateway.central.private.public_key(), recipient.public_key)))
    index = QueryIndex(catalogue, cache, recipient, sweep_every_s=0.1)
    index.start()
    folder = tmp_path / "workstation"
    folder.mkdir()
    yield Querying(gateway, catalogue, index, folder, port, authority)
    gateway.server.stop()
    index.stop()
    database.close()


@pytest.mark.needs("dcmtk")
def test_findscu_at_every_level(querying: Querying) -> None:
    querying.store("1.2.9.1.1")
    querying.store("1.2.9.1.2")
    querying.store("1.2.9.2.1", series="1.2.9.2")
    querying.store("1.2.8.1.1", study="1.2.8", name="DOE^JANE", patient_id="P2", date="20250101")

    (study,) = querying.find(
        "SpecificCharacterSet=ISO_IR 192", "PatientName=MÜLLER*", "StudyInstanceUID", "PatientBirthDate"
    )
    assert study.StudyInstanceUID == "1.2.9"
    assert study.PatientBirthDate == "19700131"
    assert str(study.PatientName) == MUELLER
    assert study.SpecificCharacterSet == "ISO_IR 100"
    assert study.RetrieveAETitle == "ANY-SCP"  # as findscu calls by default: the name it reached us by

    studies = querying.find("StudyDate=20250101-", "NumberOfStudyRelatedInstances", "StudyInstanceUID")
    assert {(one.StudyInstanceUID, one.NumberOfStudyRelatedInstances) for one in studies} == {
        ("1.2.9", 3),
        ("1.2.8", 1),
    }
    series = querying.find("StudyInstanceUID=1.2.9", "SeriesInstanceUID", level="SERIES")
    assert {one.SeriesInstanceUID for one in series} == {"1.2.9.1", "1.2.9.2"}
    images = querying.find(
        "StudyInstanceUID=1.2.9",
        "SeriesInstanceUID=1.2.9.1",
        "SOPInstanceUID",
        "InstanceNumber",
        level="IMAGE",
    )
    assert {(one.SOPInstanceUID, int(one.InstanceNumber)) for one in images} == {
        ("1.2.9.1.1", 1),
        ("1.2.9.1.2", 2),
    }
    assert querying.find("PatientID=P3") == []
    assert querying.find("SeriesInstanceUID", level="SERIES") == []  # no study named: an error, no answers


@pytest.mark.needs("dcmtk")
def test_modalities_in_study_and_keys_that_nothing_is_known_of(querying: Querying) -> None:
    querying.store("1.2.9.1.1")
    querying.store("1.2.9.2.1", series="1.2.9.2", modality="PT")
    querying.store("1.2.8.1.1", study="1.2.8", modality="Ü")  # against the rule, and no reason to fail

    both = querying.find("StudyInstanceUID=1.2.9", "ModalitiesInStudy")
    pet = querying.find("StudyInstanceUID", "ModalitiesInStudy=PT")
    unknown = querying.find(
        "StudyInstanceUID", "NumberOfPatientRelatedStudies=7", "ProcedureCodeSequence[0].CodeValue=77477000"
    )

    assert [list(one.ModalitiesInStudy) for one in both] == [["CT", "PT"]]
    assert [one.StudyInstanceUID for one in pet] == ["1.2.9"]
    assert querying.find("ModalitiesInStudy=MR") == []
    assert {one.StudyInstanceUID for one in unknown} == {"1.2.9", "1.2.8"}


@pytest.mark.needs("dcmtk")
def test_getscu_gets_the_bytes_that_were_sent(querying: Querying) -> None:
    sent = {uid: querying.store(uid, pixels=os.urandom(3_000_000)) for uid in ("1.2.9.1.1", "1.2.9.1.2")}
    querying.store("1.2.8.1.1", study="1.2.8")

    done = run(
        "getscu", "-S", "-v", "-aet", "WORKSTATION", "+B", "-od", str(querying.folder),
        "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2.9", "127.0.0.1", str(querying.port),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    got = {dcmread(path).SOPInstanceUID: path.read_bytes() for path in querying.folder.iterdir()}
    assert set(got) == set(sent), done.stderr
    for uid, data in sent.items():
        assert got[uid].endswith(data)


@pytest.mark.needs("dcmtk")
def test_movescu_sends_to_the_configured_destination_only(querying: Querying) -> None:
    sent = {uid: querying.store(uid, pixels=os.urandom(500_000)) for uid in ("1.2.9.1.1", "1.2.9.1.2")}
    storescp = subprocess.Popen(
        [str(program("storescp")), "+B", "-od", str(querying.folder), str(querying.workstation_port)]
    )
    try:
        wait_until(lambda: run("echoscu", "127.0.0.1", str(querying.workstation_port)).returncode == 0)
        done = move(querying, "WORKSTATION")
        unknown = move(querying, "ATTACKER")
    finally:
        storescp.terminate()
        storescp.wait(60)

    assert done.returncode == 0, done.stderr
    got = {dcmread(path).SOPInstanceUID: path.read_bytes() for path in querying.folder.iterdir()}
    assert set(got) == set(sent)
    assert all(got[uid].endswith(data) for uid, data in sent.items())
    assert "MoveDestinationUnknown" in unknown.stdout + unknown.stderr


@pytest.mark.needs("dcmtk")
def test_movescu_sends_over_tls_where_the_destination_wants_that_and_else_nothing(querying: Querying) -> None:
    data = querying.store("1.2.9.1.1")
    theirs = querying.authority.issue("workstation")
    workstation = StoreScp(querying.folder, querying.workstation_port)
    try:
        workstation.start(
            "+B", "+tls", str(theirs.key), str(theirs.certificate), "+cf", str(querying.authority.ca)
        )
        assert move(querying, "SECURE").returncode == 0
        in_the_clear = move(querying, "WORKSTATION")
    finally:
        workstation.kill()

    (path,) = querying.folder.iterdir()
    assert path.read_bytes().endswith(data)
    assert "OutOfResourcesSubOperations" in in_the_clear.stdout + in_the_clear.stderr


def test_an_unreachable_destination_is_a_failure_that_lists_what_was_not_sent(querying: Querying) -> None:
    querying.store("1.2.9.1.1")
    statuses = retrieve(querying, STUDY_ROOT_MOVE)

    assert [status.Status for status, _ in statuses] == [0xA702]
    assert statuses[-1][0].NumberOfFailedSuboperations == 1
    assert statuses[-1][1].FailedSOPInstanceUIDList == "1.2.9.1.1"


def test_a_destination_that_goes_away_in_the_middle(querying: Querying) -> None:
    for number in range(3):
        querying.store(f"1.2.9.1.{number + 1}")
    taken: list[Event] = []

    def take(event: Event) -> int:
        taken.append(event)
        if len(taken) == 2:
            event.assoc.abort()
        return 0x0000

    ae = AE("WORKSTATION")
    ae.add_supported_context(CT_STORAGE, [EXPLICIT_LITTLE])
    handlers = [(evt.EVT_C_STORE, take)]
    server = ae.start_server(("127.0.0.1", querying.workstation_port), block=False, evt_handlers=handlers)
    try:
        statuses = retrieve(querying, STUDY_ROOT_MOVE)
    finally:
        server.shutdown()

    assert [status.Status for status, _ in statuses] == [0xFF00, 0xFF00, 0xB000]
    assert list(statuses[-1][1].FailedSOPInstanceUIDList) == ["1.2.9.1.2", "1.2.9.1.3"]


def test_what_the_peer_does_not_take_as_it_is_stored_is_not_sent(querying: Querying) -> None:
    querying.store("1.2.9.1.1")
    querying.store("1.2.9.1.2", syntax=JPEG_LOSSLESS)
    received: list[str] = []

    statuses = retrieve(querying, STUDY_ROOT_GET, received=received)

    assert received == ["1.2.9.1.1"]
    assert [status.Status for status, _ in statuses] == [0xFF00, 0xB000]
    assert statuses[-1][1].FailedSOPInstanceUIDList == "1.2.9.1.2"
    assert statuses[-1][0].NumberOfCompletedSuboperations == 1


def test_a_get_is_cancelled(querying: Querying) -> None:
    for number in range(8):
        querying.store(f"1.2.9.1.{number + 1}")
    received: list[str] = []

    statuses = retrieve(querying, STUDY_ROOT_GET, received=received, cancel_after=2)

    assert statuses[-1][0].Status == 0xFE00
    assert 2 <= len(received) < 8


@pytest.mark.parametrize("ae_title", ["STRANGER", "ELSEWHERE"])
@pytest.mark.parametrize("sop_class", [STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE])
def test_nobody_else_is_answered(ae_title: str, sop_class: str, querying: Querying) -> None:
    querying.store("1.2.9.1.1")
    received: list[str] = []

    statuses = retrieve(querying, sop_class, ae_title=ae_title, received=received)

    assert [status.Status for status, _ in statuses] == [0x0124]
    assert received == []


@pytest.mark.needs("dcmtk")
@pytest.mark.parametrize("querying", [[{"ae_title": "CT1"}]], indirect=True)
def test_a_destination_that_is_no_scanner_may_ask_and_not_send(querying: Querying) -> None:
    querying.store("1.2.9.1.1")
    received: list[str] = []

    found = querying.find("StudyInstanceUID")
    got = retrieve(querying, STUDY_ROOT_GET, received=received)

    assert [ds.StudyInstanceUID for ds in found] == ["1.2.9"]
    assert ([status.Status for status, _ in got], received) == ([0x0000], ["1.2.9.1.1"])
    ae = AE("WORKSTATION")
    ae.add_requested_context(CT_STORAGE, EXPLICIT_LITTLE)
    ae.add_requested_context(VERIFICATION)
    association = ae.associate("127.0.0.1", querying.port)
    assert [cx.abstract_syntax for cx in association.accepted_contexts] == [VERIFICATION]
    association.release()
    with querying.gateway.connect() as scu:  # it says that it will be sent to, and sends
        role = item(0x54, struct.pack(">H", len(CT_STORAGE)) + CT_STORAGE.encode() + b"\1\1")
        plain = associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])], calling=b"WORKSTATION")
        at = plain.index(b"\x50\0")
        scu.send(pdu(0x01, plain[6:at] + item(0x50, plain[at + 4 :] + role)))
        kind, accepted = scu.read_pdu()
        assert kind == 0x02
        assert role[:-2] + b"\0\1" in accepted
        assert scu.store(instance("1.2.9.1.2", "1.2.9", "1.2.9.1"), "1.2.9.1.2").status == 0x0124
    assert len(querying.gateway.rows()) == 1
    for stranger in ("STRANGER", "ELSEWHERE"):
        refused = AE(stranger).associate("127.0.0.1", querying.port, [build_context(VERIFICATION)])
        assert not refused.is_established


def test_what_was_sealed_before_the_key_is_found_by_its_uid_and_not_sent(querying: Querying) -> None:
    querying.gateway.spool.entrance.set_keys(DataKeyRing((querying.gateway.central.private.public_key(),)))
    querying.store("1.2.9.1.1")

    found = retrieve(querying, STUDY_ROOT_FIND)
    got = retrieve(querying, STUDY_ROOT_GET)

    assert [status.Status for status, _ in found] == [0xFF00, 0x0000]
    assert found[0][1].PatientName == ""
    assert [status.Status for status, _ in got] == [0xA702]


def test_what_was_freed_is_no_longer_found(querying: Querying) -> None:
    querying.store("1.2.9.1.1")
    claimed = querying.gateway.spool.queue.claim(lease_s=60)
    assert claimed is not None
    querying.gateway.spool.queue.acknowledge(claimed.object_id, "a verified receipt")
    querying.index.look_again()

    wait_until(lambda: not querying.catalogue.objects(sop_instance_uid=["1.2.9.1.1"]), 20)
    assert [status.Status for status, _ in retrieve(querying, STUDY_ROOT_FIND)] == [0x0000]


def test_no_name_is_in_any_file(querying: Querying, tmp_path: Path) -> None:
    querying.store("1.2.9.1.1", name="CANARY^PATIENT", pixels=b"CANARY^PIXELS" * 1000)
    assert len(retrieve(querying, STUDY_ROOT_FIND)) == 2

    for path, content in contents(tmp_path):
        assert b"CANARY" not in content, path


@pytest.mark.parametrize(
    ("identifier", "comment"),
    [
        (b"\xff" * 3000, "cannot be read"),
        (b"\x08\x00\x99\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000, "cannot be read"),
        (b"", "Level"),
        (ds_element(0x0008, 0x0052, "CS", b"PATIENT"), "Level"),  # not of the study root
        (ds_element(0x0008, 0x0052, "CS", b"IMAGE"), "UID"),
    ],
)
@pytest.mark.parametrize(("sop_class", "field"), [(STUDY_ROOT_FIND, 0x0020), (STUDY_ROOT_GET, 0x0010)])
def test_an_identifier_that_is_none(
    sop_class: str, field: int, identifier: bytes, comment: str, querying: Querying
) -> None:
    with querying.gateway.connect() as scu:
        scu.associate([(1, sop_class, [EXPLICIT_LITTLE])], calling=b"WORKSTATION")
        scu.send(p_data(1, 3, command(field, has_data_set=True)))
        for at in range(0, len(identifier), 16_000):
            scu.send(p_data(1, 0, identifier[at : at + 16_000]))
        scu.send(p_data(1, 2, b""))
        response = scu.read_response()
        scu.release()

    assert response.status == 0xA900
    assert comment in response.comment


def move(querying: Querying, destination: str) -> subprocess.CompletedProcess[str]:
    return run(
        "movescu", "-S", "-v", "-aet", "WORKSTATION", "-aem", destination,
        "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2.9", "127.0.0.1", str(querying.port),
    )  # fmt: skip


def retrieve(
    querying: Querying,
    sop_class: str,
    *,
    ae_title: str = "WORKSTATION",
    received: list[str] | None = None,
    cancel_after: int | None = None,
) -> list[tuple[Dataset, Dataset]]:
    """Ask for study 1.2.9; every response with its identifier."""
    taken = [] if received is None else received
    ae = AE(ae_title=ae_title)
    ae.add_requested_context(sop_class)
    ae.add_requested_context(CT_STORAGE, [EXPLICIT_LITTLE])

    def take(event: Event) -> int:
        taken.append(str(event.request.AffectedSOPInstanceUID))
        if len(taken) == cancel_after:
            event.assoc.send_c_cancel(1, query_model=sop_class)
        return 0x0000

    association = ae.associate(
        "127.0.0.1",
        querying.port,
        ext_neg=[build_role(CT_STORAGE, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, take)],
    )
    assert association.is_established
    keys = Dataset()
    keys.QueryRetrieveLevel = "STUDY"
    keys.StudyInstanceUID = "1.2.9"
    if sop_class == STUDY_ROOT_FIND:
        keys.PatientName = ""
        replies = association.send_c_find(keys, sop_class)
    elif sop_class == STUDY_ROOT_MOVE:
        replies = association.send_c_move(keys, "WORKSTATION", sop_class)
    else:
        replies = association.send_c_get(keys, sop_class)
    found = [(status, identifier) for status, identifier in replies]
    association.release()
    return found
