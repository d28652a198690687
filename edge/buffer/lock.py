"""The spool's one lock: who holds it has the index, the book of scanners and every move of a sealed file to itself.

Always true: whoever asks or changes something under `held` finds an open spool, and in its index every instance that
was acknowledged. Parallel receptions wait for each other here alone, and no image is read or written meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edge.buffer.arrivals import Arrivals
from edge.buffer.errors import SpoolClosedError, storage_error
from edge.buffer.index import SpoolIndex


class SpoolLock:
    """Re-entrant, for the thread that holds it.

    Attributes
    ----------
    changed : the lock itself; notified when something may be claimable, and at the end.
    is_closed : for whoever waits for `changed`.
    turn : of whoever took the lock.
    """

    def __init__(
        self, index: SpoolIndex, arrivals: Arrivals, changed: threading.Condition, *, reserve_bytes: int
    ) -> None:
        self.changed = changed
        self.is_closed = False
        self.turn = 0
        self._index = index
        self._arrivals = arrivals
        self._reserve_bytes = reserve_bytes

    @contextmanager
    def held(self) -> Iterator[None]:
        """The lock, on an open spool whose index knows all that arrived; failures come out in this room's terms.

        Raises
        ------
        SpoolClosedError, DiskFullError, StorageFailedError
        """
        with self.without_arrivals():
            if self._arrivals:
                self._arrivals.bring_in()
            yield

    @contextmanager
    def without_arrivals(self) -> Iterator[None]:
        """The lock alone: what arrived may not be in the index yet. Raises as `held`."""
        with self.changed:
            if self.is_closed:
                raise SpoolClosedError
            self.turn += 1
            try:
                with self._index.translated():
                    yield
            except OSError as error:
                raise storage_error(error, reserve_bytes=self._reserve_bytes) from error

    def close(self) -> bool:
        """Nobody takes it any more, and whoever waits wakes; False if that was so before."""
        with self.changed:
            if self.is_closed:
                return False
            self.is_closed = True
            self.changed.notify_all()
            return True
