"""One writer an upload among central processes that share the folder of what arrives (`storage.arriving`).

A box whose line was cut may come back at another process than the one that still waits for it. So a turn is a file with
a lock on it (flock), which ends with the process that has it; whoever finds it locked writes into the file, and the
holder, who looks into it, knows that somebody waits.

Always true: who holds the lock holds that of the file that lies under the name, since only its holder removes it. A
crash leaves a file without a lock, which the next one takes. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.concurrency import run_in_threadpool

from central.ingest.errors import TryAgainError
from contract.transfer import Problem

_LOOKS_EVERY_S: Final = 0.25
"""Nothing tells of a lock that another machine lets go, or of a file that it writes."""

_LEFT_FOR_S: Final = 7 * 86_400


@dataclass
class _Held:
    lock: int  # the file's descriptor
    holders: int = 0


class SharedTurns:
    """Turns by key, in `folder`. Within a process whoever comes has the process's own turn (`Turns`) already."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._held: dict[str, _Held] = {}
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # taken and let go at this moment
                if path.stat().st_mtime < time.time() - _LEFT_FOR_S:
                    path.unlink()

    @asynccontextmanager
    async def turn(self, key: str, give_way: asyncio.Event, patience_s: float) -> AsyncIterator[None]:
        """Wait for the turn among processes. `give_way` is set once another one waits.

        Raises
        ------
        TryAgainError : the holder did not give way within the patience.
        """
        if key not in self._held:
            self._held[key] = _Held(await self._take(self._path(key), patience_s))
        leave = self.keep(key)
        looking = asyncio.ensure_future(_look(self._path(key), give_way))
        try:
            yield
        finally:
            looking.cancel()
            leave()

    def keep(self, key: str) -> Callable[[], None]:
        """Have the turn go on, within it, until what is given here is called."""
        held = self._held[key]
        held.holders += 1

        def leave() -> None:
            held.holders -= 1
            if not held.holders:
                del self._held[key]
                self._path(key).unlink(missing_ok=True)
                os.close(held.lock)

        return leave

    def _path(self, key: str) -> Path:
        return self._folder / key.replace("/", "-")

    async def _take(self, path: Path, patience_s: float) -> int:
        until_s = time.monotonic() + patience_s
        while (lock := await run_in_threadpool(_locked, path)) is None:
            if time.monotonic() > until_s:
                raise TryAgainError(
                    Problem.UNAVAILABLE, "another process works on this; ask again", {"Retry-After": "5"}
                )
            await asyncio.sleep(_LOOKS_EVERY_S)
        return lock


def _locked(path: Path) -> int | None:
    """The descriptor that holds the lock; None while somebody else has it, who is told that somebody waits."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.pwrite(lock, b"?", 0)
        else:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), path.stat()):
                    os.ftruncate(lock, 0)
                    taken, lock = lock, -1
                    return taken
        return None
    finally:
        if lock >= 0:
            os.close(lock)


async def _look(path: Path, give_way: asyncio.Event) -> None:
    while not give_way.is_set():
        await asyncio.sleep(_LOOKS_EVERY_S)
        with suppress(FileNotFoundError):
            if (await run_in_threadpool(path.stat)).st_size:
                give_way.set()
