"""How much central takes from one gateway in 24 hours, so that a stolen or broken box cannot fill the archive.

Always true: what was taken is counted from the archive's index itself, and what was begun and is not ended from its
files, so no restart and no second process forgets it; what a box is refused stays on the box and is taken later.
Between two looks at both each process adds what it let begin, so several processes overshoot by what they let begin
within `_LOOKED_UP_S`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from central.ingest.errors import TryAgainError
from contract.transfer import Problem

DAY: Final = timedelta(hours=24)
_LOOKED_UP_S: Final = 10.0


@dataclass
class _Brought:
    """In the last 24 hours, as of `at_s` of the monotonic clock, and what was let begin since."""

    at_s: float
    size_bytes: int


class DayQuota:
    """Safe from any thread.

    Parameters
    ----------
    brought : how many bytes of a gateway (its id) were archived since a moment, or announced of what is not ended.
    day_bytes : what each may bring, but for those in `day_bytes_of`.
    """

    def __init__(
        self,
        brought: Callable[[str, datetime], int],
        *,
        day_bytes: int,
        day_bytes_of: Mapping[str, int],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._brought = brought
        self._day_bytes = day_bytes
        self._day_bytes_of = day_bytes_of
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._known: dict[str, _Brought] = {}

    def is_spent(self, gateway_id: str) -> bool:
        """Whether nothing more is taken from it for now."""
        with self._lock:
            return self._of(gateway_id).size_bytes >= self._quota(gateway_id)

    def spend(self, gateway_id: str, size_bytes: int) -> None:
        """Let an upload of `size_bytes` begin; TryAgainError (QUOTA) where the day's bytes are spent.

        The one that passes the limit is still taken: a quota smaller than an object must not keep it out for ever.
        """
        with self._lock:
            brought, quota = self._of(gateway_id), self._quota(gateway_id)
            if brought.size_bytes >= quota:
                raise TryAgainError(
                    Problem.QUOTA,
                    f"this box has brought its quota of {quota} bytes in 24 hours (limits.gateway_day_bytes at "
                    "central); what waits is kept here and taken later, or when the administrator raises the quota",
                )
            brought.size_bytes += size_bytes

    def _quota(self, gateway_id: str) -> int:
        return self._day_bytes_of.get(gateway_id, self._day_bytes)

    def _of(self, gateway_id: str) -> _Brought:
        known, now_s = self._known.get(gateway_id), self._clock_s()
        if known is None or now_s - known.at_s >= _LOOKED_UP_S:
            known = _Brought(now_s, self._brought(gateway_id, datetime.now(UTC) - DAY))
            self._known[gateway_id] = known
        return known
