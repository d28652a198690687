"""Several processes receive for one spool: a real box, with scanners that send at the same time."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from contract.control import BoxStatus
from tests.edge.buffer.instances import contents
from tests.edge.scripted_central import ScriptedCentral
from tests.peers.real_box import RealBox, wait_until
from tests.peers.scripted_scu import (
    CT_STORAGE,
    EXPLICIT_LITTLE,
    ScriptedScu,
    c_store_rq,
    p_data,
    small_data_set,
)

pytestmark = pytest.mark.disk  # what a process wrote says that it received

PIXELS = os.urandom(200_000)


@pytest.fixture
def central(tmp_path: Path) -> Iterator[ScriptedCentral]:
    (tmp_path / "central").mkdir()
    running = ScriptedCentral(tmp_path / "central").start()
    yield running
    running.stop()


@pytest.fixture
def box(tmp_path: Path, central: ScriptedCentral) -> Iterator[RealBox]:
    """Two processes receive; central is away after the enrolment, so that what comes in stays."""
    with RealBox(tmp_path / "box", receiving_processes=2) as running:
        running.start()
        running.enrol(central)
        central.stop()
        yield running


def instance(number: int) -> tuple[bytes, str]:
    uid = f"1.2.77.{number}"
    return small_data_set(uid, pixels=PIXELS), uid


LONG = small_data_set("1.2.77.2", pixels=os.urandom(4_000_000))


def torn_files(box: RealBox) -> list[Path]:
    """Files that have been begun and have no label."""
    return [
        path
        for path, content in contents(box.spool / "objects")
        if path.suffix == ".sealed" and content and not content.endswith(b"DNlabel1")
    ]


def unsent(status: BoxStatus) -> int:
    return status.queue_objects


class Scanners:
    """Associations that are all open before the first instance goes: the second one is the worker's."""

    def __init__(self, box: RealBox, count: int) -> None:
        self.scus = [ScriptedScu(box.port, timeout_s=60) for _ in range(count)]
        for number, scu in enumerate(self.scus):
            scu.associate(calling=f"CT{number}".encode())

    def __enter__(self) -> list[ScriptedScu]:
        return self.scus

    def __exit__(self, *_: object) -> None:
        for scu in self.scus:
            scu.socket.close()


def at_once(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_scanners_that_overlap_are_shared_out(box: RealBox) -> None:
    (worker,) = box.workers
    answered: list[int] = []
    with Scanners(box, 4) as scus:

        def send(scanner: int) -> None:
            for number in range(10):
                answered.append(scus[scanner].store(*instance(100 * scanner + number)).status)
            # The same again is absorbed, wherever it was received first.
            answered.append(scus[scanner].store(*instance(100 * ((scanner + 1) % 4))).status)

        written_bytes = psutil.Process(worker).io_counters().write_bytes
        at_once(send, 4)
        for scu in scus:
            scu.release()

    assert answered == [0] * 44
    assert unsent(box.status()) == 40
    share_bytes = psutil.Process(worker).io_counters().write_bytes - written_bytes
    assert share_bytes > 20 * len(PIXELS), "the worker took two of the four"
    assert not box.complaints()


def test_what_cannot_be_identified_is_kept_apart_by_the_owner(box: RealBox) -> None:
    with Scanners(box, 2) as (_, elsewhere):
        answer = elsewhere.store(small_data_set("1.2.3.4", study=""), "1.2.3.4")
        assert answer.status == 0xC005
        assert elsewhere.store(*instance(1)).status == 0
    status = box.status()
    assert (status.quarantined_objects, unsent(status)) == (1, 1)


def test_a_worker_that_dies_loses_nothing_it_answered_for_and_is_started_again(box: RealBox) -> None:
    (worker,) = box.workers
    with Scanners(box, 2) as (here, elsewhere):
        assert elsewhere.store(*instance(1)).status == 0
        elsewhere.send(p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.77.2")))
        for at in range(0, 3_000_000, 100_000):
            elsewhere.send(p_data(1, 0, LONG[at : at + 100_000]))
        wait_until("it has written a part", lambda: torn_files(box))
        os.kill(worker, signal.SIGKILL)
        assert elsewhere.wait_for_close() == b""
        assert here.store(*instance(3)).status == 0
        wait_until("what it had half received is gone", lambda: not torn_files(box))
    with Scanners(box, 2) as scus:  # before or after the new one has come
        assert [scu.store(*instance(10 + number)).status for number, scu in enumerate(scus)] == [0, 0]
    wait_until("another was started", lambda: box.workers and box.workers != [worker])
    assert "all run again" in box.status().receiving_notice
    (again,) = box.workers
    written_bytes = psutil.Process(again).io_counters().write_bytes
    with Scanners(box, 2) as scus:
        assert [scu.store(*instance(20 + number)).status for number, scu in enumerate(scus)] == [0, 0]
        assert psutil.Process(again).io_counters().write_bytes - written_bytes >= len(PIXELS)

    assert unsent(box.status()) == 6
    assert "receiver-ended" in "".join(path.read_text() for path in (box.state / "heartbeat").glob("*event*"))
    (complaint,) = box.complaints()
    assert "a receiving process ended unexpectedly" in complaint
    box.stop()
    box.start()
    assert unsent(box.status()) == 6


def test_a_worker_that_dies_again_and_again_is_started_later_each_time(box: RealBox) -> None:
    for times in ("once", "2 times"):
        wait_until("one is there", lambda: box.workers)
        os.kill(box.workers[0], signal.SIGKILL)
        wait_until(
            "its end was noticed", lambda said=f"unexpectedly {times} ": said in box.status().receiving_notice
        )
    wait_until("one is there", lambda: box.workers)
    waits_s = [line.rpartition("again_in_s=")[2] for line in box.complaints()]
    assert waits_s == ["1.0", "2.0"]


def test_without_the_process_that_forks_them_the_box_receives_alone(box: RealBox) -> None:
    (worker,) = box.workers
    (nursery,) = set(box.children) - {worker}
    os.kill(nursery, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    wait_until("it was tried", lambda: any("could be started" in line for line in box.complaints()))
    with Scanners(box, 2) as scus:
        assert [scu.store(*instance(number)).status for number, scu in enumerate(scus)] == [0, 0]
    assert "1 not yet started again" in box.status().receiving_notice


def test_a_worker_ends_with_its_owner(box: RealBox) -> None:
    worker = psutil.Process(box.workers[0])
    with Scanners(box, 2) as (_, elsewhere):
        assert elsewhere.store(*instance(1)).status == 0
        box.kill()
        assert elsewhere.wait_for_close() == b""
        wait_until("the worker ended", lambda: has_ended(worker))
    box.start()
    assert unsent(box.status()) == 1


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_stop_lets_an_instance_in_a_worker_finish(box: RealBox) -> None:
    uid, chunk = "1.2.77.1", 100_000
    data = small_data_set(uid, pixels=bytes(24 << 20))
    with Scanners(box, 2) as (_, elsewhere):
        assert elsewhere.store(*instance(2)).status == 0
        # More than the sockets hold, so that the worker has begun when all of it is sent.
        elsewhere.send(p_data(1, 3, c_store_rq(CT_STORAGE, uid)))
        for at in range(0, len(data) - chunk, chunk):
            elsewhere.send(p_data(1, 0, data[at : at + chunk]))
            sent = at + chunk
        stopping = threading.Thread(target=box.stop)
        stopping.start()
        wait_until("the port is closed", lambda: not _listens(box), timeout_s=60)
        elsewhere.send(p_data(1, 2, data[sent:]))
        assert elsewhere.read_response().status == 0
        assert elsewhere.read_pdu()[0] == 0x07, "and then the association is aborted"
        stopping.join()
    box.start()
    assert unsent(box.status()) == 2


def test_associations_with_services_stay_with_the_services(box: RealBox) -> None:
    """Commitment beside storage, on the second association that is open."""
    with Scanners(box, 1) as (here,), ScriptedScu(box.port) as scu:
        scu.associate(
            [(1, CT_STORAGE, [EXPLICIT_LITTLE]), (3, "1.2.840.10008.1.20.1", [EXPLICIT_LITTLE])],
            calling=b"CT9",
        )
        before = psutil.Process(box.workers[0]).io_counters().write_bytes
        assert scu.store(*instance(1)).status == 0
        assert here.store(*instance(2)).status == 0
        assert psutil.Process(box.workers[0]).io_counters().write_bytes == before
    assert unsent(box.status()) == 2


def _listens(box: RealBox) -> bool:
    try:
        ScriptedScu(box.port, timeout_s=1).socket.close()
    except OSError:
        return False
    return True
