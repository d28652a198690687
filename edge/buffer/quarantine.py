"""What waits for a person: what nobody could identify, and what central refuses or the disk has damaged.

Always true: only what no sender was told success for ever makes way here, oldest first, to keep it within its bound;
what was damaged goes back into the queue only after it was read again and found sound. A crash leaves a file in the
folder of its former state; recovery moves it.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

from contract.identifiers import ObjectId
from edge.buffer.damage import find_damage, sealed_row
from edge.buffer.errors import UnknownObjectError, WrongStateError
from edge.buffer.files import Place, SpoolFiles
from edge.buffer.index import SpoolIndex
from edge.buffer.label import BLOCK_BYTES, Label
from edge.buffer.lock import SpoolLock
from edge.buffer.new_rows import NewRow, NewRows
from edge.buffer.states import EVICT, REQUEUE
from edge.buffer.tables import utc_text

MAX_FILES: Final = 10_000
"""Kept of what no sender was told success for, however small each is."""

_LABEL_BYTES: Final = 1024  # about, behind the sealed bytes
_EVICTED_AT_ONCE: Final = 64
_REFUSED: Final = """
    SELECT object_id FROM objects INDEXED BY live_by_state
    WHERE freed_at_utc IS NULL AND state = 'quarantined' AND success_answered AND NOT damaged AND sha256 <> ''
"""
# The conditions stand in the text because SQLite must see that the partial index covers them.
_UNANSWERED: Final = """
    SELECT object_id, stored_bytes FROM objects INDEXED BY unanswered_by_sequence
    WHERE state = 'quarantined' AND NOT success_answered
"""
_OLDEST: Final = f"{_UNANSWERED} ORDER BY sequence LIMIT ?"
_LOG = logging.getLogger(__name__)


class _Kept(NamedTuple):
    """How much is kept of what no sender was told success for, in whole blocks as the disk has it."""

    files: int = 0
    taken_bytes: int = 0

    def plus(self, stored_bytes: int, files: int = 1) -> _Kept:
        blocks = -(-(stored_bytes + _LABEL_BYTES) // BLOCK_BYTES)
        return _Kept(self.files + files, self.taken_bytes + files * blocks * BLOCK_BYTES)


class Quarantine:
    """Safe from any thread.

    Parameters
    ----------
    max_bytes : bound on what is kept of instances no sender was told success for.
    """

    def __init__(
        self, lock: SpoolLock, index: SpoolIndex, files: SpoolFiles, rows: NewRows, *, max_bytes: int
    ) -> None:
        self._lock = lock
        self._index = index
        self._files = files
        self._rows = rows
        self._max_bytes = max_bytes
        # Added up once, before the first is taken; then only `take` changes it.
        self._kept: _Kept | None = None

    def take(self, label: Label) -> None:
        """For `Reception`: move a durable file here, commit its row, keep quarantine in bounds."""
        with self._lock.held():
            self._files.move(label.object_id, Place.QUARANTINE)
            before = self._kept or self._add_up()
            with self._index.transaction():
                self._rows.insert([NewRow(label, success_answered=False)])
                kept, evicted = self._evict(before.plus(label.stored_bytes))
            self._kept = kept
            for gone in evicted:
                self._files.unlink_freed(gone)
                _LOG.warning("evicted from quarantine", extra={"object_id": gone})

    def _add_up(self) -> _Kept:
        kept = _Kept()
        for _, stored_bytes in self._index.execute(_UNANSWERED, ()):
            kept = kept.plus(stored_bytes)
        return kept

    def _evict(self, kept: _Kept) -> tuple[_Kept, list[ObjectId]]:
        """Free the oldest of what no sender was told success for, until the rest is within its bounds."""
        evicted: list[ObjectId] = []
        while self._is_too_much(kept):
            oldest = self._index.execute(_OLDEST, (_EVICTED_AT_ONCE,)).fetchall()
            if not oldest:
                break
            for object_id, stored_bytes in oldest:
                if not self._is_too_much(kept):
                    break
                self._index.step_within(ObjectId(object_id), EVICT, freed_at_utc=utc_text(datetime.now(UTC)))
                evicted.append(ObjectId(object_id))
                kept = kept.plus(stored_bytes, files=-1)
        return kept, evicted

    def _is_too_much(self, kept: _Kept) -> bool:
        return kept.files > MAX_FILES or kept.taken_bytes > self._max_bytes

    def requeue(self, object_id: ObjectId) -> None:
        """Put an object that was acknowledged to its sender back into the queue, due at once.

        One that was found damaged is read again first, in the caller's time.

        Raises
        ------
        UnknownObjectError : there is no such object, or its file is missing.
        WrongStateError : not in quarantine, never acknowledged, never identified, or damaged.
        """
        with self._lock.held():
            row = self._index.find(object_id)
            if row is not None and not row["sha256"]:
                raise WrongStateError(object_id, step=REQUEUE.name, found="a file the index does not know")
            file = self._files.open_file(object_id) if row else None
        if row is None or file is None:
            raise UnknownObjectError(object_id)
        with file:
            damage = find_damage(file, sealed_row(row)) if row["damaged"] else None
        if damage is not None:
            raise WrongStateError(object_id, step=REQUEUE.name, found=f"damaged: {damage}")
        with self._lock.held():
            self._index.step(object_id, REQUEUE, due_s=0.0, attempts=0, damaged=False)
            self._files.move(object_id, Place.OBJECTS)
            self._lock.changed.notify_all()

    def requeue_all(self) -> int:
        """The same of all that central refused; how many. What was found damaged stays, to be read again one by one."""
        with self._lock.held():
            found = [ObjectId(one) for (one,) in self._index.execute(_REFUSED, ()).fetchall()]
        for object_id in found:
            with suppress(UnknownObjectError, WrongStateError):  # it has gone on meanwhile
                self.requeue(object_id)
        return len(found)
