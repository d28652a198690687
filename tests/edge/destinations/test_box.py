"""The whole box as a program, with destinations: what it sends, what it says, what a person decides."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom import AE

from contract.control import BoxStatus, DestinationStatus
from contract.transfer import UPLOADS_PATH, Problem
from edge.control import ask
from tests.edge.buffer.instances import held_files
from tests.edge.destinations.sending import StoreScp, wait_until
from tests.edge.scripted_central import ScriptedCentral, ScriptedHandler
from tests.ports import free_base_port


class RunningBox:
    """`dicomnet-edge run`, and the other commands beside it."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.socket = Path()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> RunningBox:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edge.start", "run", "--config", str(self.config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        word, _, told = self._process.stdout.readline().partition(" ")
        if word != "LISTENING":
            raise AssertionError(self._process.communicate()[1])
        self.port = int(json.loads(told)["dicom"]["port"])
        self.socket = Path(json.loads(told)["control_socket"])
        return self

    def end(self, how: signal.Signals) -> str:
        """Its log."""
        if self._process is None:
            return ""
        self._process.send_signal(how)
        _, log = self._process.communicate(timeout=60)
        self._process = None
        return log

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command, *rest = arguments
        return subprocess.run(
            [sys.executable, "-m", "edge.start", command, "--config", str(self.config), *rest],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def says(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> BoxStatus:
        return BoxStatus.model_validate(ask(self.socket, "status", {}, timeout_s=60))

    def destination(self, name: str) -> DestinationStatus:
        (found,) = [one for one in self.status().destinations if one.name == name]
        return found

    def store(self, number: int, *, ae_title: str = "CT1", modality: str = "CT") -> None:
        path = get_testdata_file("CT_small.dcm")
        assert isinstance(path, str)
        instance = dcmread(path)
        instance.SOPInstanceUID = instance.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        instance.StudyInstanceUID = f"1.2.9.{number}"
        instance.Modality = modality
        ae = AE(ae_title=ae_title)
        ae.add_requested_context(instance.SOPClassUID, instance.file_meta.TransferSyntaxUID)
        association = ae.associate("127.0.0.1", self.port, ae_title="DICOMNET")
        assert association.is_established
        assert association.send_c_store(instance).Status == 0
        association.release()


@pytest.fixture
def dead_port() -> int:
    return free_base_port()


@pytest.fixture
def box(tmp_path: Path, pacs: StoreScp, dead_port: int) -> Iterator[RunningBox]:
    with tempfile.TemporaryDirectory(prefix="dn-") as sockets:
        config = tmp_path / "edge.toml"
        config.write_text(
            f"""
[box]
state_directory = "{tmp_path / "state"}"
control_socket = "{sockets}/control.sock"
[gateway]
host = "127.0.0.1"
port = 0
receiving_processes = 2
[buffer]
reserve_bytes = 0
[uplink]
backoff_ceiling_s = 0.2
[query]
enabled = true
[destinations]
backoff_ceiling_s = 0.2
[[destinations.dimse]]
name = "PACS"
gets_all = true
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs.port}
[[destinations.dimse]]
name = "MAMMO"
ae_title = "MAMMO"
host = "127.0.0.1"
port = {dead_port}
[[routing]]
modalities = ["MG"]
destinations = ["MAMMO"]
"""
        )
        running = RunningBox(config)
        yield running
        running.end(signal.SIGKILL)


@pytest.mark.needs("dcmtk")
def test_a_box_with_a_live_and_a_dead_destination(
    box: RunningBox, pacs: StoreScp, central: ScriptedCentral, dead_port: int, tmp_path: Path
) -> None:
    pacs.start()
    box.start()
    ask(box.socket, "enrol", {"pairing": str(central.pairing)}, timeout_s=60)
    box.store(1)
    box.store(2, ae_title="MG1", modality="MG")
    wait_until(lambda: len(central.archived) == 2 and pacs.uids() == {"1.2.3.1", "1.2.3.2"})
    wait_until(lambda: box.destination("PACS").waiting_objects == 0 and box.status().queue_objects == 0)

    def stands_still() -> bool:
        mammo = box.destination("MAMMO")
        return mammo.waiting_objects == 1 and "cannot be reached" in mammo.last_error

    wait_until(stands_still)
    assert box.destination("MAMMO").oldest_at_utc is not None
    assert "to MAMMO      1 objects wait" in box.says("status")
    log = box.end(signal.SIGKILL)
    assert "Traceback" not in log
    assert "CompressedSamples" not in log  # the patient's name

    # The next life owes the same; central is not asked again, and a destination that came to life gets it.
    box.start()
    wait_until(stands_still)
    said = box.says("destinations")
    assert "to PACS       0 objects wait" in said
    assert f"MAMMO at 127.0.0.1 port {dead_port} cannot be reached" in said
    mammo = StoreScp(tmp_path / "mammo", dead_port).start()
    try:
        assert "to MAMMO" in box.says("try-again", "MAMMO", "--all")
        wait_until(lambda: box.destination("MAMMO").waiting_objects == 0)
        assert mammo.uids() == {"1.2.3.2"}
    finally:
        mammo.kill()
    assert len(central.archived) == 2
    assert held_files(tmp_path / "state" / "spool") == []

    box.store(3, modality="MG")
    wait_until(lambda: box.destination("MAMMO").waiting_objects == 1)
    assert "object" in box.run("give-up", "MAMMO", "--object", "0" * 32).stderr
    assert "to MAMMO      0 objects wait" in box.says("give-up", "MAMMO", "--all")
    assert (
        "no destination is called MAMO: there are MAMMO, PACS" in box.run("try-again", "MAMO", "--all").stderr
    )
    refused = box.run("give-up", "MAMMO")
    assert refused.returncode == 2
    assert "one of the arguments --object --all is required" in refused.stderr


def test_what_central_refused_is_queued_again_all_at_once(box: RunningBox, central: ScriptedCentral) -> None:
    def refuse(handler: ScriptedHandler) -> None:
        handler.body()
        handler.problem(422, Problem.UNKNOWN_KEY, "sealed for a key that is not here")

    central.fault("POST", refuse, times=2, path=UPLOADS_PATH)
    box.start()
    ask(box.socket, "enrol", {"pairing": str(central.pairing)}, timeout_s=60)
    box.store(1)
    wait_until(lambda: box.status().quarantined_objects == 1)
    box.store(2)
    wait_until(lambda: box.status().quarantined_objects == 2)
    assert "is not in the spool" in box.run("try-again", "central", "--object", "0" * 32).stderr
    assert "quarantine    2 objects" in box.says("status")
    assert "quarantine    0 objects" in box.says("try-again", "central", "--all")
    wait_until(lambda: len(central.archived) == 2)
    assert "no destination is called central" in box.run("give-up", "central", "--all").stderr


def test_a_person_pauses_sending_and_it_stays_so_until_somebody_resumes_it(
    box: RunningBox, central: ScriptedCentral
) -> None:
    box.start()
    ask(box.socket, "enrol", {"pairing": str(central.pairing)}, timeout_s=60)
    wait_until(lambda: box.status().link.state == "connected")
    assert "sending       PAUSED" in box.says("pause")
    box.store(1)
    wait_until(lambda: box.status().queue_objects == 1)
    assert box.status().link.state == "connected", "which is not all there is to say"
    box.end(signal.SIGKILL)
    box.start()
    assert "sending       PAUSED" in box.says("status")
    assert box.status().queue_objects == 1
    assert not central.archived
    assert "PAUSED" not in box.says("resume")
    wait_until(lambda: len(central.archived) == 1)
    assert not box.status().paused


def test_the_dry_run(box: RunningBox, central: ScriptedCentral, tmp_path: Path) -> None:
    assert "has this box run with this configuration" in box.run("routes").stderr
    box.start()
    assert box.says("routes") == "no study has come yet\n"
    ask(box.socket, "enrol", {"pairing": str(central.pairing)}, timeout_s=60)
    box.store(1)
    box.store(2, ae_title="MG1", modality="MG")
    box.store(3)
    wait_until(lambda: len(central.archived) == 3 and "1.2.9.3" in box.says("routes"))
    now = box.says("routes").splitlines()
    assert [line.split()[2:7] for line in now[1:]] == [
        ["1", "CT", "CT1", "DICOMNET", "127.0.0.1"],
        ["1", "MG", "MG1", "DICOMNET", "127.0.0.1"],
        ["1", "CT", "CT1", "DICOMNET", "127.0.0.1"],
    ]
    assert [line.split()[7:10] for line in now[1:]] == [
        ["CT01_OC0", "-", "1.2.9.3"],
        ["CT01_OC0", "-", "1.2.9.2"],
        ["CT01_OC0", "-", "1.2.9.1"],
    ]
    assert [[cell.strip() for cell in line.split("  ") if cell.strip()][-2:] for line in now[1:]] == [
        ["central, PACS", "routine"],
        ["central, PACS, MAMMO", "routine"],
        ["central, PACS", "routine"],
    ]
    assert len(box.says("routes", "--last", "1").splitlines()) == 2

    other = tmp_path / "rules.toml"
    other.write_text(
        '[[routing]]\ncalling_ae_titles = ["CT1"]\ndestinations = ["MAMMO"]\n'
        '[[routing]]\nmodalities = ["MG"]\npriority = "high"\n'
    )
    for _ in range(2):  # beside the running box, and when it is at rest
        tried = box.says("routes", "--rules", str(other)).splitlines()
        assert [line.partition("routine")[2].strip() for line in tried[1:-1]] == [
            "+MAMMO",
            "-MAMMO priority high",
            "+MAMMO",
        ]
        assert tried[-1] == "3 of 3 would go elsewhere, or at another priority"
        box.end(signal.SIGTERM)

    other.write_text('[[routing]]\ndestinations = ["NOWHERE"]\n')
    assert "rules.toml: rule 1 of routing names NOWHERE" in box.run("routes", "--rules", str(other)).stderr
    other.write_text("[[scanners]]\n")
    assert "unknown key scanners" in box.run("routes", "--rules", str(other)).stderr
    assert "a number from 1 to" in box.run("routes", "--last", "0").stderr
