"""MPPS over a real association: state rules, statuses, durability; and what completeness learns from it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from contract.workflow import StepStatus
from edge.buffer import performed_procedures
from edge.buffer.device_key import DeviceKey
from edge.buffer.performed_procedures import PerformedProcedures
from edge.buffer.service_database import ServiceDatabase
from edge.buffer.spool import Spool
from edge.buffer.study_standing import StepReport
from edge.gateway.performed_procedure import MODALITY_PERFORMED_PROCEDURE_STEP, PerformedProcedureService
from edge.gateway.server import GatewayServer
from edge.gateway.settings import GatewaySettings
from tests.edge.buffer.instances import contents
from tests.edge.gateway.procedure_samples import ended_step, new_step
from tests.edge.gateway.worklist_samples import NAMES, encoded
from tests.peers.scripted_scu import ScriptedScu, element, p_data

UID = "1.2.826.0.1.99"
SYNTAXES = [str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)]


class Box:
    """A gateway that takes procedure steps; each life on the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reports: list[StepReport] = []
        self.database = ServiceDatabase(folder / "services.sqlite3")
        self.procedures = PerformedProcedures(
            self.database, DeviceKey.load(folder / "identity" / "device.key")
        )
        self._spool = Spool.open(folder / "spool", reserve_bytes=0, quarantine_max_bytes=0, keys=None)
        settings = GatewaySettings.model_validate({"host": "127.0.0.1", "port": 0})
        service = PerformedProcedureService(self.procedures, self.reports.append)
        self._server = GatewayServer(settings, self._spool.entrance, services=[service])

    def __enter__(self) -> Box:
        self._server.start()
        self.port = self._server.port
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self._spool.close()
        self.database.close()

    def status_of(self, sop_instance_uid: str) -> StepStatus | None:
        step = self.procedures._find(sop_instance_uid)
        return step and StepStatus(step.status)

    def waiting(self) -> list[bytes]:
        """Data sets that wait for central; taken off."""
        taken = []
        while (message := self.procedures.next_waiting()) is not None:
            taken.append(message.data_set)
            self.procedures.delivered(message.sequence)
        return taken


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with Box(tmp_path) as running:
        yield running


class Modality:
    """pynetdicom as the modality."""

    def __init__(self, box: Box, syntax: str = SYNTAXES[0]) -> None:
        ae = AE(ae_title="CT1")
        ae.add_requested_context(MODALITY_PERFORMED_PROCEDURE_STEP, syntax)
        self.association: Association = ae.associate("127.0.0.1", box.port, ae_title="DICOMNET")
        assert self.association.is_established

    def __enter__(self) -> Modality:
        return self

    def __exit__(self, *_: object) -> None:
        self.association.release()

    def create(self, ds: Dataset, uid: str | None = UID) -> Dataset:
        status, _ = self.association.send_n_create(ds, MODALITY_PERFORMED_PROCEDURE_STEP, uid)
        return status

    def set(self, ds: Dataset, uid: str = UID) -> Dataset:
        status, _ = self.association.send_n_set(ds, MODALITY_PERFORMED_PROCEDURE_STEP, uid)
        return status


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_step_from_begin_to_end(box: Box, syntax: str) -> None:
    interim = Dataset()
    interim.PerformedProcedureStepDescription = "Thorax nativ"
    with Modality(box, syntax) as modality:
        assert modality.create(new_step()).Status == 0x0000
        assert modality.set(interim).Status == 0x0000
        assert modality.set(ended_step("1.5.1", "1.5.2")).Status == 0x0000
    assert box.status_of(UID) is StepStatus.COMPLETED
    sent = [encoded(ds, syntax).data_set for ds in (new_step(), interim, ended_step("1.5.1", "1.5.2"))]
    assert box.waiting() == sent
    begun, between, ended = box.reports
    assert (begun.status, begun.series) == (StepStatus.IN_PROGRESS, None)
    assert begun.study_instance_uids == {"1.2.826.0.1.1"}
    assert (between.status, between.series, between.study_instance_uids) == (None, None, frozenset())
    assert ended.series == {"1.2.826.0.1.1.1": frozenset({"1.5.1", "1.5.2"})}
    assert ended.calling_ae_title == "CT1"


@pytest.mark.parametrize("patient_id", NAMES)
def test_names_stay_in_their_own_bytes(box: Box, patient_id: str) -> None:
    ds = new_step()
    ds.PatientName, ds.SpecificCharacterSet = NAMES[patient_id]
    with Modality(box) as modality:
        assert modality.create(ds).Status == 0x0000
    assert box.waiting() == [encoded(ds).data_set]


def test_an_ended_step_may_no_longer_be_updated_also_in_the_next_life(tmp_path: Path) -> None:
    with Box(tmp_path) as box, Modality(box) as modality:
        modality.create(new_step())
        assert modality.set(ended_step(status="DISCONTINUED")).Status == 0x0000
    with Box(tmp_path) as box, Modality(box) as modality:
        refused = modality.set(ended_step("1.5.1"))
        assert refused.Status == 0x0110
        assert refused.ErrorComment == "Performed Procedure Step Object may no longer be updated"
        assert refused.ErrorID == 0xA710
        assert modality.create(new_step()).Status == 0x0111
        assert modality.set(ended_step(), "1.2.3.4").Status == 0x0112
        assert len(box.waiting()) == 2
        assert box.reports == []


@pytest.mark.parametrize(
    ("keyword", "status", "comment"),
    [
        ("PerformedProcedureStepID", 0x0120, "Performed Procedure Step ID is missing"),
        ("Modality", 0x0120, "Modality is missing"),
        ("ScheduledStepAttributesSequence", 0x0120, "Scheduled Step Attributes Sequence is missing"),
        ("PerformedProcedureStepStatus", 0x0120, "Performed Procedure Step Status is missing"),
    ],
)
def test_what_a_new_step_must_say(box: Box, keyword: str, status: int, comment: str) -> None:
    ds = new_step()
    delattr(ds, keyword)
    with Modality(box) as modality:
        refused = modality.create(ds)
        assert (refused.Status, refused.ErrorComment) == (status, comment)
        empty = new_step()
        setattr(empty, keyword, [] if keyword.endswith("Sequence") else "")
        assert modality.create(empty).Status in (0x0106, 0x0121)
        assert modality.create(new_step()).Status == 0x0000
    assert len(box.waiting()) == 1


def test_a_scheduled_step_without_a_study(box: Box) -> None:
    ds = new_step()
    del ds.ScheduledStepAttributesSequence[0].StudyInstanceUID
    with Modality(box) as modality:
        assert modality.create(ds).Status == 0x0120


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED", "DONE"])
def test_a_new_step_is_in_progress(box: Box, status: str) -> None:
    ds = new_step()
    ds.PerformedProcedureStepStatus = status
    with Modality(box) as modality:
        assert modality.create(ds).Status == 0x0106


def test_no_end_without_its_time(box: Box) -> None:
    ds = ended_step("1.5.1")
    del ds.PerformedProcedureStepEndTime
    with Modality(box) as modality:
        modality.create(new_step())
        refused = modality.set(ds)
        assert (refused.Status, refused.ErrorComment) == (
            0x0120,
            "Performed Procedure Step End Time is missing",
        )
        assert modality.set(ended_step("1.5.1")).Status == 0x0000


def test_a_box_that_is_full_says_so_and_the_modality_may_try_again(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Modality(box) as modality:
        monkeypatch.setattr(performed_procedures, "MAX_WAITING_MESSAGES", 0)
        assert modality.create(new_step()).Status == 0x0213
        monkeypatch.undo()
        assert modality.create(new_step()).Status == 0x0000


def n_create(data_set: bytes, uid: bytes | None) -> bytes:
    body = (
        element(0x0002, MODALITY_PERFORMED_PROCEDURE_STEP.encode() + b"\0")
        + element(0x0100, struct.pack("<H", 0x0140))
        + element(0x0110, struct.pack("<H", 1))
        + element(0x0800, struct.pack("<H", 1))
        + (element(0x1000, uid + b"\0" * (len(uid) % 2)) if uid is not None else b"")
    )
    command = element(0x0000, struct.pack("<I", len(body))) + body
    return p_data(1, 3, command) + p_data(1, 2, data_set)


@pytest.fixture
def scu(box: Box) -> Iterator[ScriptedScu]:
    with ScriptedScu(box.port) as one:
        one.associate([(1, MODALITY_PERFORMED_PROCEDURE_STEP, [SYNTAXES[0]])])
        yield one


def test_the_box_names_a_step_that_has_no_name(box: Box, scu: ScriptedScu) -> None:
    scu.send(n_create(encoded(new_step()).data_set, None))
    answer = scu.read_response()
    assert answer.status == 0x0000
    uid = answer.elements[0x1000].rstrip(b"\0").decode()
    assert uid.startswith("2.25.")
    assert box.status_of(uid) is StepStatus.IN_PROGRESS


@pytest.mark.parametrize("uid", [b"../../etc", b"1.2.x", b"1" * 65])
def test_a_uid_that_is_none(box: Box, scu: ScriptedScu, uid: bytes) -> None:
    scu.send(n_create(encoded(new_step()).data_set, uid))
    assert scu.read_response().status == 0x0117
    assert box.waiting() == []


@pytest.mark.parametrize(
    "noise", [b"\xff" * 40, struct.pack("<HH2sHI", 0x40, 0x340, b"SQ", 0, 0xFFFFFFFF) * 99]
)
def test_a_data_set_that_is_none(box: Box, scu: ScriptedScu, noise: bytes) -> None:
    scu.send(n_create(noise, UID.encode()))
    assert scu.read_response().status == 0x0110
    scu.send(n_create(encoded(new_step()).data_set, UID.encode()))
    assert scu.read_response().status == 0x0000


def test_thousands_of_images_in_one_message(box: Box) -> None:
    made = [f"1.2.826.0.1.1.1.{number}" for number in range(5_000)]
    with Modality(box) as modality:
        modality.create(new_step())
        assert modality.set(ended_step(*made)).Status == 0x0000
    assert box.reports[-1].series == {"1.2.826.0.1.1.1": frozenset(made)}


def test_nothing_of_a_patient_is_on_the_box_in_clear_or_in_its_log(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="edge")
    with Modality(box) as modality:
        modality.create(new_step(name="CANARY^PATIENT"))
        modality.create(new_step(name="CANARY^PATIENT"))
        modality.set(ended_step("1.5.1"))
    for path, content in contents(box.folder):
        assert b"CANARY" not in content, path
        assert b"19620410" not in content, path
    said = "".join(str(vars(record)) for record in caplog.records if record.name.startswith("edge"))
    assert "procedure step" in said
    assert "CANARY" not in said
    assert "19620410" not in said
