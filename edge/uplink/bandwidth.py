"""How much of the line the box may use, by weekday and hour: a token bucket that all connections draw from.

Always true: over any minute no more leaves than the hour's limit allows, but for one piece a connection; without a
limit for the hour nobody waits. Hours are of the box's local time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_BURST_S: Final = 0.25


@dataclass(frozen=True)
class HourlyLimit:
    """`bytes_per_s` on `days` (of `WEEKDAYS`) from `from_hour` to before `to_hour`.

    Over midnight if that is not more; a night belongs to the day on which it begins.
    """

    days: frozenset[str]
    from_hour: int
    to_hour: int
    bytes_per_s: float

    def holds(self, moment: datetime) -> bool:
        over_midnight = self.to_hour <= self.from_hour
        if over_midnight and moment.hour < self.to_hour:
            return WEEKDAYS[moment.weekday() - 1] in self.days
        until_hour = 24 if over_midnight else self.to_hour
        return WEEKDAYS[moment.weekday()] in self.days and self.from_hour <= moment.hour < until_hour


class Bandwidth:
    """Thread-safe. Of several limits for an hour the first counts."""

    def __init__(
        self,
        limits: Sequence[HourlyLimit] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        local_time: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._limits = tuple(limits)
        self._clock = clock
        self._local_time = local_time
        self._lock = threading.Lock()
        self._free_at_s = 0.0  # when all that was let through so far is paid for

    def bytes_per_s(self) -> float | None:
        """The limit of this hour; None if there is none."""
        if not self._limits:
            return None
        moment = self._local_time()
        return next((limit.bytes_per_s for limit in self._limits if limit.holds(moment)), None)

    def piece_bytes(self, most: int) -> int:
        """How much to hand over at a time, so that a slow limit does not come in long gulps."""
        rate = self.bytes_per_s()
        return most if rate is None else max(1024, min(most, int(rate * _BURST_S)))

    def reserve(self, size_bytes: int) -> float:
        """Draw `size_bytes`; how many seconds to wait before sending them."""
        rate = self.bytes_per_s()
        with self._lock:
            now_s = self._clock()
            if rate is None:
                self._free_at_s = now_s
                return 0.0
            begins_s = max(self._free_at_s, now_s)
            self._free_at_s = begins_s + size_bytes / rate
            return max(0.0, begins_s - now_s)
