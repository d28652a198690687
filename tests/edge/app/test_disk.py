"""The whole box: damage on its disk is told everywhere, and what central has stays where the site wants it near."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom import AE

from contract.control import EnrolParams
from edge.app import Box
from edge.buffer.spool import Spool
from edge.config import Settings
from edge.status_text import status_text
from tests.edge.app.waiting import wait
from tests.edge.buffer.instances import Central, store
from tests.edge.scripted_central import ScriptedCentral

StartBox = Callable[..., Box]


@pytest.fixture
def start_box(tmp_path: Path) -> Iterator[StartBox]:
    started: list[Box] = []

    def start(**buffer: object) -> Box:
        box = Box(
            Settings.model_validate(
                {
                    "box": {"state_directory": tmp_path / "state", "control_socket": tmp_path / "s"},
                    "gateway": {"host": "127.0.0.1", "port": 0},
                    "buffer": {"reserve_bytes": 0, **buffer},
                }
            )
        )
        box.start()
        started.append(box)
        return box

    yield start
    for box in started:
        box.stop()


def test_damage_is_found_and_said_everywhere(start_box: StartBox, tmp_path: Path) -> None:
    spool = Spool.open(
        tmp_path / "state" / "spool", reserve_bytes=0, quarantine_max_bytes=0, keys=Central().ring()
    )
    damaged, _ = store(spool, 1).object_id, store(spool, 2)
    spool.close()
    (path,) = tmp_path.rglob(f"{damaged}.sealed")
    sealed = bytearray(path.read_bytes())
    sealed[700] ^= 1
    path.write_bytes(sealed)

    box = start_box()
    status = wait(box, lambda status: status.scrubbed_at_utc is not None)

    assert (status.quarantined_objects, status.scrubbed_objects, status.scrub_damaged_objects) == (1, 2, 1)
    assert "2 files, 1 damaged" in status_text(status)
    (entry,) = [entry for entry in box.operations.queue().entries if entry.object_id == damaged]
    assert entry.last_error.endswith("send instance 1.2.3.1 again from CT1, then this goes by itself")
    events = "".join(path.read_text() for path in (tmp_path / "state" / "heartbeat").iterdir())
    assert "damaged on the box's disk; CT1 has to send it again" in events
    assert "1.2.3.1" not in events


def test_what_central_has_stays_and_a_resend_adds_nothing(
    start_box: StartBox, central: ScriptedCentral
) -> None:
    box = start_box(retain_hours=24, low_water_bytes=0)
    port = box.listening()["dicom"]["port"]  # type: ignore[index]  # a dictionary for JSON
    box.operations.enrol(EnrolParams(pairing=str(central.pairing)))
    path = get_testdata_file("CT_small.dcm")
    assert isinstance(path, str)
    instance = dcmread(path)

    for _ in range(2):
        ae = AE(ae_title="CT1")
        ae.add_requested_context(instance.SOPClassUID, instance.file_meta.TransferSyntaxUID)
        association = ae.associate("127.0.0.1", port, ae_title="DICOMNET")
        assert association.send_c_store(instance).Status == 0x0000
        association.release()
        status = wait(box, lambda status: status.retained_objects == 1)

    assert status.queue_objects == 0
    assert status.retained_bytes > 0
    assert status.received_objects == 1
    assert len(central.archived) == 1
    assert "1 objects that central has" in status_text(status)
