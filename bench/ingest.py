"""How fast does the box take a folder in, beside DCMTK's storescp and Orthanc? Ratios, from one alternating run.

    DICOM_SAMPLES=… python -m bench.ingest [--rounds 5] [--repeat 4] [--parallel 4]

Every receiver gets the same instances from the same sender (DCMTK's storescu, new instance UIDs each time, so
that nobody answers from memory). TCP_NODELAY is set for all: without it DCMTK waits 40 ms an instance and the
comparison flatters us. What each one does for its time differs and is printed: storescp and Orthanc neither
seal nor fsync; this box hashes, compresses, seals and fsyncs before it answers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contract.sealing import DataKeyRing, RecipientPrivateKey
from edge.buffer.spool import Spool
from edge.gateway.echo import echo
from edge.gateway.server import GatewayServer
from edge.gateway.settings import GatewaySettings

ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
SMALL, LARGE = "small", "large"


@dataclass(frozen=True)
class Receiver:
    """A program under test. `command` is given its folder and its port."""

    name: str
    does: str


GATEWAY = Receiver("gateway", "hash + zstd + seal + fsync")
STORESCP = Receiver("storescp", "write, no fsync")
ORTHANC = Receiver("Orthanc", "write + index, no fsync")


def command(receiver: Receiver, folder: Path, port: int) -> list[str]:
    if receiver is GATEWAY:
        return [sys.executable, "-m", "bench.ingest", "--serve", str(port), str(folder)]
    if receiver is STORESCP:
        return ["storescp", "--fork", "-od", str(folder), str(port)]
    config = folder / "orthanc.json"
    config.write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "index"),
                "DicomPort": port,
                "HttpPort": free_port(),
                "RemoteAccessAllowed": False,
                "DicomAlwaysAllowStore": True,
                "OverwriteInstances": False,
            }
        )
    )
    return [shutil.which("Orthanc") or "Orthanc", str(config)]


def serve(port: int, folder: Path) -> None:
    """The box's receiving half alone, until SIGTERM."""
    private = RecipientPrivateKey.generate()
    spool = Spool.open(
        folder / "spool",
        reserve_bytes=0,
        quarantine_max_bytes=1 << 20,
        keys=DataKeyRing((private.public_key(),)),
    )
    server = GatewayServer(GatewaySettings(host="127.0.0.1", port=port), spool)
    # Blocked before any thread starts, so that sigwait alone gets it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    server.start()
    signal.sigwait({signal.SIGTERM})
    server.stop()
    spool.close()


@contextlib.contextmanager
def running(receiver: Receiver, scratch: Path) -> Iterator[int]:
    """Start a receiver on an empty folder; its port once it answers a C-ECHO."""
    port = free_port()
    folder = Path(tempfile.mkdtemp(dir=scratch))
    process = subprocess.Popen(
        command(receiver, folder, port),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline_s = time.monotonic() + 30
        while not echo("127.0.0.1", port, "ANY", "BENCH", 2.0).ok:
            if time.monotonic() > deadline_s or process.poll() is not None:
                raise RuntimeError(f"{receiver.name} did not start")
            time.sleep(0.1)  # a foreign program: nothing tells us when it listens but asking
        yield port
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def send(port: int, folder: Path, *, repeat: int, parallel: int) -> float:
    """Seconds that `parallel` senders take together."""
    arguments = [
        "storescu",
        "-nh",
        "+sd",
        "+r",
        "+II",
        "--repeat",
        str(repeat),
        "127.0.0.1",
        str(port),
        str(folder),
    ]
    began_s = time.perf_counter()
    senders = [
        subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(parallel)
    ]
    if any(sender.wait() for sender in senders):
        raise RuntimeError("a sender failed")
    return time.perf_counter() - began_s


def generate(folder: Path) -> None:
    """A CT-like series of 60 slices, for machines without real samples: a disc in noise."""
    import numpy as np
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    random = np.random.default_rng(1)
    rows, columns = np.mgrid[-256:256, -256:256]
    disc = np.where(rows**2 + columns**2 < 200**2, 1040, 24)
    study, series = generate_uid(), generate_uid()
    for number in range(60):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = study, series, "CT"
        ds.PatientID, ds.PatientName, ds.InstanceNumber = "BENCH", "Bench^Phantom", number + 1
        ds.Rows = ds.Columns = 512
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.PixelData = (disc + random.normal(0, 12, disc.shape)).astype("<u2").tobytes()
        ds.save_as(folder / f"{number:03}.dcm", enforce_file_format=True)


def link_series(source: Path, target: Path) -> None:
    """The instances of a folder without its DICOMDIR, which is no instance."""
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.name not in {"DICOMDIR", "DIRFILE"}:
            (target / f"{len(list(target.iterdir())):05}").symlink_to(path.resolve())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds; each runs every receiver once, in turn"
    )
    parser.add_argument("--repeat", type=int, default=4, help="how often one sender sends the folder")
    parser.add_argument("--parallel", type=int, default=4, help="senders at once in the parallel case")
    parser.add_argument("--scratch", type=Path, default=None, help="where receivers write (default: TMPDIR)")
    parser.add_argument("--serve", nargs=2, metavar=("PORT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(int(options.serve[0]), Path(options.serve[1]))
        return
    if shutil.which("storescu") is None:
        raise SystemExit("DCMTK is not installed: apt install dcmtk")
    receivers = [GATEWAY, STORESCP] + ([ORTHANC] if shutil.which("Orthanc") else [])
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch_name:
        scratch = Path(scratch_name)
        cases = {"generated CT": scratch / "generated"}
        cases["generated CT"].mkdir()
        if samples := os.environ.get("DICOM_SAMPLES"):
            cases = {}
            for name in ("ct-philips-head", "mr-ge-fmri"):
                cases[name] = scratch / name
                cases[name].mkdir()
                link_series(Path(samples) / name, cases[name])
        else:
            generate(cases["generated CT"])
        for name, folder in cases.items():
            for parallel in (1, options.parallel):
                compare(name, folder, receivers, scratch, parallel=parallel, options=options)


def compare(
    name: str,
    folder: Path,
    receivers: list[Receiver],
    scratch: Path,
    *,
    parallel: int,
    options: argparse.Namespace,
) -> None:
    took_s: dict[Receiver, list[float]] = {receiver: [] for receiver in receivers}
    for _ in range(options.rounds):
        for receiver in receivers:
            with running(receiver, scratch) as port:
                took_s[receiver].append(send(port, folder, repeat=options.repeat, parallel=parallel))
    size_mb = sum(path.stat().st_size for path in folder.iterdir()) * options.repeat * parallel / 1e6
    count = len(list(folder.iterdir())) * options.repeat * parallel
    print(f"\n{name}: {count} instances, {size_mb:.0f} MB, {parallel} sender(s), median of {options.rounds}")
    reference_s = statistics.median(took_s[STORESCP])
    for receiver in receivers:
        median_s = statistics.median(took_s[receiver])
        print(
            f"  {receiver.name:10} {reference_s / median_s:5.2f} x storescp   "
            f"({median_s:.2f} s, {size_mb / median_s:.0f} MB/s; {receiver.does})"
        )


if __name__ == "__main__":
    main()
