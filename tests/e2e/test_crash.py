"""`kill -9` of either half while a scanner sends: what was acknowledged is at central, once, and unchanged."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.scanner import Instance, SendReport, send
from tests.e2e.files import data_set_bytes, small_series
from tests.e2e.running import RunningDemo, qido_instances, wait_visible

pytestmark = [pytest.mark.timeout(600)]

SOAK = bool(os.environ.get("DICOMNET_SOAK"))
INSTANCES = 2000 if SOAK else 300
KILLS = 20 if SOAK else 3


class Sending:
    """A scanner that sends in a thread of its own and says when it has got so far."""

    def __init__(self, demo: RunningDemo, instances: list[Instance]) -> None:
        self.report: SendReport | None = None
        self._acknowledged = 0
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, args=(demo, instances))
        self._thread.start()

    def _send(self, demo: RunningDemo, instances: list[Instance]) -> None:
        self.report = send(instances, demo.dicom_address, demo.ae_title, stop=self._stop, progress=self._note)
        self._note(len(instances))

    def _note(self, acknowledged: int) -> None:
        with self._changed:
            self._acknowledged = acknowledged
            self._changed.notify_all()

    def wait_for(self, acknowledged: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._acknowledged >= acknowledged, timeout=120)

    def end(self) -> SendReport:
        self._thread.join()
        assert self.report is not None
        return self.report


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningDemo]:
    with RunningDemo(tmp_path / "state", "--no-sample", "--json-only") as demo:
        yield demo


@pytest.mark.parametrize("program", ["gateway", "central"])
def test_nothing_is_lost_or_doubled(running: RunningDemo, program: str, tmp_path: Path) -> None:
    instances = small_series(tmp_path / "send", 1 if program == "gateway" else 2, INSTANCES)
    sending = Sending(running, instances)
    for kill in range(1, KILLS + 1):
        sending.wait_for(kill * INSTANCES // (KILLS + 2))
        running.kill(program)
    report = sending.end()
    assert report.unsent == []
    assert report.refused == []
    assert_all_came_back(running, report.acknowledged, tmp_path)


def test_a_killed_demonstration_goes_on_where_it_was(tmp_path: Path) -> None:
    """Everything dies at once, its children with it; the next start forwards what the box had acknowledged."""
    instances = small_series(tmp_path / "send", 3, 60)
    demo = RunningDemo(tmp_path / "state", "--no-sample", "--json-only").start()
    os.kill(demo.pid("central"), signal.SIGSTOP)  # central hangs: the box keeps what it takes
    report = send(instances, demo.dicom_address, demo.ae_title, stop=threading.Event())
    assert len(report.acknowledged) == 60
    pids = [demo.pid("gateway"), demo.pid("central")]
    demo.process.kill()
    demo.process.wait()
    again = RunningDemo(demo.state, "--no-sample", "--json-only", base_port=demo.base_port)
    with again as running:
        assert not any(_is_running(pid) for pid in pids), "the tether did not hold"
        assert running.ready["accounts"] == demo.ready["accounts"]
        assert_all_came_back(running, report.acknowledged, tmp_path)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def assert_all_came_back(running: RunningDemo, acknowledged: list[Instance], folder: Path) -> None:
    study = acknowledged[0].study_instance_uid
    uids = {instance.sop_instance_uid for instance in acknowledged}
    with running.client("radiologist") as client:
        wait_visible(client, {study: uids})
        listed = qido_instances(client, study)
        assert sorted(listed) == sorted(uids), "each is listed once"
        series = client.get(f"/dicom-web/studies/{study}/series").json()[0]["0020000E"]["Value"][0]
        for instance in acknowledged[:: max(1, len(acknowledged) // 100)]:
            url = f"/dicom-web/studies/{study}/series/{series}/instances/{instance.sop_instance_uid}"
            answer = client.get(url, headers={"Accept": "application/dicom"})
            assert answer.status_code == 200
            path = folder / "returned.dcm"
            path.write_bytes(answer.content)
            assert data_set_bytes(path) == data_set_bytes(instance.path)
