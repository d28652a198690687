"""Keeps the allocator from taking a heap for every thread, and from keeping what many associations once took.

glibc gives threads arenas of their own, up to eight a core, and returns little of them: thirty associations cost
290 MB where two arenas cost 195. A box has little memory, and its threads wait for disks, not for malloc.
"""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Final

_M_ARENA_MAX: Final = -8  # malloc.h
_ARENAS: Final = 2


def share_heaps() -> None:
    """To be called before threads start. Does nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


class Heap:
    """Gives memory that is free back to the machine, every few seconds at most. Safe from any thread."""

    _EVERY_S: Final = 5.0

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._lock = threading.Lock()
        self._trimmed_at_s = time.monotonic()

    def trim(self) -> None:
        """To be called when something large has ended. Does nothing where the C library is not glibc."""
        if self._trim is None:
            return
        with self._lock:
            if time.monotonic() - self._trimmed_at_s < self._EVERY_S:
                return
            self._trimmed_at_s = time.monotonic()
        self._trim(0)
