"""Real software TPMs (swtpm), each with its state in a folder and its Unix sockets there; they go with the tests."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.peers_installed import program

_START_S: Final = 60.0


class SoftTpm:
    """`start`, then `stop`. The folder's path must be short: sockets lie in it (unix(7))."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        self._run("swtpm_setup", "--tpm2", "--tpmstate", str(folder), "--logfile", str(folder / "setup.log"))

    @property
    def tcti(self) -> str:
        return f"swtpm:path={self._folder / 's'}"

    def start(self) -> SoftTpm:
        socket, control = self._folder / "s", self._folder / "s.ctrl"
        swtpm = program("swtpm")
        assert swtpm is not None
        ways = ("--server", f"type=unixio,path={socket}", "--ctrl", f"type=unixio,path={control}")
        ways += ("--flags", "not-need-init,startup-clear")
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [swtpm, "socket", "--tpm2", "--tpmstate", f"dir={self._folder}", *ways],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_S
        while not (socket.exists() and control.exists()):
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "swtpm does not listen"
            time.sleep(0.02)
        return self

    def cut_power(self) -> SoftTpm:
        """Without an orderly shutdown, then on again."""
        self.stop()
        return self.start()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(_START_S)
        for name in ("s", "s.ctrl"):
            (self._folder / name).unlink(missing_ok=True)

    def tool(self, *command: str) -> str:
        """One of tpm2-tools, against this TPM."""
        return self._run(*command, "-T", self.tcti)

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def chips() -> Iterator[Path]:
    """A folder for them: pytest's own can be longer than a socket's path may be."""
    with tempfile.TemporaryDirectory(prefix="dn-") as directory:
        yield Path(directory)


@pytest.fixture
def chip(chips: Path) -> Iterator[SoftTpm]:
    """One that runs; tests that take it need `swtpm`."""
    made = SoftTpm(chips / "tpm").start()
    yield made
    made.stop()
