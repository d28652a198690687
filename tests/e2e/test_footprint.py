"""How much of the machine the box takes: memory with a queue behind it, and what it writes to its card.

Memory is the resident set of the whole process, writes are what the kernel counts for it in /proc/<pid>/io: an SD
card wears by the second, and a box of 2 GB has no room for the first to grow with what waits.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from contract.sealing import DataKeyRing
from demo.scanner import find_instances, read_instance
from edge.buffer.records import InstanceIdentity, Origin
from edge.buffer.spool import Spool
from tests.e2e.files import data_set_bytes
from tests.edge.scripted_central import ScriptedCentral
from tests.peers.real_box import RealBox, wait_until
from tests.peers.scripted_scu import EXPLICIT_LITTLE, ScriptedScu, small_data_set

SOAK = bool(os.environ.get("DICOMNET_SOAK"))
QUEUED = 100_000 if SOAK else 5_000
INSTANCES = 100  # a scanner, four scanners
IDLE_S = 60.0 if SOAK else 10.0
MEMORY_MB = 150
GROWTH_MB = 10
WRITES_A_BYTE = 1.3

pytestmark = [pytest.mark.timeout(3600 if SOAK else 600), pytest.mark.disk]


def ct_slice(number: int) -> bytes:
    """512 × 512 × 16 bit: a body of smooth shades with a detector's noise in the low bits."""
    random = np.random.default_rng(number)
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    body = 1000 * (x**2 + y**2 < 0.7) * (1 + 0.1 * np.sin(9 * x + number / 5) * np.cos(7 * y))
    return (body + random.normal(0, 8, (512, 512))).clip(0).astype("<u2").tobytes()


@pytest.fixture
def central(tmp_path: Path) -> ScriptedCentral:
    """Gone after the enrolment, so that what comes in stays."""
    (tmp_path / "central").mkdir()
    return ScriptedCentral(tmp_path / "central").start()


def send_from_four_scanners(box: RealBox, prefix: str) -> None:
    """`INSTANCES` CT slices on each of four associations at the same time."""
    slices = [ct_slice(number) for number in range(8)]
    refused: list[int] = []

    def send(scanner: int) -> None:
        with ScriptedScu(box.port, timeout_s=60) as scu:
            scu.associate(calling=f"CT{scanner}".encode(), max_pdu_bytes=131_072)
            for number in range(INSTANCES):
                uid = f"{prefix}.{scanner}.{number}"
                data = small_data_set(uid, pixels=slices[number % 8])
                status = scu.store(data, uid, fragment_bytes=60_000).status
                refused.extend([status] if status else [])
            scu.release()

    threads = [threading.Thread(target=send, args=(scanner,)) for scanner in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []


def fill(root: Path, central: ScriptedCentral, first: int, upto: int) -> None:
    """Objects that wait, made by the spool itself in the box's absence."""
    keys = DataKeyRing((central.sealing_key.public_key(),))
    spool = Spool.open(root, reserve_bytes=0, quarantine_max_bytes=0, keys=keys)
    lock = threading.Lock()
    numbers = iter(range(first, upto))

    def store() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            with spool.entrance.receive(Origin("CT1", "DICOMNET", "192.0.2.7", EXPLICIT_LITTLE)) as reception:
                reception.write(f"instance {number}".encode())
                study = f"1.2.8.{number // 500}"
                reception.commit(
                    InstanceIdentity(
                        "1.2.840.10008.5.1.4.1.1.2", f"{study}.{number}", study, f"{study}.1", "CT"
                    )
                )

    threads = [threading.Thread(target=store) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spool.close()


def test_memory_is_small_and_does_not_grow_with_the_queue(tmp_path: Path, central: ScriptedCentral) -> None:
    with RealBox(tmp_path / "box") as box:
        box.start()
        box.enrol(central)
        central.stop()
        peaks = []
        for queued in (0, QUEUED):
            if queued:
                fill(box.spool, central, 0, queued)
                box.start()
            send_from_four_scanners(box, f"1.2.5.{queued}")
            status = box.status()
            assert status.queue_objects >= queued + INSTANCES
            peaks.append(box.memory_mb("VmHWM"))
            box.stop()
    print(f"at most {peaks[0]:.0f} MB with nothing queued, {peaks[1]:.0f} MB with {QUEUED} objects")
    assert max(peaks) <= MEMORY_MB
    assert peaks[1] - peaks[0] <= GROWTH_MB


def test_what_is_written_for_a_received_byte(
    tmp_path: Path, central: ScriptedCentral, request: pytest.FixtureRequest
) -> None:
    """A series is received, and goes on to central; then the box idles, and its disk does, too."""
    folder = os.environ.get("DICOM_SAMPLES")
    with RealBox(tmp_path / "box", study_idle_s=3) as box:
        box.start()
        box.enrol(central)
        before = box.written_bytes()
        if folder:
            sent_bytes, count = _send_samples(box, Path(folder))
        else:
            send_from_four_scanners(box, "1.2.5")
            count = 4 * INSTANCES
            sent_bytes = count * len(small_data_set("1.2.5.1.100", pixels=ct_slice(0)))
        assert central.wait_for(lambda: len(central.archived) >= count, 120), "central did not get it all"
        _wait_for_empty_queue(box)
        written = box.written_bytes() - before
        # A study that nothing comes of for a while is complete, and that is written; so is what the last receipt left.
        wait_until("every study is complete", lambda: box.open_studies() == 0)
        idle_before = _written_when_at_rest(box)
        threading.Event().wait(IDLE_S)  # the passing of time is what is measured
        idle_bytes = box.written_bytes() - idle_before
    central.stop()
    ratio = written / sent_bytes
    print(
        f"{count} instances, {sent_bytes / 1e6:.0f} MB: {ratio:.2f} bytes written for each received; "
        f"{idle_bytes} in {IDLE_S:.0f} s of idleness"
    )
    assert 0.1 < ratio <= WRITES_A_BYTE, "and nothing at all would not be a disk"
    assert idle_bytes == 0


def _written_when_at_rest(box: RealBox) -> int:
    """What it has written when nothing has come to that for three seconds."""
    written, since_s = box.written_bytes(), time.monotonic()
    until_s = since_s + 60
    while time.monotonic() < since_s + 3:
        assert time.monotonic() < until_s, "it goes on writing"
        threading.Event().wait(0.1)
        if (now := box.written_bytes()) != written:
            written, since_s = now, time.monotonic()
    return written


def _wait_for_empty_queue(box: RealBox) -> None:
    for _ in range(600):
        if box.status().queue_objects == 0:
            return
        threading.Event().wait(0.1)
    raise AssertionError("the queue does not empty")


def _send_samples(box: RealBox, folder: Path) -> tuple[int, int]:
    """Real series over one association each; bytes and instances."""
    by_folder: dict[tuple[Path, str, str], list[Path]] = {}
    instances, _ = find_instances(folder)
    for instance in instances:
        key = (instance.path.parent, instance.sop_class_uid, instance.transfer_syntax_uid)
        by_folder.setdefault(key, []).append(instance.path)
    sent_bytes = count = 0
    for (_, sop_class, transfer_syntax), paths in by_folder.items():
        with ScriptedScu(box.port, timeout_s=60) as scu:
            scu.associate([(1, sop_class, [transfer_syntax])])
            for path in paths:
                data = data_set_bytes(path)
                read = read_instance(path)
                assert read is not None
                stored = scu.store(data, read.sop_instance_uid, sop_class=sop_class, fragment_bytes=60_000)
                assert stored.status == 0
                sent_bytes += len(data)
                count += 1
            scu.release()
    return sent_bytes, count
