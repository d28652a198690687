"""The whole system as real processes: `dicomnet demo` in a directory of the test's own."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.peers_installed import program
from tests.ports import free_base_port

READY_WITHIN_S = 300.0


class RunningDemo:
    """Starts the demonstration and waits for READY; as a context manager it stops it in order."""

    def __init__(self, state: Path, *options: str, base_port: int | None = None) -> None:
        self.state = state
        self.base_port = base_port if base_port is not None else free_base_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, Any] = {}
        self.said: list[str] = []

    def start(self) -> Self:
        command = [str(Path(sysconfig.get_path("scripts")) / "dicomnet"), "demo"]
        command += ["--state", str(self.state), "--base-port", str(self.base_port), *self._options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DICOMNET_")}
        self.state.parent.mkdir(parents=True, exist_ok=True)
        with self.state.with_suffix(".stderr").open("ab") as errors:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env=environment, start_new_session=True
            )
        self.ready = self._await_ready()
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "start() comes first"
        return self._process

    def stop(self) -> int:
        """Ctrl-C; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def pid(self, program: str) -> int:
        """The process id of "gateway" or "central" now; READY's is the one at that time."""
        current = json.loads((self.state / "ready.json").read_text())
        return int(current[program]["pid"])

    def kill(self, program: str) -> int:
        """`kill -9` the program and return when the demonstration has it running again, with its new pid."""
        old = self.pid(program)
        os.kill(old, signal.SIGKILL)
        deadline = time.monotonic() + READY_WITHIN_S
        while self.pid(program) == old:
            if time.monotonic() > deadline:
                raise AssertionError(f"{program} was not started again; {self.logs(program)}")
            time.sleep(0.05)
        return self.pid(program)

    def logs(self, program: str) -> str:
        return (self.state / "logs" / f"{program}.log").read_text(errors="replace")[-3000:]

    @property
    def url(self) -> str:
        return str(self.ready["central"]["url"])

    @property
    def dicom_address(self) -> tuple[str, int]:
        return self.ready["gateway"]["host"], self.ready["gateway"]["port"]

    @property
    def ae_title(self) -> str:
        return str(self.ready["gateway"]["ae_title"])

    def client(self, role: str | None) -> httpx.Client:
        """An HTTP client of central, signed in with a bearer token; None: anonymous."""
        client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        if role is not None:
            client.headers["Authorization"] = f"Bearer {self.token(role)}"
        return client

    def token(self, role: str) -> str:
        answer = httpx.post(
            f"{self.url}/api/auth/token",
            data={"grant_type": "password", **self.ready["accounts"][role]},
            trust_env=False,
        )
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def _await_ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        deadline = time.monotonic() + READY_WITHIN_S
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            text = b""
            while time.monotonic() < deadline:
                if not selector.select(timeout=1.0):
                    continue
                chunk = os.read(self.process.stdout.fileno(), 65536)
                text += chunk
                *lines, _ = text.decode().split("\n")
                self.said = lines
                for line in lines:
                    if line.startswith("READY "):
                        return dict(json.loads(line.removeprefix("READY ")))
                if not chunk:
                    break
        self.process.kill()
        self.process.wait()
        errors = self.state.with_suffix(".stderr").read_text()
        raise AssertionError(f"the demonstration did not get READY:\n{text.decode()}\n{errors}")


def qido_instances(client: httpx.Client, study_instance_uid: str) -> list[str]:
    """Every SOP Instance UID that central lists for the study, as often as it lists it."""
    found: list[str] = []
    while True:
        answer = client.get(
            f"/dicom-web/studies/{study_instance_uid}/instances", params={"limit": 500, "offset": len(found)}
        )
        if answer.status_code == 404:
            return found
        answer.raise_for_status()
        page = [item["00080018"]["Value"][0] for item in answer.json()] if answer.content else []
        found += page
        if len(page) < 500:
            return found


def wait_visible(
    client: httpx.Client, studies: dict[str, set[str]], *, patience_s: float = 60.0
) -> dict[str, list[str]]:
    """Wait until central lists the instances of `studies`; fails when nothing more appears for `patience_s`."""
    shown: dict[str, list[str]] = {}
    best, since = -1, time.monotonic()
    while True:
        for study, wanted in studies.items():
            if not wanted <= set(shown.get(study, ())):
                try:
                    shown[study] = qido_instances(client, study)
                except httpx.TransportError:
                    shown[study] = []  # central is being started again
        count = sum(len(wanted & set(shown[study])) for study, wanted in studies.items())
        if count == sum(map(len, studies.values())):
            return shown
        if count > best:
            best, since = count, time.monotonic()
        if time.monotonic() - since > patience_s:
            absent = {study: sorted(wanted - set(shown[study]))[:3] for study, wanted in studies.items()}
            raise AssertionError(f"central shows {count} instances; missing, for example: {absent}")
        time.sleep(0.2)


def run(command: Sequence[str], *, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run a peer's program; its TCP stack must not wait for more data (DCMTK does by default)."""
    name, *arguments = command
    return subprocess.run(
        [program(name) or name, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        env={**os.environ, "TCP_NODELAY": "1"},
        check=False,
    )
