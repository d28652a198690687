"""One writer an upload, and a newcomer is let through.

A line that is cut without a word leaves its request hanging here for minutes while the box already calls
again. So whoever comes later asks the holder to give way: one that has fallen silent keeps what it has written
and ends; one whose bytes still come goes on. Where processes share uploads, it is one among all of them.
Lives on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field

from central.ingest.errors import TryAgainError
from central.ingest.shared_turns import SharedTurns
from contract.transfer import Problem


@dataclass
class _Line:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    give_way: asyncio.Event = field(default_factory=asyncio.Event)
    people: int = 0  # the holder and those who wait


class Turns:
    """Turns by key; `shared` where other processes work on the same uploads."""

    def __init__(self, patience_s: float, shared: SharedTurns | None = None) -> None:
        self._patience_s = patience_s
        self._shared = shared
        self._lines: dict[str, _Line] = {}

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[asyncio.Event]:
        """Wait for the turn; yields the event by which the next one asks to give way.

        Raises
        ------
        TryAgainError : the holder did not give way within the patience (it may be checking a large object).
        """
        line = self._lines.setdefault(key, _Line())
        line.people += 1
        try:
            line.give_way.set()
            try:
                await asyncio.wait_for(line.lock.acquire(), self._patience_s)
            except TimeoutError as error:
                raise TryAgainError(
                    Problem.UNAVAILABLE, "this object is being worked on; ask again", {"Retry-After": "5"}
                ) from error
            try:
                line.give_way = asyncio.Event()
                if line.people > 1:
                    line.give_way.set()  # somebody came while we waited
                async with self._among_processes(key, line.give_way):
                    yield line.give_way
            finally:
                line.lock.release()
        finally:
            line.people -= 1
            if not line.people:
                del self._lines[key]

    def keep(self, key: str) -> Callable[[], None]:
        """Keep other processes out, within the turn and beyond it, until what is given here is called."""
        return self._shared.keep(key) if self._shared is not None else lambda: None

    def _among_processes(self, key: str, give_way: asyncio.Event) -> AbstractAsyncContextManager[None]:
        if self._shared is None:
            return nullcontext()
        return self._shared.turn(key, give_way, self._patience_s)
