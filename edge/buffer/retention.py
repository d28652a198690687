"""What central has receipted and the box keeps for a while, because the site wants it near; and how it goes.

Nothing else is ever freed here: only objects in the state `retained`, whose receipt is kept. They go when they are
older than the site wants (`edge.buffer.upkeep`), and before that, oldest first, when room is wanted: below the
low-water mark in the background, below the reserve at once, before a scanner is refused (`edge.buffer.room`). Age
counts from arrival, by the wall clock: a clock that was wrong frees early or late, which costs a copy or some room,
never an image. A crash leaves a row that says freed with its file still there, or retained without one; recovery ends
both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from contract.identifiers import ObjectId
from edge.buffer.files import SpoolFiles
from edge.buffer.index import SpoolIndex
from edge.buffer.lock import SpoolLock
from edge.buffer.records import Disk
from edge.buffer.states import FREE
from edge.buffer.tables import utc_from_text, utc_text

AT_ONCE = 64
"""Objects freed under one hold of the spool's lock: a reception waits for no more than these."""

# The state stands in the text because SQLite must see that the partial index `retained_by_sequence` covers it.
_OLDEST: Final = """
    SELECT object_id, stored_bytes, received_at_utc FROM objects INDEXED BY retained_by_sequence
    WHERE state = 'retained' ORDER BY sequence LIMIT ?
"""
_STORED_BYTES: Final = """
    SELECT SUM(stored_bytes) FROM objects INDEXED BY live_by_state WHERE freed_at_utc IS NULL AND state = 'retained'
"""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Freeing:
    """What is to go: what arrived before `before_utc`, and beyond that the oldest until so much is won."""

    before_utc: datetime = _LONG_AGO
    want_bytes: int = 0
    want_files: int = 0


@dataclass(frozen=True)
class Freed:
    objects: int
    stored_bytes: int


class Retained:
    """Safe from any thread.

    Attributes
    ----------
    period : how long after its arrival an object stays although central has it.
    """

    def __init__(self, lock: SpoolLock, index: SpoolIndex, files: SpoolFiles, *, period: timedelta) -> None:
        self.period = period
        self._lock = lock
        self._index = index
        self._files = files

    def keeps(self, received_at_utc: datetime, disk: Disk) -> bool:
        """Whether an object that central has just receipted stays for a while."""
        low = disk.low_by_bytes or disk.low_by_files
        return not low and datetime.now(UTC) - received_at_utc < self.period

    def stored_bytes(self) -> int:
        """Room that it takes on the disk."""
        with self._lock.held():
            return self._index.execute(_STORED_BYTES, ()).fetchone()[0] or 0

    def free(self, freeing: Freeing) -> Freed:
        """Free batch after batch until enough is won, or nothing more is retained.

        By the sizes that are known, not by asking the file system in between: some give room back seconds later.
        """
        objects = stored_bytes = 0
        while (batch := self._free_some(freeing)).objects:
            objects += batch.objects
            stored_bytes += batch.stored_bytes
            freeing = replace(
                freeing,
                want_bytes=max(0, freeing.want_bytes - batch.stored_bytes),
                want_files=max(0, freeing.want_files - batch.objects),
            )
        return Freed(objects, stored_bytes)

    def _free_some(self, freeing: Freeing) -> Freed:
        """One batch. Not synced: what a power cut takes back is in its former state, and its file is freed again."""
        with self._lock.held():
            chosen = self._choose(freeing)
            if chosen:
                now = utc_text(datetime.now(UTC))
                with self._index.transaction(durable=False):
                    for object_id in chosen:
                        self._index.step_within(object_id, FREE, freed_at_utc=now)
            for object_id in chosen:
                self._files.unlink_freed(object_id)
        return Freed(len(chosen), sum(chosen.values()))

    def _choose(self, freeing: Freeing) -> dict[ObjectId, int]:
        """The next batch to go, at most `AT_ONCE`, with the bytes each has on the disk."""
        chosen: dict[ObjectId, int] = {}
        won_bytes = 0
        for object_id, stored_bytes, received_at_utc in self._index.execute(_OLDEST, (AT_ONCE,)):
            enough = won_bytes >= freeing.want_bytes and len(chosen) >= freeing.want_files
            if enough and utc_from_text(received_at_utc) >= freeing.before_utc:
                break
            chosen[ObjectId(object_id)] = stored_bytes
            won_bytes += stored_bytes
        return chosen
