"""Whether the machine's processors have time left, from what the kernel counts (proc(5), `/proc/stat`).

A scanner that waits for a processor looks like one that pauses. Only the machine's own idle time tells them apart.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_LOOK_EVERY_S: Final = 0.5
_LEAST_IDLE: Final = 0.25  # of one processor: what coding for a scanner takes at most, see `coding_pace`
_IDLE, _WAITING_FOR_DISK = 4, 5  # words of the first line


class Processors:
    """Safe from any thread. `clock` gives seconds that never go back."""

    def __init__(self, stat: Path = Path("/proc/stat"), clock: Callable[[], float] = time.monotonic) -> None:
        self._stat = stat
        self._clock = clock
        self._ticks_a_second = os.sysconf("SC_CLK_TCK")
        self._lock = threading.Lock()
        self._busy = False
        self._looked_at_s = clock()
        self._idle_ticks = self._read()

    def are_busy(self) -> bool:
        """Whether all of them together were idle for less than a quarter of one's time, since half a second or more.

        False until that is known, and where the kernel does not tell.
        """
        now_s = self._clock()
        if now_s - self._looked_at_s < _LOOK_EVERY_S:
            return self._busy
        with self._lock:
            passed_s = now_s - self._looked_at_s
            if passed_s >= _LOOK_EVERY_S:  # another thread has not looked meanwhile
                idle_ticks = self._read()
                idle = None
                if idle_ticks is not None and self._idle_ticks is not None:
                    idle = (idle_ticks - self._idle_ticks) / self._ticks_a_second / passed_s
                self._busy = idle is not None and idle < _LEAST_IDLE
                self._idle_ticks, self._looked_at_s = idle_ticks, now_s
            return self._busy

    def _read(self) -> int | None:
        """Ticks in which a processor had nothing to do, since the machine started."""
        try:
            with self._stat.open(encoding="ascii") as file:
                words = file.readline().split()
            return int(words[_IDLE]) + int(words[_WAITING_FOR_DISK])
        except (OSError, ValueError, IndexError):
            return None
