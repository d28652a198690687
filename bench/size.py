"""How small does the spool keep a series, and at what speed? Beside zstd at level 3 on the same files, same run.

    DICOM_SAMPLES=… python -m bench.size [--rounds 5]

Takes each instance through the box's own reception (hash, code, decode again and compare, seal, write, sync), on one
thread, with pixels always coded as images. Speed is bytes of the Part 10 files over the processor time of that thread,
so it is the speed of one core; the comparison with what was decoded again is part of it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import zstandard

from bench.ingest import generate
from contract.part10 import file_meta
from contract.sealing import DataKeyRing, RecipientPrivateKey
from edge.buffer.coding_pace import Coding
from edge.buffer.records import Origin
from edge.buffer.spool import Spool
from edge.gateway.command_set import Command, Element
from edge.gateway.storage import SUCCESS, IncomingInstance

FRAGMENT_BYTES = 1 << 17
_C_STORE_RQ = 0x0001


class Instance:
    """One file, taken apart into what a C-STORE would bring."""

    def __init__(self, path: Path) -> None:
        with pydicom.dcmread(path, stop_before_pixels=True) as ds:
            meta = ds.file_meta
            self.transfer_syntax_uid = str(meta.TransferSyntaxUID)
            uids = (str(ds.SOPClassUID), str(ds.SOPInstanceUID))
            start = 132 + 12 + int(meta.FileMetaInformationGroupLength)
        self.data_set = path.read_bytes()[start:]
        self.file = file_meta(*uids, self.transfer_syntax_uid) + self.data_set
        elements: dict[int, bytes] = {
            Element.AFFECTED_SOP_CLASS_UID: uids[0].encode(),
            Element.AFFECTED_SOP_INSTANCE_UID: uids[1].encode(),
        }
        self.command = Command(elements, _C_STORE_RQ, 1)

    def store(self, spool: Spool) -> None:
        origin = Origin("BENCH", "DICOMNET", "127.0.0.1", self.transfer_syntax_uid)
        incoming = IncomingInstance(spool.entrance, origin, self.command)
        view = memoryview(self.data_set)
        for at in range(0, len(view), FRAGMENT_BYTES):
            incoming.write(view[at : at + FRAGMENT_BYTES])
        if incoming.finish() is not SUCCESS:
            raise RuntimeError("the box did not take an instance")


def instances(folder: Path) -> Iterator[Instance]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and pydicom.misc.is_dicom(path) and path.name not in {"DICOMDIR", "DIRFILE"}:
            yield Instance(path)


def measure(name: str, series: list[Instance], rounds: int) -> None:
    size_bytes = sum(len(instance.file) for instance in series)
    compressor = zstandard.ZstdCompressor(level=3)
    zstd_bytes = sum(len(compressor.compress(instance.file)) for instance in series)
    took_s: list[float] = []
    spool_bytes = 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            keys = DataKeyRing((RecipientPrivateKey.generate().public_key(),))
            spool = Spool.open(
                Path(scratch) / "spool",
                reserve_bytes=0,
                quarantine_max_bytes=0,
                keys=keys,
                coding=Coding.ALWAYS,
            )
            began_s = time.thread_time()
            for instance in series:
                instance.store(spool)
            took_s.append(time.thread_time() - began_s)
            # Labels and padding included: what the disk holds for these instances.
            spool_bytes = sum(path.stat().st_size for path in Path(scratch).rglob("*.sealed"))
            spool.close()
    print(
        f"{name}: {len(series)} instances, {size_bytes / 1e6:.1f} MB; "
        f"in the spool {spool_bytes / zstd_bytes:.3f} x zstd-3 ({size_bytes / spool_bytes:.2f} : 1), "
        f"{size_bytes / 1e6 / statistics.median(took_s):.0f} MB/s a core"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="how often each series is taken in")
    options = parser.parse_args()
    samples = os.environ.get("DICOM_SAMPLES")
    if samples is None:
        with tempfile.TemporaryDirectory() as scratch:
            generate(Path(scratch))
            measure("generated CT", list(instances(Path(scratch))), options.rounds)
        return
    for folder in sorted(Path(samples).iterdir()):
        if folder.is_dir():
            measure(folder.name, list(instances(folder)), options.rounds)


if __name__ == "__main__":
    main()
