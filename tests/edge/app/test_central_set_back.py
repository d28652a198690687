"""The whole box before a central that lost what it signed for: it sends again by itself, and says what it cannot."""

from __future__ import annotations

from pathlib import Path

from contract.control import EnrolParams
from contract.identifiers import ObjectId
from edge.app import Box
from edge.config import Settings
from edge.status_text import status_text
from tests.edge.app.waiting import wait
from tests.edge.buffer.instances import store
from tests.edge.scripted_central import ScriptedCentral


def start(folder: Path, *, retain_hours: int) -> Box:
    box = Box(
        Settings.model_validate(
            {
                "box": {"state_directory": folder / "state", "control_socket": folder / "s"},
                "gateway": {"host": "127.0.0.1", "port": 0},
                "buffer": {"reserve_bytes": 0, "low_water_bytes": 0, "retain_hours": retain_hours},
            }
        )
    )
    box.start()
    return box


def stored(box: Box, number: int) -> ObjectId:
    object_id = store(box._spool, number).object_id
    wait(box, lambda status: not status.queue_objects)
    return object_id


def events(folder: Path) -> str:
    return "".join(path.read_text() for path in (folder / "state" / "heartbeat").iterdir())


def test_it_sends_again_and_says_what_is_lost_once(central: ScriptedCentral, tmp_path: Path) -> None:
    box = start(tmp_path, retain_hours=0)
    try:
        box.operations.enrol(EnrolParams(pairing=str(central.pairing)))
        freed = stored(box, 1)
    finally:
        box.stop()
    box = start(tmp_path, retain_hours=24)
    try:
        kept = stored(box, 2)
    finally:
        box.stop()
    assert central.archived.keys() == {freed, kept}
    for lost in (central.archived, central.uploads, central.lengths):
        lost.clear()

    box = start(tmp_path, retain_hours=24)
    try:
        status = wait(box, lambda status: bool(status.lost_studies) and bool(central.archived))
        assert central.archived.keys() == {kept}
        (study,) = status.lost_studies
        assert (study.study_instance_uid, study.calling_ae_title, study.instances) == ("1.2.9", "CT1", 1)
        assert "Central lost 1 image of study 1.2.9 from CT1, received 20" in status_text(status)
        wait(box, lambda status: events(tmp_path).count("central-set-back") == 2)
        assert "central lost what it had signed for; images that this box sends again: 1" in events(tmp_path)
        assert study.sentence in events(tmp_path)
        assert len(study.sentence) < 300 - 64  # room for the longest UID in an event
    finally:
        box.stop()

    box = start(tmp_path, retain_hours=24)
    try:
        assert len(box.operations.status().lost_studies) == 1
        assert stored(box, 1) != freed  # the technician sends it again
        wait(box, lambda status: not status.lost_studies)
        assert events(tmp_path).count("central-set-back") == 2
    finally:
        box.stop()
