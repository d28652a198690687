"""A box whose key is in a real software TPM, with a real central and a real broker."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest
from pydicom.data import get_testdata_file

from central.fleet.mosquitto import write_configuration
from contract.control import EnrolParams
from edge.app import Box as WholeBox
from edge.config import Settings
from edge.status_text import status_text
from edge.uplink.enrolment import renew
from edge.uplink.key_maker import KeyMaker
from edge.uplink.tpm import Tpm
from tests.central.app.house import House, everything_in
from tests.central.fleet.test_broker import Broker
from tests.edge.uplink_box import Box
from tests.ports import free_base_port
from tests.soft_tpm import SoftTpm

pytestmark = pytest.mark.needs("swtpm")


def eventually(predicate: Callable[[], bool]) -> None:
    deadline, pause = time.monotonic() + 60, Event()
    while not predicate():
        assert time.monotonic() < deadline, "it did not come about in time"
        pause.wait(0.05)


def image(number: int) -> bytes:
    content = Path(str(get_testdata_file("CT_small.dcm", download=False))).read_bytes()
    return content.replace(b"1.3.6.1.4.1.5962.1.1.1", f"1.3.6.1.4.1.5962.1.1.{number}".encode())


def drained(box: Box) -> bool:
    return box.spool.holdings.depth().unsent.objects == 0


def private_keys_in(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if re.search(rb"BEGIN (EC |RSA )?PRIVATE KEY", path.read_bytes())]


def test_a_box_lives_with_its_key_in_the_tpm_and_its_disk_is_of_no_use_elsewhere(
    chip: SoftTpm, chips: Path, tmp_path: Path
) -> None:
    keys = KeyMaker("tpm", Tpm(chip.tcti))
    with House(tmp_path / "strict", gateways={"acceptance": "administrator"}) as house:
        box = Box(tmp_path / "box", keys=keys).start()
        try:
            box.membership.enrol(house.pairing("ct"))
            waiting = box.link.status().enrolment
            assert private_keys_in(tmp_path / "box") == []
            box.stop()
            chip.cut_power()
            box.start()  # waits with the same key
            eventually(lambda: box.link.status().enrolment == waiting)
            house.central.foundation.pairings.decide(
                house.central.foundation.pairings.pending()[0].fingerprint, "accepted"
            )
            eventually(lambda: box.membership.gateway_id == "ct")
            box.store(image(1))
            eventually(lambda: drained(box))
            assert box.link.status().key_place == "tpm"
            box.stop()
            box.start()
            box.store(image(9))
            eventually(lambda: drained(box))
            former = box.identities[-1]
            key = keys.make()
            assert renew(former, key).answer.gateway_id == "ct"

            other = SoftTpm(chips / "other").start()
            shutil.copytree(tmp_path / "box" / "identity", tmp_path / "thief" / "identity", symlinks=True)
            thief = Box(tmp_path / "thief", keys=KeyMaker("auto", Tpm(other.tcti))).start()
            try:
                eventually(lambda: thief.link.status().state == "refused")
                said = thief.link.status().detail
                assert "this disk comes from another machine" in said
                assert "pairing string that replaces this box" in said
                thief.membership.enrol(house.pairing(replaces="ct"))  # by a person, and with a key of its own
                assert private_keys_in(tmp_path / "thief") == []
            finally:
                thief.stop()
                other.stop()
        finally:
            box.stop()
        assert private_keys_in(tmp_path / "box") == []
        assert {found.content for found in everything_in(house.root)} == {image(1), image(9)}


def test_a_tpm_that_is_away_stops_sending_with_a_sentence_and_nothing_is_lost(
    chip: SoftTpm, tmp_path: Path
) -> None:
    with House(tmp_path / "central") as house:
        box = Box(tmp_path / "box", keys=KeyMaker("auto", Tpm(chip.tcti))).start()
        try:
            box.membership.enrol(house.pairing("ct"))
            box.stop()
            chip.stop()
            box.start()
            box.store(image(1))
            eventually(lambda: "the TPM of this box" in box.link.status().detail)
            assert box.link.status().state == "waiting"
            assert not drained(box)
            chip.start()
            eventually(lambda: drained(box))
        finally:
            box.stop()


@pytest.mark.needs("mosquitto")
def test_a_whole_box_moves_its_key_into_the_tpm_when_it_is_enrolled_again(
    chip: SoftTpm, tmp_path: Path
) -> None:
    port = free_base_port(2)
    with ExitStack() as running:
        house = running.enter_context(House(tmp_path / "central", mqtt={"host": "127.0.0.1", "port": port}))
        broker = Broker(tmp_path / "broker", port, port + 1)
        write_configuration(broker.plan, house.central.foundation.identity, [])
        broker.start()
        running.callback(broker.stop)
        settings = {
            "box": {"state_directory": str(tmp_path / "edge")},
            "gateway": {"host": "127.0.0.1", "port": 0},
            "buffer": {"reserve_bytes": 0},
            "uplink": {"backoff_ceiling_s": 0.5},
        }
        former = WholeBox(Settings.model_validate({**settings, "identity": {"key": "file"}}))
        former.start()
        former.operations.enrol(EnrolParams(pairing=str(house.pairing("ct"))))
        former.stop()
        in_tpm = {"identity": {"key": "auto", "tpm": chip.tcti}}
        box = WholeBox(Settings.model_validate({**settings, **in_tpm}))
        box.start()
        running.callback(box.stop)
        eventually(lambda: box.operations.status().link.key_place == "file")
        box.operations.enrol(EnrolParams(pairing=str(house.pairing(replaces="ct"))))
        eventually(lambda: box.operations.status().link.heartbeat_connected)
        assert "key in the TPM" in status_text(box.operations.status())
        chip.stop()
        broker.stop()
        broker.start()
        eventually(lambda: "the TPM of this box" in box.operations.status().link.heartbeat_detail)
        chip.start()
        eventually(lambda: box.operations.status().link.heartbeat_connected)
        current = tmp_path / "edge" / "identity" / "current"
        assert private_keys_in(current.resolve()) == []
