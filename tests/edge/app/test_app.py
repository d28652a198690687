"""The whole box as a program: real sockets, a real scanner, a real central, signals."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom import AE

from contract.control import BoxStatus, QueueList, ScannerList
from contract.settings import load_settings
from edge.config import Settings
from edge.control import ControlError, NoBoxError, ask
from tests.edge.scripted_central import ScriptedCentral


class RunningBox:
    """One `dicomnet-edge run` in its own process."""

    def __init__(self, config: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge.start", "run", "--config", str(config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.code = self.process.wait(60)
            assert self.process.stderr is not None
            self.stderr = self.process.stderr.read()
            return
        word, _, told = line.partition(" ")
        assert word == "LISTENING"
        listening = json.loads(told)
        self.port: int = listening["dicom"]["port"]
        self.socket = Path(listening["control_socket"])

    def status(self) -> BoxStatus:
        return BoxStatus.model_validate(ask(self.socket, "status", {}, timeout_s=60))

    def enrol(self, central: ScriptedCentral) -> BoxStatus:
        answer = ask(self.socket, "enrol", {"pairing": str(central.pairing)}, timeout_s=60)
        return BoxStatus.model_validate(answer)

    def store(self, **changes: str) -> int:
        """Send one of pydicom's files, with other values for some attributes; the C-STORE status."""
        path = get_testdata_file("CT_small.dcm")
        assert isinstance(path, str)
        instance = dcmread(path)
        for keyword, value in changes.items():
            setattr(instance, keyword, value)
        ae = AE(ae_title="CT1")
        ae.add_requested_context(instance.SOPClassUID, instance.file_meta.TransferSyntaxUID)
        association = ae.associate("127.0.0.1", self.port, ae_title="DICOMNET")
        assert association.is_established
        try:
            return int(association.send_c_store(instance).Status)
        finally:
            association.release()

    def stop(self) -> tuple[int, str]:
        """SIGTERM; exit code and log."""
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=60)
        return self.process.returncode, log


Start = Callable[..., RunningBox]


@pytest.fixture
def socket_directory() -> Iterator[str]:
    """pytest's own directories can be longer than a socket's path may be."""
    with tempfile.TemporaryDirectory(prefix="dn-") as directory:
        yield directory


@pytest.fixture
def config(tmp_path: Path, socket_directory: str) -> Path:
    path = tmp_path / "edge.toml"
    path.write_text(
        f"""
[box]
name = "test box"
state_directory = "{tmp_path / "state"}"
control_socket = "{socket_directory}/control.sock"
[gateway]
host = "127.0.0.1"
port = 0
stop_grace_s = 2
[buffer]
reserve_bytes = 0
[uplink]
backoff_ceiling_s = 0.2
[[scanners]]
ae_title = "CT1"
host = "127.0.0.1"
port = 1
"""
    )
    return path


@pytest.fixture
def start(config: Path) -> Iterator[Start]:
    boxes: list[RunningBox] = []

    def begin(path: Path = config) -> RunningBox:
        boxes.append(RunningBox(path))
        return boxes[-1]

    yield begin
    for box in boxes:
        if box.process.poll() is None:
            box.process.kill()
        box.process.communicate()


def eventually(predicate: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def test_the_life_of_a_box(start: Start, central: ScriptedCentral) -> None:
    """Not enrolled → enrolled while running → an instance arrives at central → orderly stop."""
    box = start()
    fresh = box.status()
    assert (fresh.gateway_id, fresh.accepting, fresh.link.state) == (None, False, "not-enrolled")
    assert "Not enrolled" in fresh.not_accepting_because
    assert box.store() == 0xA700

    enrolled = box.enrol(central)
    assert (enrolled.gateway_id, enrolled.accepting) == ("gw-test", True)
    assert box.store() == 0x0000
    eventually(lambda: len(central.archived) == 1)
    eventually(lambda: box.status().queue_objects == 0)

    status = box.status()
    assert status.link.state == "connected"
    assert status.link.last_receipt_at_utc is not None
    assert status.received_objects == 1
    assert status.memory_bytes > 1 << 20
    scanners = ScannerList.model_validate(ask(box.socket, "scanners", {}, timeout_s=60)).scanners
    assert [(one.ae_title, one.echo_port) for one in scanners] == [("CT1", 1)]
    assert scanners[0].seen is not None
    assert scanners[0].seen.instances == 1

    code, log = box.stop()
    assert code == 0
    assert log.rstrip().endswith("stopped")
    assert not box.socket.exists()
    with pytest.raises(NoBoxError):
        ask(box.socket, "status", {}, timeout_s=60)


def test_what_waits_is_sent_after_kill_and_restart(
    start: Start, central: ScriptedCentral, config: Path
) -> None:
    box = start()
    box.enrol(central)
    central.stop()
    assert box.store() == 0x0000
    queue = QueueList.model_validate(ask(box.socket, "queue", {}, timeout_s=60))
    assert (queue.total, queue.entries[0].calling_ae_title, queue.entries[0].modality) == (1, "CT1", "CT")
    box.process.kill()
    box.process.wait()
    again = start(config)  # finds and removes the stale socket, takes up its identity
    assert again.status().queue_objects == 1
    central.start()
    eventually(lambda: len(central.archived) == 1)
    eventually(lambda: again.status().queue_objects == 0)
    assert central.doubled == []


def test_enrolment_before_the_first_start(start: Start, central: ScriptedCentral, config: Path) -> None:
    def enrol(pairing: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edge.start", "enrol", "--config", str(config), "-"],
            input=pairing + "\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    used = str(central.pairing)
    done = enrol(f"{used[:60]}\n{used[60:]}")  # as a terminal wraps it
    assert (done.returncode, done.stdout) == (0, f"enrolled as gw-test at 127.0.0.1:{central.port}\n")
    assert start().status().gateway_id == "gw-test"
    refused = enrol(used)  # now through the control socket of the running box
    assert refused.returncode == 2
    assert "older than 15 minutes" in refused.stderr
    assert enrol("nonsense").returncode == 2


def test_a_second_box_on_the_same_state_is_refused(start: Start, config: Path) -> None:
    start()
    second = start(config)
    assert second.code == 2
    assert "another process is using the spool" in second.stderr


def test_a_taken_port_is_one_sentence(start: Start, config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(config.read_text().replace("port = 0", f"port = {port}"))
        box = start(config)
    assert box.code == 2
    sentence = box.stderr.strip().splitlines()[-1]
    assert sentence.startswith("dicomnet-edge: cannot listen for DICOM on 127.0.0.1")
    assert "Traceback" not in box.stderr


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("port = 0", "prot = 0", "edge.toml line 8: unknown key gateway.prot; did you mean gateway.port?"),
        ('ae_title = "CT1"', 'ae_title = "far too long an AE title"', "1 to 16 characters"),
        ('control_socket = "', 'control_socket = "/' + "x" * 120, "at most 107 bytes"),
        ("[uplink]", "[uplink", "edge.toml"),
    ],
)
def test_a_wrong_configuration_stops_the_start(
    before: str, after: str, expected: str, start: Start, config: Path
) -> None:
    config.write_text(config.read_text().replace(before, after))
    box = start(config)
    assert box.code == 2
    assert expected in box.stderr
    assert "Traceback" not in box.stderr


def test_a_state_directory_that_cannot_be_is_one_sentence(start: Start, config: Path, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file is in the way")
    box = start(config)
    assert box.code == 2
    assert str(tmp_path / "state") in box.stderr
    assert "Traceback" not in box.stderr


def test_a_damaged_identity_runs_visibly_degraded_and_is_repaired_by_enrolling(
    start: Start, central: ScriptedCentral, config: Path, tmp_path: Path
) -> None:
    box = start()
    box.enrol(central)
    box.stop()
    next((tmp_path / "state" / "identity").rglob("key.pem")).write_text("")
    central.tokens.add("0" * 32)
    again = start(config)
    status = again.status()
    assert (status.link.state, status.accepting) == ("not-enrolled", False)
    assert "enrol the box again" in status.link.detail
    assert again.enrol(central).accepting


def test_a_box_with_waiting_images_does_not_move_to_another_central(
    start: Start, central: ScriptedCentral, tmp_path: Path
) -> None:
    box = start()
    box.enrol(central)
    central.stop()
    box.store()
    (tmp_path / "other").mkdir()
    other = ScriptedCentral(tmp_path / "other").start()
    try:
        with pytest.raises(ControlError, match="only that central can open"):
            box.enrol(other)
        assert other.log == []
    finally:
        other.stop()


def test_nobody_else_can_read_the_state(start: Start, central: ScriptedCentral, tmp_path: Path) -> None:
    box = start()
    box.enrol(central)
    state = tmp_path / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE(box.socket.stat().st_mode) == 0o600


def test_no_patient_data_reaches_the_log_or_the_control_socket(
    start: Start, central: ScriptedCentral
) -> None:
    box = start()
    box.enrol(central)
    canaries = {
        "PatientName": "CANARY^BIRD",
        "PatientID": "canary-id-7",
        "PatientBirthDate": "19010203",
        "StudyDescription": "canary in the study",
    }
    central.revoked = True
    assert box.store(**canaries) == 0x0000
    told = json.dumps(
        [ask(box.socket, method, {}, timeout_s=60) for method in ("status", "queue", "scanners")]
    )
    central.revoked = False
    eventually(lambda: len(central.archived) == 1)
    _, log = box.stop()
    for canary in canaries.values():
        assert canary not in log
        assert canary not in told


def test_status_is_readable(start: Start, config: Path) -> None:
    start()
    said = subprocess.run(
        [sys.executable, "-m", "edge.start", "status", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert "accepting     NO: Not enrolled" in said
    assert "(not enrolled)" in said


def test_the_printed_default_configuration_is_valid(tmp_path: Path) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "edge.start", "--print-default-config"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    path = tmp_path / "edge.toml"
    path.write_text(printed)
    assert load_settings(Settings, path, {}) == Settings()


def test_a_box_loads_nothing_that_it_never_uses() -> None:
    """Whatever else is installed beside it; here all of it is."""
    code = (
        "import sys; sys.argv = ['dicomnet-edge', '--print-default-config']; from edge import start; start.main();"
        "print([name for name in start.NEVER_USED if sys.modules.get(name)], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip() == "[]"
    assert "[gateway]" in done.stdout
