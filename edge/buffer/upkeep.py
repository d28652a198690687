"""Frees in the background what has been retained for long enough, what is in the way of the low-water mark, and what a
full disk kept from being freed.

It wakes every five minutes and when the spool says that room is low, and writes nothing where nothing is due. A crash
leaves what `edge.buffer.retention` says.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from edge.buffer.errors import SpoolClosedError, SpoolError
from edge.buffer.forecast import SAMPLE_S
from edge.buffer.retention import Freeing, Retained
from edge.buffer.room import DiskRoom

_PAUSE_S = 5.0
_LOG = logging.getLogger(__name__)


class Upkeep:
    """The thread, which lets the forecast learn as well: `start`, `soon`, `stop`.

    Parameters
    ----------
    catch_up : writes down what the disk did not take when its turn came.
    """

    def __init__(self, room: DiskRoom, retained: Retained, catch_up: Callable[[], None]) -> None:
        self._catch_up = catch_up
        self._room = room
        self._retained = retained
        self._changed = threading.Condition()
        self._wanted = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="spool-upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def soon(self) -> None:
        """Room is low: look now, or some seconds after the last look. Does not block."""
        with self._changed:
            self._wanted = True
            self._changed.notify()

    def stop(self, timeout_s: float) -> None:
        """To be called before or after the spool is closed."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            try:
                self._look()
            except SpoolClosedError:
                return
            except SpoolError as error:
                _LOG.warning("upkeep of the spool failed; it is tried again", extra={"reason": error})
            with self._changed:
                # Below the mark every reception asks; one look in some seconds answers them all.
                self._changed.wait_for(lambda: self._stopping, _PAUSE_S)
                self._changed.wait_for(lambda: self._stopping or self._wanted, SAMPLE_S - _PAUSE_S)
                self._wanted = False
                if self._stopping:
                    return

    def _look(self) -> None:
        self._room.note()
        disk = self._room.disk()
        before_utc = datetime.now(UTC) - self._retained.period
        freed = self._retained.free(Freeing(before_utc, disk.low_by_bytes, disk.low_by_files))
        if freed.objects:
            _LOG.info("freed what central has", extra={"objects": freed.objects, "bytes": freed.stored_bytes})
        self._catch_up()
