"""When a scanner usually sends, learned hour by hour over the week, and how odd its silence is.

168 hours of the week (UTC), each with the weeks it was watched and those in which an image came. Counts are halved
when full, so the last two to three months count. Silence is measured as surprise: the sum of -ln(1 - p) over the
hours without an image since the last one, p being how often an image comes in such an hour. `SILENT_AT` is one
chance in a thousand.

Robust on purpose: p is smoothed over the neighbouring hours, because summer time moves a hospital's day against
UTC, and capped, so that no single hour can tell; an hour watched in fewer than two weeks tells nothing. While a
scanner is silent its pattern is not changed, or an outage would become the custom, but after two weeks of silence
it is: somebody moved it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

HOURS: Final = 168
SILENT_AT: Final = math.log(1000)
_FULL: Final = 12
_KNOWN: Final = 2  # weeks
_CERTAIN: Final = 0.8
_MOVED_AFTER_H: Final = 336


@dataclass
class WeeklyPattern:
    """One scanner's. `surprise` counts up from its last image; not thread-safe."""

    weeks: bytearray = field(default_factory=lambda: bytearray(HOURS))
    hits: bytearray = field(default_factory=lambda: bytearray(HOURS))
    surprise: float = 0.0
    silent_h: int = 0

    @property
    def is_known(self) -> bool:
        """Whether two whole weeks, or as much of them as the box was on, have been watched."""
        return sum(1 for weeks in self.weeks if weeks >= _KNOWN) >= HOURS // 2

    @property
    def is_silent(self) -> bool:
        return self.surprise >= SILENT_AT

    def image_came(self) -> None:
        """It sends: whatever was odd is over."""
        self.surprise, self.silent_h = 0.0, 0

    def hour_passed(self, hour_of_week: int, *, active: bool) -> None:
        """A whole hour was watched; `active` says whether an image came in it."""
        if active:
            self.image_came()
        elif self.is_known:
            self.surprise += -math.log(1.0 - self._chance(hour_of_week))
        if self.is_silent:
            self.silent_h += 1
            if self.silent_h < _MOVED_AFTER_H:
                return
        self._learn(hour_of_week, active=active)

    def _chance(self, hour: int) -> float:
        around = [(hour - 1) % HOURS, hour, hour, (hour + 1) % HOURS]
        weeks = sum(self.weeks[one] for one in around)
        if self.weeks[hour] < _KNOWN:
            return 0.0
        return min(_CERTAIN, sum(self.hits[one] for one in around) / weeks)

    def _learn(self, hour: int, *, active: bool) -> None:
        if self.weeks[hour] >= _FULL:
            self.weeks[hour] //= 2
            self.hits[hour] //= 2
        self.weeks[hour] += 1
        self.hits[hour] += active
