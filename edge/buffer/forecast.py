"""In how many hours a box will take nothing in any more, from how its room has changed of late.

Room is what is free above the reserve, and what could be freed at once: a cache that fills up is no loss. Its change
is what arrives less what leaves, and whatever else writes to the disk. The pace is the median of the slopes between
all samples (Theil-Sen), so that one big series, or much freed in one go, does not swing it. A few dozen numbers in
memory, on the monotonic clock, learnt anew after a restart; nothing is written.
"""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Sequence
from itertools import combinations
from typing import Final, NamedTuple

SAMPLE_S: Final = 300.0
_SAMPLES: Final = 25  # two hours
_LEAST_SAMPLES: Final = 4
_LEAST_SPAN_S: Final = 1800.0
_FAR_H: Final = 24 * 30.0


class Sample(NamedTuple):
    """Room in bytes at a moment of the monotonic clock."""

    at_s: float
    room_bytes: int


def hours_to_full(samples: Sequence[Sample], room_bytes: int) -> float | None:
    """Until `room_bytes` are used up at the pace of the samples, oldest first.

    0 when there is no room; None when it does not shrink, lasts for a month, or too little is known.
    """
    if room_bytes <= 0:
        return 0.0
    if len(samples) < _LEAST_SAMPLES or samples[-1].at_s - samples[0].at_s < _LEAST_SPAN_S:
        return None
    growth_bytes_per_s = statistics.median(
        (early.room_bytes - late.room_bytes) / (late.at_s - early.at_s)
        for early, late in combinations(samples, 2)
    )
    if growth_bytes_per_s <= 0:
        return None
    hours = room_bytes / growth_bytes_per_s / 3600
    return round(hours, 1) if hours <= _FAR_H else None


class RoomHistory:
    """The samples of the last two hours. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: deque[Sample] = deque(maxlen=_SAMPLES)

    def note(self, at_s: float, room_bytes: int) -> None:
        """Cheap to call at any pace; a sample is kept every five minutes."""
        with self._lock:
            if not self._samples or at_s - self._samples[-1].at_s >= SAMPLE_S:
                self._samples.append(Sample(at_s, room_bytes))

    def hours_to_full(self, room_bytes: int) -> float | None:
        with self._lock:
            samples = list(self._samples)
        return hours_to_full(samples, room_bytes)
