"""How much room renditions take, and which of them make way: those that were used longest ago.

Always true: what somebody waits for costs them little here. Uses are written down for many together; the room is
counted now and then, as other processes keep renditions too; and whoever finds it full lets go of a few hundred at
most. What a crash leaves: uses that are not written down, so that something else goes first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import peewee

from central.archive.tables import Rendition
from central.database import Database
from central.prepared import Prepared, given

_LEAST_BYTES: Final = 4096  # what the smallest costs: a block of the disk, and about as much as its row
_FREED_TO: Final = 0.9
_COUNTED_ANEW: Final = 1 / 64  # after so much of what may be kept
_AT_ONCE: Final = 256
_USES_HELD: Final = 1024
_USES_HELD_S: Final = 600.0
_USED: Final = Prepared(
    Rendition.update({Rendition.used_at_s: given("used_at_s")}).where(Rendition.key == given("key"))
)
_log = logging.getLogger(__name__)

Rows = Sequence[dict[str, Any]]


class RenditionRoom:
    """For `max_bytes` of renditions. Safe to call from many threads.

    Parameters
    ----------
    drop : takes rows away, and their objects with them or soon after.
    """

    def __init__(self, db: Database, max_bytes: int, drop: Callable[[Rows], None]) -> None:
        self._db = db
        self._max_bytes = max_bytes
        self._drop = drop
        self._freeing = threading.Lock()
        self._held_bytes = 0
        self._uncounted_bytes: int | None = None  # None: it was never counted
        self._uses_lock = threading.Lock()
        self._uses: dict[str, float] = {}
        self._uses_since_s = time.monotonic()

    def fits(self, size_bytes: int) -> bool:
        """Whether one of this size may be kept at all."""
        return _cost(size_bytes) <= self._max_bytes

    def used(self, key: str) -> None:
        """A rendition was used."""
        with self._uses_lock:
            self._uses[key] = time.time()
            held_s = time.monotonic() - self._uses_since_s
            if len(self._uses) < _USES_HELD and held_s < _USES_HELD_S:
                return
        try:
            self._write_uses()
        except peewee.PeeweeException as error:
            _log.warning("event=rendition-uses-not-written error=%s", error)

    def added(self, size_bytes: int) -> None:
        """A rendition was kept: where there is too much now, a few of the oldest go."""
        with self._freeing:
            self._held_bytes += _cost(size_bytes)
            if self._uncounted_bytes is not None:
                self._uncounted_bytes += _cost(size_bytes)
            self._free_some()

    def free(self) -> None:
        """Let go of all that is too much, as after `max_bytes` was made less."""
        with self._freeing:
            self._uncounted_bytes = None
            while self._free_some():
                pass

    def _free_some(self) -> bool:
        """Whether anything was let go."""
        if self._uncounted_bytes is None or self._uncounted_bytes > self._max_bytes * _COUNTED_ANEW:
            cost = peewee.fn.SUM(Rendition.size_bytes) + peewee.fn.COUNT(Rendition.key) * _LEAST_BYTES
            self._held_bytes = int(Rendition.select(cost).scalar(self._db) or 0)
            self._uncounted_bytes = 0
        if self._held_bytes <= self._max_bytes:
            return False
        self._write_uses()
        rows, too_much = [], self._held_bytes - int(self._max_bytes * _FREED_TO)
        oldest = Rendition.select().order_by(Rendition.used_at_s).limit(_AT_ONCE)
        for row in oldest.dicts().execute(self._db):
            if too_much <= 0:
                break
            rows.append(row)
            too_much -= _cost(row["size_bytes"])
        self._drop(rows)
        self._held_bytes -= sum(_cost(row["size_bytes"]) for row in rows)
        return bool(rows)

    def _write_uses(self) -> None:
        with self._uses_lock:
            uses, self._uses = self._uses, {}
            self._uses_since_s = time.monotonic()
        if uses:
            with self._db.writing():
                for key, used_at_s in uses.items():
                    _USED.run(self._db, key=key, used_at_s=used_at_s)


def _cost(size_bytes: int) -> int:
    return size_bytes + _LEAST_BYTES
