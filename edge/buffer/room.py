"""Room on the spool's file system: how much there is, how long it lasts, and that the reserve is left alone.

Always true: an instance is refused only when less than the reserve is free and nothing retained is left that could make
way for it. Everything is measured anew each time; what is kept in memory is the forecast's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from edge.buffer.errors import DiskFullError
from edge.buffer.files import SpoolFiles
from edge.buffer.forecast import RoomHistory
from edge.buffer.records import Disk
from edge.buffer.retention import Freeing, Retained

_RESERVE_FILES: Final = (128, 1024)  # at least two batches of names; a hundredth of a file system in between
_LOG = logging.getLogger(__name__)


class DiskRoom:
    """Safe from any thread.

    Parameters
    ----------
    reserve_bytes : room that must stay free.
    low_water_bytes : below it what is retained goes; the reserve counts where it is higher.
    on_low_water : called by `check` below that mark; must not block.
    """

    def __init__(
        self,
        files: SpoolFiles,
        retained: Retained,
        *,
        reserve_bytes: int,
        low_water_bytes: int,
        on_low_water: Callable[[], None],
    ) -> None:
        self.reserve_bytes = reserve_bytes
        self.low_water_bytes = low_water_bytes
        self._on_low_water = on_low_water
        self._files = files
        self._retained = retained
        self._history = RoomHistory()
        self._making_room = threading.Lock()
        self._refusing = False

    def check(self) -> None:
        """DiskFullError when less than the reserve is free, and nothing retained is left to free for it."""
        disk = self.measure()
        if not disk.accepting:
            disk = self._make_room()
        if not disk.accepting:
            self._note_refusing(disk)
            free_files = disk.free_files if disk.free_files < disk.reserve_files else None
            raise DiskFullError(
                free_bytes=disk.free_bytes, reserve_bytes=disk.reserve_bytes, free_files=free_files
            )
        if self._refusing:
            self._note_refusing(disk)
        if disk.low_by_bytes or disk.low_by_files:
            self._on_low_water()

    def _make_room(self) -> Disk:
        """Free what is retained until the reserve is there again, and a little more: not at every instance.

        One thread does it for all that wait.
        """
        with self._making_room:
            disk = self.measure()
            while not disk.accepting:
                freed = self._retained.free(
                    Freeing(
                        want_bytes=max(0, disk.reserve_bytes * 9 // 8 - disk.free_bytes),
                        want_files=max(0, disk.reserve_files * 9 // 8 - disk.free_files),
                    )
                )
                disk = self.measure()
                if not freed.objects:
                    break
            return disk

    def _note_refusing(self, disk: Disk) -> None:
        """Say once that it began, and once that it is over: a full disk must not fill the log."""
        with self._making_room:
            began, ended = not disk.accepting and not self._refusing, disk.accepting and self._refusing
            self._refusing = not disk.accepting
        if began:
            _LOG.error("the disk is full: scanners are told to send later", extra=vars(disk))
        elif ended:
            _LOG.warning("there is room again: images are taken in", extra=vars(disk))

    def note(self) -> None:
        """Let the forecast learn; to be called every few minutes."""
        self._history.note(time.monotonic(), self._fillable_bytes(self.measure()))

    def disk(self) -> Disk:
        """Room, and how long it will last."""
        disk = self.measure()
        if not disk.accepting:
            return replace(disk, hours_to_full=0.0)
        return replace(disk, hours_to_full=self._history.hours_to_full(self._fillable_bytes(disk)))

    def measure(self) -> Disk:
        """Room, without a forecast."""
        room = self._files.room()
        return Disk(
            total_bytes=room.total_bytes,
            free_bytes=room.free_bytes,
            reserve_bytes=self.reserve_bytes,
            low_water_bytes=self.low_water_bytes,
            free_files=room.free_files if room.total_files else 0,
            reserve_files=_reserve_files(room.total_files),
        )

    def _fillable_bytes(self, disk: Disk) -> int:
        """Free above the reserve, or free at once when it is wanted."""
        return disk.free_bytes - disk.reserve_bytes + self._retained.stored_bytes()


def _reserve_files(total_files: int) -> int:
    """How many files more must fit; 0 on a file system that has no bound for them."""
    least, most = _RESERVE_FILES
    return max(least, min(most, total_files // 100)) if total_files else 0
