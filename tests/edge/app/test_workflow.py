"""The whole box: a worklist from the hospital, its age on the control socket, procedure steps, studies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE

from contract.control import BoxStatus, CommitmentStatus, StudyEntry, StudyList
from edge.app import Box
from edge.config import Settings
from edge.control import ask
from edge.gateway.performed_procedure import MODALITY_PERFORMED_PROCEDURE_STEP
from edge.gateway.worklist import MODALITY_WORKLIST_FIND
from edge.status_text import status_text, studies_text
from tests.edge.buffer.instances import contents
from tests.edge.gateway.procedure_samples import new_step
from tests.edge.gateway.test_worklist import step_query, wlmscpfs
from tests.edge.gateway.worklist_samples import JAPANESE, worklist_item

CANARY = "CANARY^PATIENT"


def settings(folder: Path, **worklist: object) -> Settings:
    return Settings.model_validate(
        {
            "box": {"state_directory": folder / "state", "control_socket": folder / "control.sock"},
            "gateway": {"host": "127.0.0.1", "port": 0},
            "buffer": {"reserve_bytes": 0},
            "worklist": worklist,
        }
    )


class Running:
    def __init__(self, configuration: Settings) -> None:
        self._box = Box(configuration)
        self._control = configuration.control_socket_path

    def __enter__(self) -> Running:
        self._box.start()
        self.port = self._box.listening()["dicom"]["port"]  # type: ignore[index]  # a dictionary for JSON
        return self

    def __exit__(self, *_: object) -> None:
        self._box.stop()

    def status(self) -> BoxStatus:
        return BoxStatus.model_validate(ask(self._control, "status", {}, timeout_s=60))

    def studies(self) -> object:
        return ask(self._control, "studies", {}, timeout_s=60)["studies"]

    def wait(self, true: Callable[[BoxStatus], bool]) -> BoxStatus:
        for _ in range(1200):
            status = self.status()
            if true(status):
                return status
            threading.Event().wait(0.05)
        raise AssertionError(f"it did not come about: {status.workflow}")

    def find(self) -> tuple[int, list[Dataset]]:
        ae = AE(ae_title="CT1")
        ae.add_requested_context(MODALITY_WORKLIST_FIND)
        association = ae.associate("127.0.0.1", self.port)
        answers = list(association.send_c_find(step_query(), MODALITY_WORKLIST_FIND))
        association.release()
        return answers[-1][0].Status, [ds for _, ds in answers[:-1] if ds is not None]


@pytest.mark.needs("dcmtk")
def test_scanners_are_answered_while_the_hospitals_server_is_down_and_after_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="edge")
    item = worklist_item("1", f"{CANARY}={JAPANESE.split('=')[1]}", ["", "ISO 2022 IR 87"])
    with wlmscpfs(tmp_path / "wl", [item]) as port:
        configuration = settings(
            tmp_path,
            enabled=True,
            source="upstream",
            refresh_s=5,
            upstream={"ae_title": "RIS", "host": "127.0.0.1", "port": port},
        )
        with Running(configuration) as box:
            status = box.wait(lambda status: bool(status.workflow and status.workflow.worklist_items))
            assert status.workflow
            assert status.workflow.worklist_error == ""
            assert "1 items from upstream, as of 20" in status_text(status)
    with Running(configuration) as box:
        status = box.wait(lambda status: bool(status.workflow and status.workflow.worklist_error))
        assert status.workflow
        assert "cannot be reached" in status.workflow.worklist_error
        assert (status.workflow.worklist_items, status.workflow.worklist_source) == (1, "upstream")
        answer, (found,) = box.find()
        assert answer == 0x0000
        assert found.PatientName == item.PatientName
        for path, content in contents(tmp_path / "state"):
            assert b"CANARY" not in content, path
            assert b"19620410" not in content, path
    said = "".join(str(vars(record)) for record in caplog.records if record.name.startswith("edge"))
    assert "worklist query answered" in said
    assert "CANARY" not in said


def test_without_a_worklist_none_is_offered(tmp_path: Path) -> None:
    with Running(settings(tmp_path)) as box:
        ae = AE(ae_title="CT1")
        ae.add_requested_context(MODALITY_WORKLIST_FIND)
        assert not ae.associate("127.0.0.1", box.port).is_established
        workflow = box.status().workflow
        assert workflow
        assert workflow.worklist_source == "off"


def test_procedure_steps_wait_on_a_box_that_is_not_enrolled(tmp_path: Path) -> None:
    with Running(settings(tmp_path)) as box:
        ae = AE(ae_title="CT1")
        ae.add_requested_context(MODALITY_PERFORMED_PROCEDURE_STEP)
        association = ae.associate("127.0.0.1", box.port)
        status, _ = association.send_n_create(new_step(), MODALITY_PERFORMED_PROCEDURE_STEP, "1.2.3")
        association.release()
        assert status.Status == 0x0000
        assert "1 messages wait for central, 0 refused" in status_text(box.status())
        assert box.studies() == []
        commitments = CommitmentStatus(waiting=2, unreported=1, unreported_because="CT1 refused")
        assert "commitment    2 wait for their images, 1 to be reported: CT1 refused" in status_text(
            box.status().model_copy(update={"commitments": commitments})
        )
    with Running(settings(tmp_path)) as box:
        workflow = box.status().workflow
        assert workflow
        assert workflow.procedures_waiting == 1


def test_studies_in_plain_text() -> None:
    at = datetime(2026, 11, 28, 8, 30, tzinfo=UTC)
    coming = StudyEntry(
        study_instance_uid="1.2.9",
        calling_ae_title="CT1",
        state="receiving",
        received=7,
        late=0,
        first_at_utc=at,
        last_at_utc=at,
    )
    done = coming.model_copy(
        update={"state": "complete", "evidence": "procedure step", "expected": 8, "received": 8, "late": 1}
    )
    assert [
        " ".join(line.split()) for line in studies_text(StudyList(studies=[coming, done])).splitlines()
    ] == [
        "2026-11-28T08:30:00+00:00 CT1 receiving 7 images 1.2.9",
        "2026-11-28T08:30:00+00:00 CT1 complete (procedure step) 8 of 8 images, 1 late 1.2.9",
    ]
    assert studies_text(StudyList(studies=[])) == "nothing was received yet"
