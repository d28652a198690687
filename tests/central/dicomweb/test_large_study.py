"""A study larger than central may become: stored, fetched and converted by the program itself, its memory watched."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import psutil
import pytest
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian

from central.access.doorkeeper import Doorkeeper
from central.access.policy import Role
from central.database import open_sqlite
from tests.central.access.house import FACTOR_KEY, PASSWORD, pydicom_file
from tests.central.app.program import CentralProcess
from tests.ports import free_base_port

STUDY = "1.2.77"
FRAME = bytes(range(256)) * 2048  # 512 × 512 of 16 bits
FRAMES = 400
INSTANCES = 3
GROWTH_BYTES = 120 << 20  # a fifth of the study


def part10(number: int) -> Iterator[bytes]:
    """A multi-frame instance of 200 MiB."""
    uids = {
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": f"{STUDY}.1",
        "SOPInstanceUID": f"{STUDY}.1.{number}",
    }
    ds = dcmread(BytesIO(pydicom_file("MR_small.dcm", **uids)))
    del ds.PixelData
    ds.pop("DataSetTrailingPadding", None)
    ds.Rows = ds.Columns = 512
    ds.NumberOfFrames = FRAMES
    out = BytesIO()
    ds.save_as(out, enforce_file_format=True)
    yield out.getvalue() + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, len(FRAME) * FRAMES)
    for frame in range(FRAMES):
        yield struct.pack("<I", frame) + FRAME[4:]


def request_body() -> Iterator[bytes]:
    for number in range(INSTANCES):
        yield b"--x\r\nContent-Type: application/dicom\r\n\r\n"
        yield from part10(number)
        yield b"\r\n"
    yield b"--x--\r\n"


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.fixture
def central(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """Process id and address of central, with the account of a radiologist."""
    port = free_base_port(2)
    config = tmp_path / "central.toml"
    config.write_text(
        f"[people]\nport = {port}\n[gateways]\nport = {port + 1}\n[dicom]\nenabled = false\n"
        f'[storage]\nroot = "{tmp_path / "root"}"\nreserve_bytes = 0\n'
    )
    with CentralProcess(config) as process:
        db = open_sqlite(tmp_path / "root" / "central.sqlite3")
        accounts = Doorkeeper.open(db, factor_key=FACTOR_KEY).accounts
        accounts.create_user("anna", PASSWORD, Role.RADIOLOGIST)
        db.close()
        yield process.pid, process.people_url


def test_a_large_study_is_never_in_memory(central: tuple[int, str]) -> None:
    pid, url = central
    with httpx.Client(base_url=url, timeout=120) as client:
        form = {"username": "anna", "password": PASSWORD}
        token = client.post("/api/auth/token", data=form).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        before = peak_bytes(pid)
        headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}
        stored = client.post("/dicom-web/studies", content=request_body(), headers=headers)
        assert stored.status_code == 200, stored.text

        base = f"/dicom-web/studies/{STUDY}"
        instance = f"{base}/series/{STUDY}.1/instances/{STUDY}.1.0"
        sent = hashlib.sha256()
        for piece in part10(0):
            sent.update(piece)
        assert fetched(client, instance, "application/dicom")[1] == sent.hexdigest()
        size, _ = fetched(client, base, "*/*")
        assert size > INSTANCES * FRAMES * len(FRAME)
        fetched(client, base, "application/zip")
        bulk, _ = fetched(client, f"{instance}/bulkdata/7FE00010", "application/octet-stream")
        assert bulk == FRAMES * len(FRAME)
        converted, _ = fetched(
            client, instance, f"application/dicom; transfer-syntax={ImplicitVRLittleEndian}"
        )
        assert converted > FRAMES * len(FRAME)
        workers = [child.pid for child in psutil.Process(pid).children(recursive=True)]
        assert peak_bytes(pid) - before < GROWTH_BYTES
        # Workers have codecs loaded, and still less than the instance that they wrote.
        assert max(map(peak_bytes, workers)) < FRAMES * len(FRAME)


def fetched(client: httpx.Client, path: str, accept: str) -> tuple[int, str]:
    """Size and SHA-256 of an answer, which is not kept."""
    size, digest = 0, hashlib.sha256()
    with client.stream("GET", path, headers={"Accept": accept}) as answer:
        assert answer.status_code == 200
        for piece in answer.iter_raw():
            size += len(piece)
            digest.update(piece)
    return size, digest.hexdigest()
