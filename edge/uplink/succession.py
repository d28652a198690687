"""Several centrals of which one at a time is sent to: the first that works, and the next when it is out for long.

Each has a place, from 0. Place 0 always may. Another may while every one before it has been out for `after_s`, and no
longer than that: when one of them answers again, what comes from then on goes there. Always true: what an earlier one
has signed for is in the queue no more, so it is never sent to a later one. An object whose answer was lost may lie at
two: that is harmless, and each knows it by its hash.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import BinaryIO, Final

from contract.identifiers import ObjectId
from edge.buffer.records import Claimed
from edge.buffer.sending_queue import SendingQueue

_REFUSED_AGAIN_S: Final = 60.0
_LOOK_AGAIN_S: Final = 60.0


class Succession:
    """Thread-safe.

    Parameters
    ----------
    after_s : how long one is out before the next takes its place.
    """

    def __init__(self, after_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._after_s = after_s
        self._clock = clock
        self._changed = threading.Condition()
        self._out_since: list[Callable[[], float | None]] = []
        self._ended = False

    def add(self, out_since: Callable[[], float | None]) -> int:
        """Take one in behind the others; its place.

        Parameters
        ----------
        out_since : by this clock, since when nothing gets through to it; None while something does.
        """
        self._out_since.append(out_since)
        return len(self._out_since) - 1

    def tell(self) -> None:
        """One of them went out, or came back."""
        with self._changed:
            self._changed.notify_all()

    def end(self) -> None:
        """Whoever waits is let go."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def is_turn(self, place: int) -> bool:
        return self._wait_s(place) == 0

    def await_turn(self, place: int) -> bool:
        """Block until this one may be sent to (True), or it is over (False)."""
        with self._changed:
            while not self._ended:
                wait_s = self._wait_s(place)
                if wait_s == 0:
                    return True
                self._changed.wait(wait_s)
        return False

    def _wait_s(self, place: int) -> float | None:
        """How long until its turn, should nothing change; None: something has to change."""
        now_s = self._clock()
        longest_s = 0.0
        for out_since in self._out_since[:place]:
            since_s = out_since()
            if since_s is None:
                return None
            longest_s = max(longest_s, since_s + self._after_s - now_s)
        return longest_s


class StandInQueue:
    """The spool's own queue, lent to a central that stands in for those before it: a `Queue` of a forwarder.

    It gets only what was sealed for it as well. What came before the box knew it waits for the first.

    Parameters
    ----------
    keys : ids of the keys that this central has.
    """

    def __init__(
        self, queue: SendingQueue, succession: Succession, place: int, keys: Callable[[], Collection[str]]
    ) -> None:
        self._queue = queue
        self._succession = succession
        self._place = place
        self._keys = keys

    def claim(self, *, lease_s: float) -> Claimed | None:
        return next(iter(self.claim_several(lease_s=lease_s, max_objects=1, max_bytes=0)), None)

    def claim_several(
        self, *, lease_s: float, max_objects: int, max_bytes: int, these: Collection[ObjectId] = ()
    ) -> list[Claimed]:
        keys = self._keys()
        if not keys or not self._succession.is_turn(self._place):
            return []
        return self._queue.claim_several(
            lease_s=lease_s, max_objects=max_objects, max_bytes=max_bytes, these=these, opened_by=keys
        )

    def wait_for_work(self, timeout_s: float | None) -> bool:
        if not self._succession.await_turn(self._place):
            return False
        # Not without end: its keys may change meanwhile.
        longest_s = _LOOK_AGAIN_S if timeout_s is None else min(timeout_s, _LOOK_AGAIN_S)
        return self._queue.wait_for_work(longest_s, opened_by=self._keys())

    def open_object(self, object_id: ObjectId) -> BinaryIO:
        return self._queue.open_object(object_id)

    def acknowledge_all(self, receipts: Sequence[tuple[ObjectId, str]]) -> None:
        self._queue.acknowledge_all(receipts)

    def release(self, object_id: ObjectId, *, error: str, retry_in_s: float, untried: bool = False) -> None:
        self._queue.release(object_id, error=error, retry_in_s=retry_in_s, untried=untried)

    def set_aside(self, object_id: ObjectId, *, reason: str) -> None:
        """One that stands in refuses it: that is no reason to keep it from the first."""
        self._queue.release(object_id, error=reason, retry_in_s=_REFUSED_AGAIN_S)
