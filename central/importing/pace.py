"""When an import may ask the other archive, and how much of the line it takes."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_LOOK_AGAIN_S: Final = 300.0  # clocks change, in summer as well


@dataclass(frozen=True)
class Hours:
    """Every day from `begins_at` to `ends_at`, minutes since midnight in local time; over midnight where it begins
    later than it ends."""

    begins_at: int
    ends_at: int

    @classmethod
    def read(cls, text: str) -> Hours:
        """From ``20:00-06:00``. ValueError if that is not its form."""
        found = _HOURS.fullmatch(text)
        if found is None:
            raise ValueError(f"hours are given as 20:00-06:00, not as {text}")
        begin_h, begin_m, end_h, end_m = map(int, found.groups())
        return cls(begin_h * 60 + begin_m, end_h * 60 + end_m)

    def wait_s(self, now: datetime) -> float:
        """Seconds until they begin; 0 within them."""
        minute = now.hour * 60 + now.minute
        within = (
            self.begins_at <= minute < self.ends_at
            if self.begins_at < self.ends_at
            else minute >= self.begins_at or minute < self.ends_at
        )
        if within or self.begins_at == self.ends_at:
            return 0.0
        begins = now.replace(hour=self.begins_at // 60, minute=self.begins_at % 60, second=0, microsecond=0)
        return ((begins if begins > now else begins + timedelta(days=1)) - now).total_seconds()


class Pace:
    """Holds an import to `hours` and to `bytes_per_s` on average; None: as it can.

    Parameters
    ----------
    stopped : ends every wait.
    say : takes a sentence when a long wait begins.
    """

    def __init__(
        self,
        hours: Hours | None,
        bytes_per_s: float | None,
        stopped: threading.Event,
        say: Callable[[str], None],
        now: Callable[[], datetime] = datetime.now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hours = hours
        self._bytes_per_s = bytes_per_s
        self._stopped = stopped
        self._say = say
        self._now = now
        self._clock = clock
        self._free_at_s = clock()

    def wait_for_hours(self) -> None:
        """Return when asking is allowed, or the import is stopped."""
        has_said = False
        while self._hours is not None and not self._stopped.is_set():
            wait_s = self._hours.wait_s(self._now())
            if not wait_s:
                return
            if not has_said:
                self._say(f"outside of the hours: waiting for {timedelta(seconds=int(wait_s))}")
                has_said = True
            self._stopped.wait(min(wait_s, _LOOK_AGAIN_S))

    def spend(self, size_bytes: int) -> None:
        """So much came: wait until it is no more than the pace allows."""
        if self._bytes_per_s is None:
            return
        now_s = self._clock()
        self._free_at_s = max(self._free_at_s, now_s - 1.0) + size_bytes / self._bytes_per_s
        self._stopped.wait(max(0.0, self._free_at_s - now_s))
