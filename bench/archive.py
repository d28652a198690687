"""Central beside Orthanc with its DICOMweb plugin: storing, finding and fetching, in one alternating run.

    python -m bench.archive [--rounds 5] [--images 60]

Each round gives both archives the same new study of CT images and fetches it again, by DICOMweb and by DIMSE. Printed
are medians; of each pair, how many times Orthanc's pace central has (above 1: central is ahead); and how much processor
time an item costs each, which says more than the pace where the machine has other work. Both sync what they store.
Central does what Orthanc does not: each request is authorized, and on record before it is answered.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Final

import httpx
import psutil
from pydicom.uid import generate_uid

from bench.visible import ct_image
from central.access.policy import Role
from central.config import Settings
from central.foundation import Foundation
from contract.settings import load_settings
from tests.peers_installed import orthanc_dicomweb, program
from tests.ports import free_base_port

_PASSWORD: Final = "a password for benches only"
_BOUNDARY: Final = "bench"
_STORED: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_FRAME: Final = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
_ENVIRONMENT: Final = {**os.environ, "TCP_NODELAY": "1"}
_START_S: Final = 60


@dataclass
class Archive:
    """One archive under test. `dicom` is its port and AE title."""

    name: str
    client: httpx.Client
    dicom: tuple[int, str]
    process: psutil.Process
    times: dict[str, list[float]] = field(default_factory=dict)
    processor_ms: dict[str, list[float]] = field(default_factory=dict)

    def processor_s(self) -> float:
        used = self.process.cpu_times()
        return float(used.user + used.system + used.children_user + used.children_system)

    def resident_mb(self) -> float:
        family = [self.process, *self.process.children(recursive=True)]
        return float(sum(one.memory_info().rss for one in family)) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="pairs (default: 5)")
    parser.add_argument("--images", type=int, default=60, help="images a study, 0.5 MB each (default: 60)")
    options = parser.parse_args()
    if program("Orthanc") is None or orthanc_dicomweb() is None:
        print("not measured: Orthanc and its DICOMweb plugin are not installed (orthanc, orthanc-dicomweb)")
        return
    with (
        tempfile.TemporaryDirectory(prefix="dicomnet-archive-") as scratch,
        contextlib.ExitStack() as running,
    ):
        sink = running.enter_context(_sink(Path(scratch) / "sink"))
        archives = [
            running.enter_context(_central(Path(scratch) / "central", sink)),
            running.enter_context(_orthanc(Path(scratch) / "orthanc", sink)),
        ]
        for number in range(options.rounds):
            folder = Path(scratch) / f"study-{number}"
            study, files = _study(folder, options.images)
            for archive in archives[:: 1 if number % 2 else -1]:
                _round(archive, study, files, folder, Path(scratch))
            shutil.rmtree(folder)
        _print(archives)


def _round(archive: Archive, study: str, files: list[Path], folder: Path, scratch: Path) -> None:
    contents = [path.read_bytes() for path in files]
    first, second = contents[: len(contents) // 2], contents[len(contents) // 2 :]

    def store() -> None:
        body = b"".join(
            b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (_BOUNDARY.encode(), content)
            for content in first
        )
        headers = {"Content-Type": f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}'}
        answer = archive.client.post("studies", content=body + f"--{_BOUNDARY}--".encode(), headers=headers)
        assert answer.status_code == 200, (archive.name, answer.status_code, answer.text[:300])
        assert len(answer.json()["00081199"]["Value"]) == len(first)

    half = folder / "half"
    half.mkdir(exist_ok=True)
    for number, content in enumerate(second):
        (half / f"{number}.dcm").write_bytes(content)

    def send() -> None:
        port, ae_title = archive.dicom
        _run("storescu", "-aet", "BENCH", "-aec", ae_title, "+sd", "127.0.0.1", str(port), str(half))

    def whole() -> None:
        began = time.perf_counter()
        with archive.client.stream("GET", f"studies/{study}", headers={"Accept": _STORED}) as answer:
            assert answer.status_code == 200, (archive.name, answer.status_code)
            pieces = answer.iter_raw()
            size = len(next(pieces))
            archive.times.setdefault("WADO-RS study, first byte, 1/s", []).append(
                1 / (time.perf_counter() - began)
            )
            size += sum(map(len, pieces))
        assert size > sum(map(len, contents))

    def search() -> None:
        answer = archive.client.get("studies", params={"limit": 50})
        assert answer.status_code == 200
        assert answer.json()

    instances: list[tuple[str, str]] = []

    def listed() -> None:
        answer = archive.client.get(f"studies/{study}/instances", params={"limit": len(contents)})
        instances[:] = [
            (item["0020000E"]["Value"][0], item["00080018"]["Value"][0]) for item in answer.json()
        ]
        assert len(instances) == len(contents), (archive.name, len(instances))

    def frames() -> None:
        for series, instance in instances:
            url = f"studies/{study}/series/{series}/instances/{instance}/frames/1"
            answer = archive.client.get(url, headers={"Accept": _FRAME})
            assert answer.status_code == 200, (archive.name, answer.status_code, answer.text[:200])
            assert len(answer.content) > 512 * 512 * 2

    def metadata() -> None:
        answer = archive.client.get(f"studies/{study}/metadata", headers={"Accept": "application/dicom+json"})
        assert len(answer.json()) == len(contents)

    def keys(one: bool) -> list[str]:
        """What a C-GET or C-MOVE names: the study, or an image of it."""
        named = {"QueryRetrieveLevel": "IMAGE" if one else "STUDY", "StudyInstanceUID": study}
        if one:
            named["SeriesInstanceUID"], named["SOPInstanceUID"] = instances[0]
        return [word for keyword, value in named.items() for word in ("-k", f"{keyword}={value}")]

    def get(*, one: bool = False) -> None:
        port, ae_title = archive.dicom
        with tempfile.TemporaryDirectory(dir=scratch) as out:
            to = ("-S", "-aet", "BENCH", "-aec", ae_title, "127.0.0.1", str(port), "-od", out)
            _run("getscu", *to, *keys(one))
            assert len(list(Path(out).iterdir())) == (1 if one else len(contents)), archive.name

    def move(*, one: bool = False) -> None:
        port, ae_title = archive.dicom
        to = ("-S", "-aet", "BENCH", "-aec", ae_title, "-aem", "SINK", "127.0.0.1", str(port))
        _run("movescu", *to, *keys(one))
        came = list((scratch / "sink").iterdir())
        assert len(came) == (1 if one else len(contents)), (archive.name, len(came))
        for left in came:
            left.unlink()

    _time(archive, "STOW-RS, images a second", store, len(first))
    _time(archive, "C-STORE, images a second", send, len(second))
    _time(archive, "QIDO-RS studies, requests a second", search, 20, times=20)
    listed()
    _time(archive, "QIDO-RS instances of a study, requests a second", listed, 1)
    _time(archive, "WADO-RS study, images a second", whole, len(contents))
    _time(archive, "WADO-RS frames, one by one, frames a second", frames, len(contents))
    _time(archive, "WADO-RS metadata, images a second", metadata, len(contents))
    _time(archive, "C-GET, images a second", get, len(contents))
    _time(archive, "C-MOVE, images a second", move, len(contents))
    _time(archive, "C-GET of one image, calls a second", partial(get, one=True), 20, times=20)
    _time(archive, "C-MOVE of one image, calls a second", partial(move, one=True), 20, times=20)


def _time(archive: Archive, what: str, do: Callable[[], None], count: int, *, times: int = 1) -> None:
    began, used_s = time.perf_counter(), archive.processor_s()
    for _ in range(times):
        do()
    archive.times.setdefault(what, []).append(count / (time.perf_counter() - began))
    used_ms = 1000 * (archive.processor_s() - used_s)
    archive.processor_ms.setdefault(what, []).append(used_ms / (count if times == 1 else times))


def _print(archives: list[Archive]) -> None:
    ours, theirs = archives
    print(f"{'':50} {ours.name:>10} {theirs.name:>10}   pace of {theirs.name}, processor ms an item")
    for what, mine in ours.times.items():
        others = theirs.times[what]
        ratio = statistics.median(a / b for a, b in zip(mine, others, strict=True))
        print(
            f"{what:50} {statistics.median(mine):10.1f} {statistics.median(others):10.1f}   {ratio:5.2f} x"
            + _processor(ours.processor_ms.get(what), theirs.processor_ms.get(what))
        )
    print(
        f"{'resident memory, all its processes, MB':50} {ours.resident_mb():10.0f} {theirs.resident_mb():10.0f}"
    )


def _processor(mine: list[float] | None, others: list[float] | None) -> str:
    if mine is None or others is None:
        return ""
    return f"   {statistics.median(mine):6.2f} {statistics.median(others):6.2f}"


def _study(folder: Path, images: int) -> tuple[str, list[Path]]:
    folder.mkdir()
    study, series = generate_uid(), generate_uid()
    files = []
    for number in range(images):
        out = BytesIO()
        ct_image(study, series, number).save_as(out, enforce_file_format=True)
        path = folder / f"{number}.dcm"
        path.write_bytes(out.getvalue())
        files.append(path)
    return study, files


@contextlib.contextmanager
def _sink(folder: Path) -> Iterator[int]:
    """Where a C-MOVE goes: DCMTK's storescp, what came is removed after each; its port."""
    folder.mkdir()
    port = free_base_port(1)
    command = [program("storescp") or "storescp", "-od", str(folder), str(port)]
    with peer_process(command, folder.parent):
        echo = [program("echoscu") or "echoscu", "127.0.0.1", str(port)]
        deadline = time.monotonic() + _START_S
        while subprocess.run(echo, capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise SystemExit("storescp does not answer")
            time.sleep(0.1)
        yield port


@contextlib.contextmanager
def _central(folder: Path, sink: int) -> Iterator[Archive]:
    folder.mkdir()
    port = free_base_port(3)
    config = folder / "central.toml"
    may = '["query", "retrieve", "store"]'
    config.write_text(
        f'[people]\nport = {port}\n[gateways]\nport = {port + 1}\n[storage]\nroot = "{folder / "root"}"\n'
        f'[dicom]\nport = {port + 2}\nae_title = "CENTRAL"\n'
        f'[[dicom.peers]]\nae_title = "BENCH"\naddress = "127.0.0.1"\nmay = {may}\n'
        f'[[dicom.peers]]\nae_title = "SINK"\naddress = "127.0.0.1"\nhost = "127.0.0.1"\nport = {sink}\nmay = []\n'
    )
    foundation = Foundation.open(load_settings(Settings, config, environ={}))
    foundation.accounts.create_user("bench", _PASSWORD, Role.RADIOLOGIST)
    foundation.close()
    command = [
        str(Path(sysconfig.get_path("scripts")) / "dicomnet-central"),
        "serve",
        "--config",
        str(config),
    ]
    with peer_process(command, folder) as process:
        url = f"http://127.0.0.1:{port}"
        await_answer(f"{url}/healthz")
        form = {"username": "bench", "password": _PASSWORD}
        token = httpx.post(f"{url}/api/auth/token", data=form, trust_env=False).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(
            base_url=f"{url}/dicom-web", headers=headers, timeout=300, trust_env=False
        ) as client:
            yield Archive("central", client, (port + 2, "CENTRAL"), psutil.Process(process.pid))


@contextlib.contextmanager
def _orthanc(folder: Path, sink: int) -> Iterator[Archive]:
    folder.mkdir()
    port = free_base_port(2)
    config = folder / "orthanc.json"
    config.write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "index"),
                "HttpPort": port,
                "DicomPort": port + 1,
                "DicomAet": "ORTHANC",
                "RemoteAccessAllowed": False,
                "DicomAlwaysAllowStore": True,
                "DicomAlwaysAllowGet": True,
                "DicomModalities": {
                    "bench": ["BENCH", "127.0.0.1", port],
                    "sink": ["SINK", "127.0.0.1", sink],
                },
                "SyncStorageArea": True,
                "KeepAlive": True,
                "TcpNoDelay": True,
                "Plugins": [str(orthanc_dicomweb())],
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            }
        )
    )
    with peer_process([str(program("Orthanc")), str(config)], folder) as process:
        url = f"http://127.0.0.1:{port}"
        await_answer(f"{url}/system")
        headers = {"Accept": "application/dicom+json"}
        with httpx.Client(
            base_url=f"{url}/dicom-web", headers=headers, timeout=300, trust_env=False
        ) as client:
            yield Archive("Orthanc", client, (port + 1, "ORTHANC"), psutil.Process(process.pid))


@contextlib.contextmanager
def peer_process(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=_ENVIRONMENT)
        try:
            yield process
        except SystemExit:
            print((folder / "log").read_text(errors="replace")[-2000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait(60)


def await_answer(url: str, within_s: float = _START_S) -> None:
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False, timeout=5).status_code == 200:
                return
        if time.monotonic() > deadline:
            raise SystemExit(f"{url} does not answer")
        time.sleep(0.1)


def _run(name: str, *words: str) -> None:
    done = subprocess.run(
        [program(name) or name, *words],
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name} {' '.join(words)}: {done.stdout[-500:]}{done.stderr[-500:]}")


if __name__ == "__main__":
    main()
