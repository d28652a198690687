"""One breaker for the whole line to central, so that ten thousand queued objects do not each knock.

    open ──failed──▶ closed (until a moment that jitter picks) ──the moment, or try_now──▶ probing (one worker)
      ▲                                                                                        │
      └───────────────────────────────── passed ◀──────────────────────────────────────────────┘ failed: closed

With a new identity every worker begins with what is queued, so that on a long line all connections stand after one set
of handshakes and none waits for an answer that says nothing. After a failure one probes, and the others block on the
condition. The delay doubles with each failure up to the ceiling and falls back only after an object got through: a
central that answers probes but fails every object is not hammered either. Full jitter: a delay is uniform between zero
and its bound.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final

BASE_DELAY_S: Final = 1.0
_PROVEN_S: Final = 60.0


def backoff_s(failures: int, ceiling_s: float, uniform: Callable[[float, float], float]) -> float:
    """Exponential backoff with full jitter, in seconds; `failures` counts from 0."""
    return uniform(0.0, min(ceiling_s, BASE_DELAY_S * 2.0 ** min(failures, 32)))


class Pass(StrEnum):
    """What a worker may do now."""

    SEND = "send"
    BEGIN = "begin"
    PROBE = "probe"
    STOP = "stop"


class _State(StrEnum):
    BEGUN = "begun"
    OPEN = "open"
    CLOSED = "closed"
    PROBING = "probing"


class Line:
    """Thread-safe. A new line is closed without end: `begin` opens it for a probe, once there is an identity.

    Parameters
    ----------
    on_change : called, outside the lock, when it may have gone out or come back.
    """

    def __init__(
        self,
        ceiling_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._ceiling_s = ceiling_s
        self._clock = clock
        self._uniform = uniform
        self._on_change = on_change
        self._out_since_s: float | None = None
        self._opened_at_s = 0.0
        self._changed = threading.Condition()
        self._state = _State.CLOSED
        self._retry_at = float("inf")
        self._failures = 0
        self._stopped = False

    def enter(self) -> Pass:
        """Block until the line may be used. Who gets PROBE must report `passed` or `failed`.

        BEGIN: nothing is known of the line. Send as if it were open, or probe if there is nothing to send.
        """
        with self._changed:
            while not self._stopped:
                if self._state is _State.OPEN:
                    return Pass.SEND
                if self._state is _State.BEGUN:
                    return Pass.BEGIN
                wait_s: float | None = None
                if self._state is _State.CLOSED:
                    wait_s = self._retry_at - self._clock()
                    if wait_s <= 0:
                        self._state = _State.PROBING
                        return Pass.PROBE
                    if wait_s == float("inf"):
                        wait_s = None
                self._changed.wait(wait_s)
            return Pass.STOP

    def passed(self) -> bool:
        """Central answered: everybody may send. The next failure still waits longer than the last.

        Returns whether this opened the line: it was open already, or another's failure has closed it since.
        """
        with self._changed:
            opens = self._state in (_State.BEGUN, _State.PROBING)
            if opens:
                self._state = _State.OPEN
                self._opened_at_s = self._clock()
                self._changed.notify_all()
        if opens:
            self._on_change()
        return opens

    @property
    def out_since_s(self) -> float | None:
        """Since when nothing gets through, on `clock`; None while the line is open.

        One that answers probes and fails every object counts from its first failure again as soon as it closes. An open
        line counts as well after a minute, should nothing be sent.
        """
        with self._changed:
            return None if self._state is _State.OPEN else self._out_since_s

    def succeeded(self) -> None:
        """An object got all the way."""
        with self._changed:
            self._failures = 0
            if self._state is _State.OPEN:
                self._out_since_s = None

    def failed(self, at_least_s: float = 0.0) -> float:
        """Close the line; return for how many seconds. Of workers that fail together, the first one counts.

        `at_least_s`: what the other side asked for; up to the ceiling it is given that.
        """
        with self._changed:
            if self._state is not _State.CLOSED:
                if self._state is _State.OPEN and self._clock() - self._opened_at_s > _PROVEN_S:
                    self._out_since_s = None
                self._state = _State.CLOSED
                delay_s = backoff_s(self._failures, self._ceiling_s, self._uniform)
                self._retry_at = self._clock() + max(delay_s, min(at_least_s, self._ceiling_s))
                self._failures += 1
                if self._out_since_s is None:
                    self._out_since_s = self._clock()
                self._changed.notify_all()
            delay_s = max(0.0, self._retry_at - self._clock())
        self._on_change()
        return delay_s

    def try_now(self) -> None:
        """Something suggests that it works again: do not wait out the delay."""
        with self._changed:
            if self._state is _State.CLOSED and self._retry_at != float("inf"):
                self._retry_at = self._clock()
                self._changed.notify_all()

    def begin(self) -> None:
        """Start from nothing: an identity is new, so what was learnt with the former one is void."""
        with self._changed:
            self._state = _State.BEGUN
            self._failures = 0
            if self._out_since_s is None:
                self._out_since_s = self._clock()
            self._changed.notify_all()
        self._on_change()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
