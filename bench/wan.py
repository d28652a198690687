"""How fast does a study cross a bad line, beside DCMTK's storescu to storescp on the same line in the same run?

    DICOM_WAN_TOOL=… DICOM_SAMPLES=… python -m bench.wan [--case NAME] [--rounds 1]

`DICOM_WAN_TOOL` is a program with the verbs ``up --rate --delay --loss`` and ``exec edge|hub -- COMMAND``: it makes
two network namespaces and a line between them, and needs root and /dev/net/tun. Central's program runs on one side, a
box's uplink on the other: a real spool, filled before the clock starts with pixels coded as images (`coding = always`;
a box has them so where the scanner leaves the time), then sent. The clock runs from before the first connection until
the last receipt is kept, so TCP's and TLS's handshakes count. storescu's clock runs from its start to its end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom

from bench.ingest import ENVIRONMENT, free_port
from bench.size import Instance
from contract.enrolment import Pairing
from contract.sealing import DataKeyRing
from edge.buffer.coding_pace import Coding
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.uplink.enrolment import enrol
from edge.uplink.forwarder import Forwarder
from edge.uplink.identity import IdentityStore
from edge.uplink.link import Link

SMALL_FILES, SMALL_SIDE = 100, 204
SEGMENT_BYTES = 1448
HUB, LONG_S = "10.77.0.2", 3600.0


@dataclass(frozen=True)
class Case:
    """A line and what crosses it. `bar`: the most of storescu's time that is allowed; None where it does not run."""

    name: str
    rate_mbit: float
    one_way_ms: float
    loss_percent: float
    load: str
    bar: float | None = None
    outages: bool = False


CASES = (
    Case("folder", 20, 50, 0, "folder", 1 / 8),
    Case("series", 20, 50, 0, "series", 1 / 5),
    Case("folder-loss", 20, 50, 1, "folder", 1 / 10),
    Case("series-loss", 20, 50, 1, "series", 1 / 5),
    Case("satellite", 0.384, 357.5, 0, "folder"),
    Case("outages", 2, 50, 0, "series", outages=True),
)


def loads(samples: Path, scratch: Path) -> dict[str, Path]:
    """The series as it is, and a folder of 100 files of 86 KB that are cut out of its slices."""
    series, folder = scratch / "series", scratch / "folder"
    series.mkdir()
    folder.mkdir()
    for number, path in enumerate(dicom_files(samples / "ct-philips-head")):
        if sum(file.stat().st_size for file in series.iterdir()) < 30_000_000:
            (series / f"{number:05}").symlink_to(path)
    slices = sorted(series.iterdir())
    for number in range(SMALL_FILES):
        cut_out(slices[number % len(slices)].resolve(), folder / f"{number:05}", number // len(slices))
    return {"series": series, "folder": folder}


def cut_out(source: Path, target: Path, shift: int) -> None:
    """A square of a slice as an instance of its own."""
    ds = pydicom.dcmread(source)
    begin = 100 + 60 * shift
    pixels = ds.pixel_array[begin : begin + SMALL_SIDE, begin : begin + SMALL_SIDE]
    ds.Rows = ds.Columns = SMALL_SIDE
    ds.PixelData = pixels.tobytes()
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    ds.save_as(target, enforce_file_format=True)


def dicom_files(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size > 132:
            with path.open("rb") as file:
                file.seek(128)
                if file.read(4) == b"DICM" and path.name not in {"DICOMDIR", "DIRFILE"}:
                    found.append(path)
    return found


@contextmanager
def line(tool: str, case: Case) -> Iterator[Path]:
    """The line, up; its control file."""
    arguments = ["up", "--rate", str(case.rate_mbit), "--delay", str(case.one_way_ms)]
    process = subprocess.Popen(
        [sys.executable, tool, *arguments, "--loss", str(case.loss_percent)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if "control:" not in said:
            raise SystemExit("the line does not come up: root, /dev/net/tun and iproute2 are needed")
        yield Path(said.rpartition("control:")[2].strip())
    finally:
        process.terminate()
        process.wait()


def on(tool: str, side: str, *command: str) -> list[str]:
    return [sys.executable, tool, "exec", side, "--", *command]


@contextmanager
def central(tool: str, scratch: Path) -> Iterator[str]:
    """Central's program behind the line; a pairing string for it."""
    root = Path(tempfile.mkdtemp(dir=scratch))
    port = free_port()
    config = root / "central.toml"
    config.write_text(
        f'[people]\nport = 0\n[gateways]\nhost = "0.0.0.0"\nport = {port}\npublic_host = "{HUB}"\n'
        'acceptance = "pairing-string"\n[dicom]\nenabled = false\n'
        f'[storage]\nroot = "{root / "data"}"\nreserve_bytes = 0\n'
    )
    program = str(Path(sys.executable).with_name("dicomnet-central"))
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            on(tool, "hub", program, "serve", "--config", str(config)),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            if not process.stdout.readline().startswith("LISTENING"):
                raise RuntimeError((root / "log").read_text())
            pair = [program, "pair", "--config", str(config)]
            said = subprocess.run(pair, check=True, capture_output=True, text=True).stdout
            yield said.splitlines()[0]
        finally:
            process.terminate()
            process.wait()


def send_from_box(pairing: str, folder: Path, connections: int) -> None:
    """Runs on the edge's side: fill a spool, send it, print what it took."""
    with tempfile.TemporaryDirectory() as scratch_name, ExitStack() as closing:
        scratch = Path(scratch_name)
        identity = IdentityStore(scratch / "identity").save(*enrol(Pairing.parse(pairing), timeout_s=60))
        finished = threading.Event()
        spool = Spool.open(
            scratch / "spool",
            reserve_bytes=0,
            quarantine_max_bytes=0,
            keys=DataKeyRing(identity.recipients),
            coding=Coding.ALWAYS,
        )
        closing.callback(spool.close)
        instances = [Instance(path) for path in sorted(folder.iterdir())]
        for instance in instances:
            instance.store(spool)
        waiting = spool.holdings.depth().unsent

        receipts = itertools.count(1)

        def note_receipt() -> None:
            # Counted, and looked at once: a question to the spool for each would be paid by who sends.
            if next(receipts) == waiting.objects:
                finished.set()

        forwarder = Forwarder(
            spool.queue,
            Link(),
            connections=connections,
            lease_s=LONG_S,
            backoff_ceiling_s=5.0,
            timeout_s=30.0,
            on_receipt=note_receipt,
        )
        forwarder.start()
        again_before = retransmitted()
        began_s = time.perf_counter()
        forwarder.use(identity)
        if not finished.wait(LONG_S):
            raise RuntimeError("not everything was sent within an hour")
        took_s = time.perf_counter() - began_s
        if spool.holdings.depth().unsent.objects:
            raise RuntimeError("something waits that has a receipt")
        rows = spool.holdings.list_objects(states=[State.FREED], limit=10_000)
        closing.callback(forwarder.join, 5.0)
        forwarder.stop(5.0)
        print(
            json.dumps(
                {
                    "took_s": took_s,
                    "objects": waiting.objects,
                    "size_bytes": sum(len(instance.file) for instance in instances),
                    "stored_bytes": sum(row.stored_bytes for row in rows),
                    "again_segments": retransmitted() - again_before,
                    "tried_again": sum(row.attempts > 1 for row in rows),
                }
            )
        )


def retransmitted() -> int:
    """TCP segments sent again, of this namespace (RFC 4022, tcpRetransSegs)."""
    names, values = [
        row.split() for row in Path("/proc/net/snmp").read_text().splitlines() if row.startswith("Tcp:")
    ]
    return int(dict(zip(names, values, strict=True))["RetransSegs"])


def send_with_storescu(tool: str, folder: Path, scratch: Path) -> float:
    port, target = free_port(), Path(tempfile.mkdtemp(dir=scratch))
    receiver = subprocess.Popen(
        on(tool, "hub", "storescp", "--fork", "-od", str(target), str(port)), env=ENVIRONMENT
    )
    try:
        echo = on(tool, "edge", "echoscu", HUB, str(port))
        deadline_s = time.monotonic() + 30
        while subprocess.run(echo, env=ENVIRONMENT, capture_output=True).returncode:
            if time.monotonic() > deadline_s:
                raise RuntimeError("storescp did not start")
            time.sleep(0.1)  # a foreign program: nothing tells us when it listens but asking
        sender = on(tool, "edge", "storescu", "-nh", "+sd", "+r", HUB, str(port), str(folder))
        began_s = time.perf_counter()
        subprocess.run(sender, env=ENVIRONMENT, check=True, capture_output=True)
        return time.perf_counter() - began_s
    finally:
        receiver.terminate()
        receiver.wait()
        shutil.rmtree(target)


def interrupt(control: Path, rate_mbit: float, over: threading.Event) -> None:
    """Every 20 s nothing passes for 5 s."""
    while not over.wait(20.0):
        control.write_text("rate=0\n")
        over.wait(5.0)
        control.write_text(f"rate={rate_mbit}\n")


def compare(tool: str, case: Case, folder: Path, scratch: Path, options: argparse.Namespace) -> None:
    ours: list[dict[str, float]] = []
    theirs_s: list[float] = []
    over = threading.Event()
    with line(tool, case) as control:
        for _ in range(options.rounds):
            if case.bar is not None:
                theirs_s.append(send_with_storescu(tool, folder, scratch))
            with central(tool, scratch) as pairing:
                if case.outages:
                    threading.Thread(
                        target=interrupt, args=(control, case.rate_mbit, over), daemon=True
                    ).start()
                box = [sys.executable, "-m", "bench.wan", "--box", pairing, str(folder)]
                box += ["--connections", str(options.connections)]
                said = subprocess.run(
                    on(tool, "edge", *box), check=True, stdout=subprocess.PIPE, text=True
                ).stdout
                ours.append(json.loads(said.splitlines()[-1]))
        over.set()
    report(case, ours, theirs_s)


def report(case: Case, ours: list[dict[str, float]], theirs_s: list[float]) -> None:
    took_s = statistics.median(one["took_s"] for one in ours)
    one = next(found for found in ours if found["took_s"] >= took_s)
    use = one["stored_bytes"] * 8 / took_s / case.rate_mbit / 1e6
    print(
        f"{case.name}: {case.rate_mbit} Mbit/s, {2 * case.one_way_ms:.0f} ms, {case.loss_percent} % loss; "
        f"{one['objects']} objects, {one['size_bytes'] / 1e6:.1f} MB, sealed {one['stored_bytes'] / 1e6:.1f} MB"
    )
    print(
        f"  {took_s:.2f} s; payload uses {use:.0%} of the line, which carries "
        f"{one['size_bytes'] * 8 / took_s / 1e6:.2f} Mbit/s of images; sent again by TCP "
        f"{one['again_segments'] * SEGMENT_BYTES / one['stored_bytes']:.1%}; {one['tried_again']} objects tried again"
    )
    if theirs_s and case.bar is not None:
        ratio = took_s / statistics.median(theirs_s)
        verdict = "met" if ratio <= case.bar else "MISSED"
        theirs = statistics.median(theirs_s)
        print(
            f"  storescu {theirs:.2f} s; ratio 1/{1 / ratio:.1f}, bar 1/{1 / case.bar:.0f}: {verdict}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="default: all")
    parser.add_argument("--rounds", type=int, default=1, help="how often each case runs; the median counts")
    parser.add_argument("--connections", type=int, default=4, help="of the box to central")
    parser.add_argument("--box", nargs=2, metavar=("PAIRING", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.box:
        send_from_box(options.box[0], Path(options.box[1]), options.connections)
        return
    tool, samples = os.environ.get("DICOM_WAN_TOOL"), os.environ.get("DICOM_SAMPLES")
    if not tool or not samples:
        print("not measured: DICOM_WAN_TOOL and DICOM_SAMPLES name no tool and no series")
        return
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        print("not measured: root and /dev/net/tun are needed for a line between two namespaces")
        return
    if shutil.which("storescu") is None:
        print("not measured: DCMTK is not installed (apt install dcmtk)")
        return
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        folders = loads(Path(samples), scratch)
        for case in CASES:
            if not options.case or case.name in options.case:
                compare(tool, case, folders[case.load], scratch, options)


if __name__ == "__main__":
    main()
