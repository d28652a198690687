"""C-MOVE into other people's archives, over TLS too; sizes that must not matter; and work that takes long."""

from __future__ import annotations

import subprocess
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pynetdicom import AE, evt

from central.dimse.association import STUDY_ROOT_MOVE
from tests.central.access.house import OTHER_STUDY, STUDY, pydicom_file
from tests.central.dimse.house import (
    PEER,
    House,
    dcmtk,
    dcmtk_listening,
    identifier,
    open_house,
    storage_scp,
)
from tests.edge.gateway.authority import Authority
from tests.ports import free_base_port

LARGE_BYTES = 48 << 20
HELD_BYTES = 12 << 20


def peers(port: int, **more: object) -> list[dict[str, object]]:
    return [
        PEER,
        {"ae_title": "DEST", "address": "192.0.2.1", "host": "127.0.0.1", "port": port, "may": [], **more},
    ]


def move(house: House, study: str = STUDY) -> subprocess.CompletedProcess[str]:
    return dcmtk(
        "movescu", "-S", "-aet", "PEER", "-aec", "DICOMNET", "-aem", "DEST", "-k", "QueryRetrieveLevel=STUDY",
        "-k", f"StudyInstanceUID={study}", "127.0.0.1", house.port,
    )  # fmt: skip


@contextmanager
def dcmqrscp(port: int, folder: Path) -> Iterator[None]:
    """DCMTK's image archive."""
    (folder / "db").mkdir(parents=True)
    (folder / "qr.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nDEST {folder / 'db'} RW (20, 100mb) ANY\nAETable END\n"
    )
    with dcmtk_listening(port, "dcmqrscp", "-c", folder / "qr.cfg", "+xr"):
        yield


@pytest.mark.needs("dcmtk")
def test_another_archive_takes_a_study_and_finds_it(tmp_path: Path) -> None:
    port = free_base_port(1)
    with dcmqrscp(port, tmp_path / "qr"), open_house(tmp_path, peers=peers(port)) as house:
        house.put(pydicom_file("CT_small.dcm"))
        house.put(pydicom_file("MR_small_RLE.dcm", SeriesInstanceUID=f"{STUDY}.9"))
        house.put(pydicom_file("MR_small.dcm", StudyInstanceUID=OTHER_STUDY, SeriesInstanceUID=f"{STUDY}.8"))
        moved = move(house)
        assert moved.returncode == 0, moved.stderr
        asked = dcmtk(
            "findscu", "-S", "-aec", "DEST", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID",
            "-k", "NumberOfStudyRelatedInstances", "127.0.0.1", port,
        )  # fmt: skip
        assert STUDY in asked.stdout + asked.stderr
        assert f"{OTHER_STUDY}]" not in asked.stdout + asked.stderr
        assert len(list((tmp_path / "qr" / "db").glob("[CM]*"))) == 2


@pytest.mark.needs("dcmtk")
def test_a_destination_over_tls_must_be_who_it_says(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "Another CA")
    central = authority.issue("central")
    tls = {"port": 0, "certificate": central.certificate, "key": central.key, "client_ca": authority.ca}
    port = free_base_port(2)
    with open_house(tmp_path, peers=peers(port, tls=True), tls=tls) as house:
        house.put(pydicom_file("CT_small.dcm"))
        for issuer, is_taken in ((authority, True), (stranger, False)):
            pair = issuer.issue("dest")
            folder = tmp_path / f"came-{is_taken}"
            options = ("+tls", str(pair.key), str(pair.certificate), "+cf", str(authority.ca))
            with storage_scp(port, folder, *options):
                moved = move(house)
            assert (moved.returncode == 0) is is_taken, moved.stderr
            assert bool(list(folder.iterdir())) is is_taken


@pytest.mark.needs("dcmtk")
def test_size_costs_no_memory_in_either_direction(tmp_path: Path) -> None:
    port = free_base_port(1)
    large = tmp_path / "large.dcm"
    large.write_bytes(pydicom_file("CT_small.dcm", Rows=4096, Columns=4096, PixelData=bytes(LARGE_BYTES)))
    with open_house(tmp_path, peers=peers(port)) as house:
        tracemalloc.start()
        try:
            sent = dcmtk(
                "storescu", "-xe", "-aet", "PEER", "-aec", "DICOMNET", "127.0.0.1", house.port, large
            )
            assert sent.returncode == 0, sent.stderr
            _, stored_peak = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            with storage_scp(port, tmp_path / "came"):
                moved = move(house)
            assert moved.returncode == 0, moved.stderr
            _, moved_peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        [came] = (tmp_path / "came").iterdir()
        assert came.stat().st_size > LARGE_BYTES
    assert stored_peak < HELD_BYTES
    assert moved_peak < HELD_BYTES


def test_a_move_may_take_longer_than_an_association_may_be_silent(tmp_path: Path) -> None:
    port = free_base_port(1)

    def slow(_: evt.Event) -> int:
        time.sleep(1.0)  # the destination's disk
        return 0

    ae = AE("DEST")
    ae.add_supported_context("1.2.840.10008.5.1.4.1.1.2")
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, slow)])
    try:
        with open_house(tmp_path, peers=peers(port), idle_timeout_s=2.5) as house:
            for number in (1, 2, 3):
                house.put(pydicom_file("CT_small.dcm", SOPInstanceUID=f"{STUDY}.{number}"))
            asker = AE("PEER")
            asker.add_requested_context(STUDY_ROOT_MOVE)
            assoc = asker.associate("127.0.0.1", house.port, ae_title="DICOMNET")
            keys = identifier({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY})
            statuses = [status.Status for status, _ in assoc.send_c_move(keys, "DEST", STUDY_ROOT_MOVE)]
            assert statuses == [0xFF00, 0xFF00, 0x0000]
            time.sleep(0.3)  # time in which an association whose clock had run out would be aborted
            assert assoc.is_established
            assoc.release()
            assert assoc.is_released
    finally:
        server.shutdown()
