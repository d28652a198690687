"""Numbers and times as a technician reads them, and foreign text made harmless for a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_GOOD, _WAITING, _BAD = "green", "yellow", "red"

LINK_WORDS: Final = {
    "connected": ("●", _GOOD, "connected"),
    "connecting": ("◌", _WAITING, "connecting"),
    "waiting": ("◌", _WAITING, "waiting"),
    "refused": ("✘", _BAD, "refused"),
    "not-enrolled": ("○", _BAD, "not enrolled"),
}
"""Sign, colour and word of each link state: whoever sees no colours reads the word."""


def age(since_utc: datetime | None, now_utc: datetime | None = None) -> str:
    """Such as ``42 s``, ``7 min``, ``3 h`` or ``12 d``; ``-`` for never."""
    if since_utc is None:
        return "-"
    seconds = max(0.0, ((now_utc or datetime.now(UTC)) - since_utc).total_seconds())
    for limit_s, unit_s, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def count(number: int, noun: str) -> str:
    """Such as ``1 object`` or ``12 objects``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def bar(part: float, width: int) -> str:
    """`part` (0 to 1) of `width` cells filled."""
    filled = round(max(0.0, min(1.0, part)) * width)
    return "█" * filled + "░" * (width - filled)


def plain(text: str) -> str:
    """`text` without control characters: AE titles and errors come from other machines."""
    return "".join(char if char.isprintable() else "·" for char in text)
