"""C-STORE straight to central: byte for byte what was sent, once, and from configured peers only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from central.access.policy import Action, Principal, Role, authorize
from contract.part10 import file_meta
from tests.central.access.house import pydicom_file
from tests.central.databases import arriving_in, contents_in
from tests.central.dimse.house import PEER, House, dcmtk, open_house
from tests.peers.scripted_scu import (
    CT_STORAGE,
    EXPLICIT_LITTLE,
    ScriptedScu,
    c_store_rq,
    p_data,
    small_data_set,
)

WHO = Principal("u", "radiologist", Role.RADIOLOGIST)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    peers = [{**PEER, "ae_title": "CT1"}, PEER, {**PEER, "ae_title": "ASKS", "may": ["query", "retrieve"]}]
    with open_house(
        tmp_path_factory.mktemp("central"), peers=peers, max_connections_per_address=30
    ) as opened:
        yield opened


def archived(house: House, study: str) -> dict[str, list[bytes]]:
    """SOP Instance UID → what reads return, and how many contents there are of it."""
    facts = house.archive.reading.facts(study)
    if facts is None:
        return {}
    grant = authorize(WHO, Action.VIEW, facts)
    assert not hasattr(grant, "reason")
    found: dict[str, list[bytes]] = {}
    for row in house.archive.reading.instances_of(grant):  # type: ignore[arg-type]  # it is a Grant
        stored = house.archive.reading.open_instance(
            grant, row.series.series_instance_uid, row.sop_instance_uid
        )  # type: ignore[arg-type]
        found.setdefault(row.sop_instance_uid, []).append(stored.path.read_bytes())
    return found


def torn(house: House) -> list[Path]:
    return arriving_in(house.root)


@pytest.mark.needs("dcmtk")
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_RLE.dcm", "SC_rgb_jpeg_dcmtk.dcm"])
def test_storescu_in_the_transfer_syntax_of_the_file(house: House, tmp_path: Path, name: str) -> None:
    study = f"1.2.8.{len(name)}"
    file = pydicom_file(name, StudyInstanceUID=study, SOPInstanceUID=f"{study}.1")
    (tmp_path / "one.dcm").write_bytes(file)
    option = {"C": "-xe", "M": "-xr", "S": "-xy"}[name[0]]
    sent = dcmtk(
        "storescu",
        "-v",
        option,
        "-aet",
        "PEER",
        "-aec",
        "DICOMNET",
        "127.0.0.1",
        house.port,
        tmp_path / "one.dcm",
    )
    assert sent.returncode == 0, sent.stderr
    [[content]] = archived(house, study).values()
    came, was = dcmread(BytesIO(content)), dcmread(BytesIO(file))
    assert came.file_meta.TransferSyntaxUID == was.file_meta.TransferSyntaxUID
    assert (
        came.PixelData == was.PixelData
    )  # storescu leaves out padding and group lengths; pixels it does not touch
    assert came.PatientName == was.PatientName


def test_the_header_is_the_one_a_box_would_put_there(house: House) -> None:
    sent = small_data_set("1.2.7.1", study="1.2.7", series="1.2.7.9")
    with ScriptedScu(house.port) as scu:
        scu.associate()
        assert scu.store(sent, "1.2.7.1").status == 0
        assert scu.store(sent, "1.2.7.1").status == 0  # a resend is absorbed
        scu.release()
    assert archived(house, "1.2.7") == {"1.2.7.1": [file_meta(CT_STORAGE, "1.2.7.1", EXPLICIT_LITTLE) + sent]}


def test_another_content_is_kept_and_flagged(house: House) -> None:
    first, second = (
        small_data_set("1.2.6.1", study="1.2.6", series="1.2.6.9", pixels=pixels) for pixels in (b"aa", b"bb")
    )
    with ScriptedScu(house.port) as scu:
        scu.associate()
        assert [scu.store(one, "1.2.6.1").status for one in (first, second)] == [0, 0]
        scu.release()
    [[content]] = archived(house, "1.2.6").values()
    assert content.endswith(first)
    facts = house.archive.reading.facts("1.2.6")
    assert facts is not None
    grant = authorize(WHO, Action.VIEW, facts)
    assert [row.flagged for row in house.archive.reading.instances_of(grant)] == [True]  # type: ignore[arg-type]


def test_an_erased_study_is_refused_and_leaves_nothing(house: House) -> None:
    with ScriptedScu(house.port) as scu:
        scu.associate()
        sent = small_data_set("1.2.2.1", study="1.2.2", series="1.2.2.9")
        assert scu.store(sent, "1.2.2.1").status == 0
        house.archive.erasures.erase("1.2.2", "ann", lambda _: None)
        house.archive.removal.run()
        before = len(contents_in(house.root))
        assert scu.store(sent, "1.2.2.1").status == 0x0124
        assert scu.store(small_data_set("1.2.2.2", study="1.2.1", series="1.2.1.9"), "1.2.2.2").status == 0
        scu.release()
    assert archived(house, "1.2.2") == {}
    assert len(contents_in(house.root)) == before + 1


def test_what_did_not_arrive_whole_leaves_nothing(house: House) -> None:
    with ScriptedScu(house.port) as scu:
        scu.associate()
        scu.send(p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.5.1")) + p_data(1, 0, bytes(10_000)))
        scu.send(b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00")  # A-ABORT
        scu.wait_for_close()
    _until(lambda: torn(house) == [])
    assert archived(house, "1.2.5") == {}


@pytest.mark.parametrize("uid", ["../../../etc/evil", "1.2.3'; DROP TABLE x", "1" * 65, ""])
def test_names_that_are_none_are_refused(house: House, uid: str) -> None:
    with ScriptedScu(house.port) as scu:
        scu.associate()
        scu.send(p_data(1, 3, c_store_rq(CT_STORAGE, uid)) + p_data(1, 2, small_data_set("1.2.4.1")))
        kind, _ = scu.read_pdu()
    assert kind in (0x04, 0x07)  # a status that refuses it, or an abort where it is not even a UID's length
    assert torn(house) == []
    assert not any(uid in archived(house, "1.2.9") for uid in (uid, "1.2.4.1"))


def test_what_cannot_be_read_is_kept_under_the_name_it_came_with(house: House) -> None:
    sent = os.urandom(5000)
    with ScriptedScu(house.port) as scu:
        scu.associate()
        assert scu.store(sent, "1.2.3.99").status == 0
        scu.release()
    kept = contents_in(house.root)
    assert file_meta(CT_STORAGE, "1.2.3.99", EXPLICIT_LITTLE) + sent in kept


def test_a_full_disk_is_said_and_keeps_nothing(tmp_path: Path) -> None:
    with (
        open_house(tmp_path, peers=[{**PEER, "ae_title": "CT1"}], has_room=False) as house,
        ScriptedScu(house.port) as scu,
    ):
        scu.associate()
        assert scu.store(small_data_set(), "1.2.3.1").status == 0xA700
        scu.release()
        assert archived(house, "1.2.9") == {}
        assert torn(house) == []


def test_a_larger_object_than_allowed_is_refused(tmp_path: Path) -> None:
    with (
        open_house(tmp_path, peers=[{**PEER, "ae_title": "CT1"}], max_object_bytes=2000) as house,
        ScriptedScu(house.port) as scu,
    ):
        scu.associate()
        assert scu.store(small_data_set(pixels=bytes(5000)), "1.2.3.1").status == 0xA700
        assert scu.store(small_data_set(), "1.2.3.1").status == 0
        scu.release()
        assert torn(house) == []


@pytest.mark.needs("dcmtk")
def test_who_may_not_store_is_refused(house: House, tmp_path: Path) -> None:
    (tmp_path / "one.dcm").write_bytes(pydicom_file("CT_small.dcm", StudyInstanceUID="1.2.99"))
    for ae_title in ("ASKS", "STRANGER"):
        sent = dcmtk(
            "storescu", "-aet", ae_title, "-aec", "DICOMNET", "127.0.0.1", house.port, tmp_path / "one.dcm"
        )
        assert sent.returncode != 0
    assert archived(house, "1.2.99") == {}


def _until(true: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
