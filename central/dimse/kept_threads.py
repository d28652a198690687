"""Threads for connections, a few of which are kept for those that follow.

Why it exists: with a thread goes its connection to SQLite and every statement that is prepared there, which is a third
of what an association for one image costs. PostgreSQL's connections come from a pool, whose threads are no matter.

Always true: somebody who comes never waits for a thread; no more than `kept` of them wait for somebody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

Work = Callable[[], None]


class KeptThreads:
    """Threads of one name. `run` and `end` may be called from any thread, `run` never after `end`."""

    def __init__(self, name: str, kept: int) -> None:
        self._name: Final = name
        self._kept: Final = kept
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Work | None]] = []
        self._alive: set[threading.Thread] = set()
        self._is_over = False

    def run(self, work: Work) -> None:
        """Have a thread do `work`, at once. What it raises ends that thread."""
        with self._lock:
            if self._idle:
                self._idle.pop().put(work)  # the last one: what it used is at hand
                return
            thread = threading.Thread(target=self._work, args=(work,), name=self._name, daemon=True)
            self._alive.add(thread)
        thread.start()

    def end(self, timeout_s: float) -> None:
        """Let those that wait go, and the others when they have done their work; wait so long for all of them."""
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            self._is_over = True
            while self._idle:
                self._idle.pop().put(None)
            alive = list(self._alive)
        for thread in alive:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _work(self, first: Work) -> None:
        mine: SimpleQueue[Work | None] = SimpleQueue()
        work: Work | None = first
        try:
            while work is not None:
                work()
                del work  # and with it what it held, while this thread waits
                with self._lock:
                    if self._is_over or len(self._idle) >= self._kept:
                        return
                    self._idle.append(mine)
                work = mine.get()
        finally:
            with self._lock:
                self._alive.discard(threading.current_thread())
