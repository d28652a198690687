"""What waits for a person: what nobody could identify, and what central refuses or the disk has damaged.

Always true: only what no sender was told success for ever makes way here, oldest first, to keep it within its bound;
what was damaged goes back into the queue only after it was read again and found sound. A crash leaves a file in the
folder of its former state; recovery moves it.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from contract.identifiers import ObjectId
from edge.buffer.damage import find_damage, sealed_row
from edge.buffer.errors import UnknownObjectError, WrongStateError
from edge.buffer.files import Place, SpoolFiles
from edge.buffer.index import LIVE, SpoolIndex
from edge.buffer.label import Label
from edge.buffer.lock import SpoolLock
from edge.buffer.new_rows import NewRow, NewRows
from edge.buffer.states import EVICT, REQUEUE
from edge.buffer.tables import SpoolObject, utc_text

_REFUSED: Final = """
    SELECT object_id FROM objects INDEXED BY live_by_state
    WHERE freed_at_utc IS NULL AND state = 'quarantined' AND success_answered AND NOT damaged AND sha256 <> ''
"""
_LOG = logging.getLogger(__name__)


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

    def take(self, label: Label) -> None:
        """For `Reception`: move a durable file here, commit its row, keep quarantine in bounds."""
        with self._lock.held():
            self._files.move(label.object_id, Place.QUARANTINE)
            with self._index.transaction():
                self._rows.insert([NewRow(label, success_answered=False)])
                evicted = self._evict()
            for gone in evicted:
                self._files.unlink_freed(gone)
                _LOG.warning("evicted from quarantine", extra={"object_id": gone})

    def _evict(self) -> list[ObjectId]:
        """Free the oldest of what no sender was told success for, until the rest is within the bound."""
        rows = (
            SpoolObject.select(SpoolObject.object_id, SpoolObject.stored_bytes)
            .where(
                LIVE,
                SpoolObject.state.in_(EVICT.from_states),
                SpoolObject.success_answered == EVICT.answered,
            )
            .order_by(SpoolObject.sequence)
            .tuples()
        )
        kept = list(rows.execute(self._index.db))
        held_bytes = sum(stored_bytes for _, stored_bytes in kept)
        evicted: list[ObjectId] = []
        for object_id, stored_bytes in kept:
            if held_bytes <= self._max_bytes:
                break
            self._index.step_within(ObjectId(object_id), EVICT, freed_at_utc=utc_text(datetime.now(UTC)))
            evicted.append(ObjectId(object_id))
            held_bytes -= stored_bytes
        return evicted

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
