"""Slows down guessing of passwords: a ceiling of failures per username and per address (of IPv6: per network) in a
sliding window.

What is always true: an attempt counts from the moment it begins, so a burst of parallel guesses cannot pass
before the first failure is known; a success takes back its own attempt and nothing else. Known and unknown
usernames are counted alike. Memory is bounded: of many names the longest silent are forgotten first.

What a crash leaves: nothing; the counts begin anew.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Final

from central.access.errors import ThrottledError
from central.hosts import network_of

WINDOW_S: Final = 300.0
FAILURES_PER_USERNAME: Final = 5
FAILURES_PER_ADDRESS: Final = 20
_MAX_KEYS: Final = 20_000

Key = tuple[str, str]


class SignInThrottle:
    """Counts attempts; safe to call from every thread. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._attempts: OrderedDict[Key, deque[float]] = OrderedDict()

    def begin(self, username: str, address: str) -> None:
        """Count an attempt of `username` from `address`.

        Raises
        ------
        ThrottledError : one of the two has too many failures; this attempt is not counted.
        """
        ceilings = _ceilings(username, address)
        with self._lock:
            now = self._clock()
            self._require_below(ceilings, now)
            for key in ceilings:
                self._attempts.setdefault(key, deque()).append(now)
                self._attempts.move_to_end(key)
            while len(self._attempts) > _MAX_KEYS:
                self._attempts.popitem(last=False)

    def require_open(self, username: str, address: str) -> None:
        """Count nothing, for what cannot be guessed and comes many at once. ThrottledError : as `begin`."""
        with self._lock:
            self._require_below(_ceilings(username, address), self._clock())

    def succeed(self, username: str, address: str) -> None:
        """Take back the attempt of `username` from `address` that `begin` counted last."""
        with self._lock:
            for key in _ceilings(username, address):
                if times := self._attempts.get(key):
                    times.pop()

    def _require_below(self, ceilings: Mapping[Key, int], now: float) -> None:
        waits = [
            times[0] + WINDOW_S - now
            for key, ceiling in ceilings.items()
            if len(times := self._recent(key, now)) >= ceiling
        ]
        if waits:
            raise ThrottledError(max(1, math.ceil(max(waits))))

    def _recent(self, key: Key, now: float) -> deque[float]:
        times = self._attempts.get(key, deque())
        while times and times[0] <= now - WINDOW_S:
            times.popleft()
        return times


def _ceilings(username: str, address: str) -> dict[Key, int]:
    return {("u", username): FAILURES_PER_USERNAME, ("a", network_of(address)): FAILURES_PER_ADDRESS}
