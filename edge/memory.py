"""Keeps the allocator from taking a heap for every thread.

glibc gives threads arenas of their own, up to eight a core, and returns little of them: thirty associations cost
290 MB where two arenas cost 195. A box has little memory, and its threads wait for disks, not for malloc.
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
