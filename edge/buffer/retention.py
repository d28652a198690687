"""What central has receipted and the box keeps for a while, because the site wants it near; and when it goes.

Nothing else is ever freed here: only objects in the state `retained`, whose receipt is kept. They go when they are
older than the site wants, and before that, oldest first, when room is wanted: below the low-water mark in the
background, below the reserve at once, before a scanner is refused. Age counts from arrival, by the wall clock: a
clock that was wrong frees early or late, which costs a copy or some room, never an image. A crash leaves a row that
says freed with its file still there, or retained without one; recovery ends both.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from contract.identifiers import ObjectId
from edge.buffer.errors import SpoolClosedError, SpoolError
from edge.buffer.forecast import SAMPLE_S
from edge.buffer.index import SpoolIndex
from edge.buffer.records import Disk
from edge.buffer.states import FREE
from edge.buffer.tables import utc_from_text, utc_text

AT_ONCE = 64
"""Objects freed under one hold of the spool's lock: a reception waits for no more than these."""

_PAUSE_S = 5.0
# The state stands in the text because SQLite must see that the partial index `retained_by_sequence` covers it.
_FIND_RETAINED = """
    SELECT object_id, stored_bytes, received_at_utc FROM objects INDEXED BY retained_by_sequence
    WHERE state = 'retained' ORDER BY sequence LIMIT ?
"""
_LOG = logging.getLogger(__name__)


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


class Cache(Protocol):
    """The part of the spool that retention works on."""

    @property
    def retain(self) -> timedelta: ...

    def disk(self) -> Disk: ...

    def note_room(self) -> None: ...

    def free_retained(self, freeing: Freeing) -> Freed:
        """Free one batch; nothing is left of it when no object was freed."""


def stays(received_at_utc: datetime, disk: Disk, retain: timedelta) -> bool:
    """Whether an object that central has just receipted stays for a while."""
    low = disk.low_by_bytes or disk.low_by_files
    return not low and datetime.now(UTC) - received_at_utc < retain


def choose(index: SpoolIndex, freeing: Freeing) -> dict[ObjectId, int]:
    """The next batch to go, at most `AT_ONCE`, with the bytes each has on the disk."""
    chosen: dict[ObjectId, int] = {}
    won_bytes = 0
    for object_id, stored_bytes, received_at_utc in index.execute(_FIND_RETAINED, (AT_ONCE,)):
        enough = won_bytes >= freeing.want_bytes and len(chosen) >= freeing.want_files
        if enough and utc_from_text(received_at_utc) >= freeing.before_utc:
            break
        chosen[ObjectId(object_id)] = stored_bytes
        won_bytes += stored_bytes
    return chosen


def free(index: SpoolIndex, object_ids: Collection[ObjectId]) -> None:
    """Free some in one transaction; the caller unlinks the files after it.

    Not synced: what a power cut takes back is in its former state, and its file is freed again.
    """
    now = utc_text(datetime.now(UTC))
    with index.transaction(durable=False):
        for object_id in object_ids:
            index.step_within(object_id, FREE, freed_at_utc=now)


def free_all(cache: Cache, freeing: Freeing) -> Freed:
    """Free batch after batch until enough is won, or nothing more is retained.

    By the sizes that are known, not by asking the file system in between: some give room back seconds later.
    """
    objects = stored_bytes = 0
    while (batch := cache.free_retained(freeing)).objects:
        objects += batch.objects
        stored_bytes += batch.stored_bytes
        freeing = replace(
            freeing,
            want_bytes=max(0, freeing.want_bytes - batch.stored_bytes),
            want_files=max(0, freeing.want_files - batch.objects),
        )
    return Freed(objects, stored_bytes)


class Upkeep:
    """The thread that frees in the background and lets the forecast learn: `start`, `soon`, `stop`.

    It wakes every five minutes and when the spool says that room is low, and writes nothing where nothing is due.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
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
        self._cache.note_room()
        disk = self._cache.disk()
        freed = free_all(
            self._cache,
            Freeing(datetime.now(UTC) - self._cache.retain, disk.low_by_bytes, disk.low_by_files),
        )
        if freed.objects:
            _LOG.info("freed what central has", extra={"objects": freed.objects, "bytes": freed.stored_bytes})
