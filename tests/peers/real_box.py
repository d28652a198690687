"""A whole edge box as its own process, for tests that are cruel to it: kill it, weigh it, besiege it."""

from __future__ import annotations

import json
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from contract.control import BoxStatus, StudyList
from edge.control import ask
from tests.edge.scripted_central import ScriptedCentral
from tests.ports import free_base_port

REPOSITORY = Path(__file__).parents[2]
START_WITHIN_S = 60.0


class RealBox:
    """`dicomnet-edge run` on a fixed port. As a context manager it is stopped, and killed if it does not stop."""

    def __init__(
        self,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        study_idle_s: float = 120.0,
        **gateway: int | float,
    ) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.log = folder / "edge.log"
        self.address = address
        self.port = free_base_port(1)
        self._sockets = Path(tempfile.mkdtemp(prefix="dn-"))  # a socket's path must be short
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "edge.toml"
        lines = [
            "[box]",
            f'state_directory = "{self.state}"',
            f'control_socket = "{self._sockets / "control.sock"}"',
            'log_level = "warning"',
            "[gateway]",
            f'host = "{address}"',
            f"port = {self.port}",
            *(f"{name} = {value}" for name, value in gateway.items()),
            "[buffer]",
            "reserve_bytes = 0",
            "[uplink]",
            "backoff_ceiling_s = 0.2",
            "[studies]",
            f"default_idle_s = {study_idle_s}",
        ]
        self._config.write_text("\n".join(lines) + "\n")

    def begin(self) -> None:
        """Start it, and do not wait."""
        self._spawn("edge.start", "run", "--config", str(self._config))

    def _spawn(self, module: str, *arguments: str) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def wait_listening(self) -> None:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(START_WITHIN_S), "the box did not start in time"
            line = self.process.stdout.readline()
        assert line.startswith(b"LISTENING "), f"the box did not start: {self.last_log()}"
        assert json.loads(line.removeprefix(b"LISTENING "))["dicom"]["port"] == self.port

    def start(self) -> Self:
        self.begin()
        self.wait_listening()
        return self

    def kill(self) -> None:
        """`kill -9`, wherever it is."""
        self.process.kill()
        self._reap()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        finally:
            self.kill()

    def _reap(self) -> None:
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "start() comes first"
        return self._process

    @property
    def spool(self) -> Path:
        return self.state / "spool"

    def status(self) -> BoxStatus:
        return BoxStatus.model_validate(ask(self._sockets / "control.sock", "status", {}, timeout_s=60))

    def open_studies(self) -> int:
        """How many studies may still get images, as far as the box knows."""
        answer = ask(self._sockets / "control.sock", "studies", {}, timeout_s=60)
        return sum(study.state != "complete" for study in StudyList.model_validate(answer).studies)

    def enrol(self, central: ScriptedCentral) -> None:
        ask(self._sockets / "control.sock", "enrol", {"pairing": str(central.pairing)}, timeout_s=60)

    def last_log(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def complaints(self) -> list[str]:
        """Lines of its log in which it says that something went wrong that should not have."""
        ours = re.compile(r" (error|critical) (edge|root|contract)\b")
        return [line for line in self.log.read_text(errors="replace").splitlines() if ours.search(line)]

    # What it weighs ---------------------------------------------------------------------------------------

    @property
    def workers(self) -> list[int]:
        """Process ids of those that receive beside the one that owns the spool."""
        own = {child.pid for child in psutil.Process(self.process.pid).children()}
        return [pid for pid in self.children if pid not in own]

    @property
    def children(self) -> list[int]:
        """The same, and the process they are forked by."""
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    def memory_mb(self, field: str = "VmRSS") -> float:
        """Of the whole box: VmRSS now, VmHWM the most there ever was (proc(5)).

        Of workers, what they do not share with the process they were forked from counts, and as it is now.
        """
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024 + sum(_unshared_mb(pid) for pid in self.children)
        raise AssertionError(f"no {field}: the box is gone. {self.last_log()}")

    def written_bytes(self) -> int:
        """What it has sent to the disk so far, pages that were cancelled taken off (proc(5))."""
        return sum(_written_bytes(pid) for pid in (self.process.pid, *self.children))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()
        shutil.rmtree(self._sockets, ignore_errors=True)


def _written_bytes(pid: int) -> int:
    found = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(found["write_bytes"]) - int(found["cancelled_write_bytes"])


def _unshared_mb(pid: int) -> float:
    rows = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
    return sum(int(row[1]) for row in rows if row[0] in {"Private_Clean:", "Private_Dirty:"}) / 1024


def wait_until(what: str, condition: object, timeout_s: float = 60.0) -> None:
    """Another process's doing, polled because nobody outside it is told."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline_s, f"it did not come about: {what}"
        time.sleep(0.02)
