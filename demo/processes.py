"""Starts the programs of the demonstration, keeps them running, and stops them in order.

Each program is a process group of its own, so that Ctrl-C in the terminal reaches the demonstration alone and the
order of stopping is ours; each dies with the demonstration whatever happens to it (`demo.tether`). What a program
prints goes to `<logs>/<name>.log`. A program that dies after it was ready is started again, with a word about it;
one that does not become ready ends the demonstration with its last words.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

READY_WITHIN_S: Final = 60.0
STOP_WITHIN_S: Final = 15.0
_RESTART_PAUSE_S: Final = 1.0  # for one that dies as soon as it is ready, so that it does not spin
_LISTENING: Final = b"LISTENING "
_LAST_WORDS: Final = 15  # lines


class DemoError(Exception):
    """The demonstration cannot go on; the text is the sentence for the person in front of it."""


class Say(Protocol):
    def __call__(self, sentence: str) -> None: ...


class OnFailure(Protocol):
    """Told when a program that had been ready could not be started again."""

    def __call__(self, error: DemoError) -> None: ...


@dataclass(frozen=True)
class Program:
    """What to run and how to know that it is ready.

    `accepts` is a port to try on loopback for a program that does not say `LISTENING {json}` itself.
    """

    name: str
    command: Sequence[str]
    accepts: int | None = None


class Child:
    """A program that is kept running until `stop`."""

    def __init__(self, program: Program, logs: Path, say: Say, on_failure: OnFailure) -> None:
        self.program = program
        self.listening: Mapping[str, object] = {}
        self.on_restart: Callable[[], None] = lambda: None
        self._log = logs / f"{program.name}.log"
        self._say = say
        self._on_failure = on_failure
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "start() comes first"
        return self._process.pid

    async def start(self) -> None:
        """Return when the program accepts connections; from then on it is started again whenever it ends.

        Raises
        ------
        DemoError : it ended, or did not become ready within `READY_WITHIN_S`; the text ends with its last words.
        """
        await self._start_once()
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL to the whole group if that is not heard within `STOP_WITHIN_S`."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_WITHIN_S)
            except TimeoutError:
                self._say(f"{self.program.name} did not stop within {STOP_WITHIN_S:.0f} s and was killed")
                self.kill()
                await process.wait()
        if self._reader is not None:
            await self._reader

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            assert self._process is not None
            since = loop.time()
            returncode = await self._process.wait()
            self.kill_group_of(self._process.pid)
            self._say(f"{self.program.name} {how_it_ended(returncode)}; starting it again")
            if loop.time() - since < _RESTART_PAUSE_S:
                await asyncio.sleep(_RESTART_PAUSE_S)
            try:
                await self._start_once()
            except DemoError as error:
                self._on_failure(error)
                return
            self._say(f"{self.program.name} is back, pid {self.pid}")
            self.on_restart()

    @staticmethod
    def kill_group_of(pid: int) -> None:
        """End the helpers (workers) that a killed program left behind in its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)

    async def _start_once(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "demo.tether",
                str(os.getpid()),
                *self.program.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(self._process, ready))
        waits: list[Awaitable[None]] = [ready]
        if self.program.accepts is not None:
            waits = [asyncio.create_task(_until_accepts(self.program.accepts))]
        ended = asyncio.create_task(self._process.wait())
        waiting = asyncio.gather(*waits)
        try:
            await asyncio.wait((waiting, ended), timeout=READY_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise DemoError(
                    f"{self.program.name} {how_it_ended(ended.result())} before it was ready.\n{self._last_words()}"
                )
            if not waiting.done():
                self.kill()
                raise DemoError(
                    f"{self.program.name} was not ready within {READY_WITHIN_S:.0f} s.\n{self._last_words()}"
                )
        finally:
            waiting.cancel()
            ended.cancel()
            await asyncio.gather(waiting, ended, return_exceptions=True)

    async def _read(self, process: asyncio.subprocess.Process, ready: asyncio.Future[None]) -> None:
        """Copy what the program prints to its log until it closes its output; note the LISTENING line."""
        assert process.stdout is not None
        with self._log.open("ab", buffering=0) as log:
            async for line in process.stdout:
                log.write(line)
                if line.startswith(_LISTENING) and not ready.done():
                    self.listening = json.loads(line[len(_LISTENING) :])
                    ready.set_result(None)

    def _last_words(self) -> str:
        with self._log.open(errors="replace") as log:
            words = "".join(f"    {line}" for line in deque(log, _LAST_WORDS)).rstrip()
        return f"{words}\n    (all of it: {self._log})"


async def run_once(name: str, command: Sequence[str], *, given: str = "") -> str:
    """Run a command to its end and return what it printed.

    Raises
    ------
    DemoError : it failed; the text is what it said.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "demo.tether",
        str(os.getpid()),
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    out, err = await process.communicate(given.encode())
    if process.returncode != 0:
        said = (err or out).decode(errors="replace").strip() or how_it_ended(process.returncode or 0)
        raise DemoError(f"{name}: {said}")
    return out.decode()


def how_it_ended(returncode: int) -> str:
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended with exit code {returncode}"


async def _until_accepts(port: int) -> None:
    """Return when something accepts on the loopback port: for programs that cannot say so themselves."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
