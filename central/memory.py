"""Keeps the allocator from taking a heap for every thread.

glibc gives threads arenas of their own, up to eight a core, and returns little of them. Central's threads wait for
disks and for the interpreter, not for malloc: two arenas serve eight senders and eight readers in a tenth less memory.
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_ARENA_MAX: Final = -8  # malloc.h
_ARENAS: Final = 2


def share_heaps() -> None:
    """To be called before threads start. Does nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)
