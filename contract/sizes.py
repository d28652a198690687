"""Sizes as a technician reads them, on the terminal screen, in the status and in sentences of the box."""

from __future__ import annotations

import math
from typing import Final

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")


def size_text(size_bytes: float) -> str:
    """`size_bytes` with a binary unit and three digits, such as 1.46 GiB."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    power = min(int(math.log2(size_bytes)) // 10, len(_UNITS))
    number = size_bytes / 1024**power
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {_UNITS[power - 1]}"
