"""How fast does the box take a folder in, beside DCMTK's storescp and Orthanc? Ratios, from one alternating run.

    DICOM_SAMPLES=… python -m bench.ingest [--rounds 5] [--cases large small four]

Every receiver starts empty and gets the same instances from the same sender, DCMTK's storescu. TCP_NODELAY is set for
all: without it DCMTK waits 40 ms an instance and the comparison flatters us. What each one does for its time differs
and is printed: storescp and Orthanc neither seal nor fsync; this box hashes, seals and fsyncs before it
answers, and codes pixels as far as sender and processors leave the time. What receiving, hashing, sealing and syncing
alone cost here is measured beside it (`bench.plain`): the last of these does all the work and keeps none of the
promises. Ratios are of times in the same round; the median counts.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pydicom

from contract.sealing import DataKeyRing, RecipientPrivateKey
from edge.buffer.processors import Processors
from edge.buffer.spool import Spool
from edge.gateway.addresses import Address
from edge.gateway.echo import echo
from edge.gateway.server import GatewayServer
from edge.gateway.settings import GatewaySettings
from edge.gateway.workers import Workers
from edge.memory import share_heaps

ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


@dataclass(frozen=True)
class Case:
    """What is sent: `instances` by each of `senders`; `side` cuts the images, None leaves them whole."""

    instances: int
    senders: int
    side: int | None


CASES = {
    "large": Case(instances=450, senders=1, side=None),  # 512 x 512 x 16 bit: about 240 MB
    "small": Case(instances=1000, senders=1, side=200),  # about 86 KB each
    "four": Case(instances=1000, senders=4, side=200),
}


@dataclass(frozen=True)
class Taken:
    """One run: by the clock, and of the receiver's processor time."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Receiver:
    """A program under test. `command` is given its folder and its port."""

    name: str
    does: str


GATEWAY = Receiver("gateway", "hash + code where the sender leaves the time + seal + fsync")
STORESCP = Receiver("storescp", "write, no fsync")
ORTHANC = Receiver("Orthanc", "write + index, no fsync")
LIMITS = {
    Receiver("receive", "this machine's limit: receive and drop, in plain Python"): "receive",
    Receiver("+ hash", "the same, and SHA-256"): "hash",
    Receiver("+ seal", "the same, and AES-256-GCM"): "seal",
    Receiver("+ fsync", "the same, and a file, written and synced"): "sync",
}


def command(receiver: Receiver, folder: Path, port: int) -> list[str]:
    if receiver is GATEWAY:
        return [sys.executable, "-m", "bench.ingest", "--serve", str(port), str(folder)]
    if receiver in LIMITS:
        return [sys.executable, "-m", "bench.plain", str(port), str(folder), LIMITS[receiver]]
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
    share_heaps()
    workers = Workers.fork(0)
    private = RecipientPrivateKey.generate()
    spool = Spool.open(
        folder / "spool",
        reserve_bytes=0,
        quarantine_max_bytes=1 << 20,
        keys=DataKeyRing((private.public_key(),)),
    )
    spool.entrance.pace.processors_are_busy = Processors().are_busy
    server = GatewayServer(GatewaySettings(host="127.0.0.1", port=port), spool.entrance, workers=workers)
    # Blocked before any thread starts, so that sigwait alone gets it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    server.start()
    signal.sigwait({signal.SIGTERM})
    server.stop()
    workers.stop()
    spool.close()


@contextlib.contextmanager
def running(receiver: Receiver, scratch: Path) -> Iterator[tuple[int, psutil.Process]]:
    """Start a receiver on an empty folder; its port and process once it answers a C-ECHO."""
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
        while not echo(Address("127.0.0.1", port), "ANY", "BENCH", 2.0).ok:
            if time.monotonic() > deadline_s or process.poll() is not None:
                raise RuntimeError(f"{receiver.name} did not start")
            time.sleep(0.1)  # a foreign program: nothing tells us when it listens but asking
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()
        # Emptied, not deleted: for minutes ext4 looks at each deleted inode again before it hands out a new one, and
        # the next receiver would pay for the files of this one.
        for path in folder.rglob("*"):
            if path.is_file():
                os.truncate(path, 0)


def send(port: int, folders: Sequence[Path]) -> float:
    """Seconds that one sender for each folder take together, each over one association."""
    began_s = time.perf_counter()
    senders = [
        subprocess.Popen(
            ["storescu", "-nh", "+sd", "127.0.0.1", str(port), str(folder)],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for folder in folders
    ]
    failed = [sender for sender in senders if sender.wait()]  # all of them are waited for
    if failed:
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


def copies(sources: Sequence[Path], target: Path, count: int, *, side: int | None = None) -> None:
    """`count` instances made of `sources` in turn, each with a SOP Instance UID of its own.

    Parameters
    ----------
    side : cut the middle of each image to so many pixels a side; None: whole images.
    """
    target.mkdir()
    prefix = pydicom.uid.generate_uid()[:40]
    for number in range(count):
        ds = pydicom.dcmread(sources[number % len(sources)])
        if side is not None:
            top, left = (ds.Rows - side) // 2, (ds.Columns - side) // 2
            pixels = ds.pixel_array[top : top + side, left : left + side]
            ds.Rows, ds.Columns, ds.PixelData = side, side, pixels.tobytes()
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(
            f"{prefix}.{number + 1}"
        )
        ds.save_as(target / f"{number:05}.dcm")


def ct_series(scratch: Path) -> list[Path]:
    """A real CT series where DICOM_SAMPLES names one, else a made one."""
    if samples := os.environ.get("DICOM_SAMPLES"):
        # Its DIRFILE is a DICOMDIR, which is no instance.
        return sorted(
            path for path in (Path(samples) / "ct-philips-head").iterdir() if path.name != "DIRFILE"
        )
    made = scratch / "made"
    made.mkdir()
    generate(made)
    return sorted(made.iterdir())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds; each runs every receiver once, in turn"
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which of the cases")
    parser.add_argument("--scratch", type=Path, default=None, help="where receivers write (default: TMPDIR)")
    parser.add_argument("--serve", nargs=2, metavar=("PORT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(int(options.serve[0]), Path(options.serve[1]))
        return
    if shutil.which("storescu") is None:
        print("not measured: DCMTK is not installed (apt install dcmtk)")
        return
    receivers = [GATEWAY, STORESCP] + ([ORTHANC] if shutil.which("Orthanc") else []) + list(LIMITS)
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch_name:
        scratch = Path(scratch_name)
        series = ct_series(scratch)
        for name in options.cases:
            case = CASES[name]
            folders = [scratch / f"{name}-{sender}" for sender in range(case.senders)]
            for folder in folders:
                copies(series, folder, case.instances, side=case.side)
            compare(name, folders, receivers, scratch, rounds=options.rounds)
            for folder in folders:
                shutil.rmtree(folder)


def compare(
    name: str, folders: Sequence[Path], receivers: Sequence[Receiver], scratch: Path, *, rounds: int
) -> None:
    took: dict[Receiver, list[Taken]] = {receiver: [] for receiver in receivers}
    for _ in range(rounds):
        for receiver in receivers:
            with running(receiver, scratch) as (port, process):
                before_s = cpu_s(process)
                wall_s = send(port, folders)
                took[receiver].append(Taken(wall_s, cpu_s(process) - before_s))
    files = [path for folder in folders for path in folder.iterdir()]
    size_mb = sum(path.stat().st_size for path in files) / 1e6
    print(f"\n{name}: {len(files)} instances, {size_mb:.0f} MB, {len(folders)} sender(s), median of {rounds}")
    for receiver in receivers:
        wall_s = statistics.median(taken.wall_s for taken in took[receiver])
        ratios = [
            f"{ratio(took[peer], took[receiver]):5.2f} x {peer.name}"
            for peer in (STORESCP, ORTHANC)
            if peer in took and peer is not receiver
        ]
        processor_ms = statistics.median(taken.cpu_s for taken in took[receiver]) / len(files) * 1e3
        print(
            f"  {receiver.name:9}{' '.join(ratios):34}  {wall_s:6.2f} s, {size_mb / wall_s:4.0f} MB/s, "
            f"{processor_ms:.2f} ms of processor an instance ({receiver.does})",
            flush=True,
        )


def ratio(theirs: Sequence[Taken], ours: Sequence[Taken]) -> float:
    """How many times as fast; paired, so that a machine that slows down meanwhile does not count."""
    return statistics.median(peer.wall_s / own.wall_s for peer, own in zip(theirs, ours, strict=True))


def cpu_s(process: psutil.Process) -> float:
    """Processor time of a program, its children and those that have ended."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main()
