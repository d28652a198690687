"""What the disk has damaged or lost: how it is found in a file, and what becomes of the file's object.

Always true: what central does not have is never deleted for it, only taken out of the queue and kept for a person, and
its bytes count as safe no longer. What central has is freed: nothing is left to be kept for anybody. Whatever other
destinations were still owed is set aside. All of that is one durable transaction; a crash behind it leaves a file in
the wrong folder, or one that is freed, and recovery ends both.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final

from contract.identifiers import ObjectId
from edge.buffer.errors import UnknownObjectError
from edge.buffer.files import Place, SpoolFiles
from edge.buffer.index import SpoolIndex
from edge.buffer.label import UnlabelledError, is_sound, read_label
from edge.buffer.lock import SpoolLock
from edge.buffer.records import SealedRow
from edge.buffer.states import CONDEMN, FREED_IF_LOST, State, Step
from edge.buffer.tables import utc_text

DAMAGE_ERRNOS: Final = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})
MISSING: Final = "the sealed file is missing"

_FIND_SEALED: Final = """
    SELECT sequence, object_id, state, stored_bytes, sha256, sop_instance_uid, calling_ae_title
    FROM objects INDEXED BY live_by_sequence
    WHERE freed_at_utc IS NULL AND NOT damaged AND sequence > ? ORDER BY sequence LIMIT ?
"""
_SET_DELIVERIES_ASIDE: Final = """
    UPDATE deliveries SET state = 'set-aside', last_error = ? WHERE object_id = ? AND state = 'waiting'
"""


def find_damage(file: BinaryIO, row: SealedRow) -> str | None:
    """Read a sealed file and compare it with label and row; None if it is as it was written.

    Raises
    ------
    UnlabelledError : a file of an older program, which has no label to compare with.
    OSError : it could not be read, for a reason that is not the disk's.
    """
    try:
        if file.seek(0, os.SEEK_END) == row.stored_bytes or not row.sha256:
            raise UnlabelledError("the file has no label")
        try:
            found = read_label(file)
        except UnlabelledError as error:
            return str(error)
        label = found.label
        if (label.object_id, label.stored_bytes, label.sha256) != (
            row.object_id,
            row.stored_bytes,
            row.sha256,
        ):
            return "the file is another object's"
        return None if is_sound(file, found) else "the disk has changed the file's bytes"
    except OSError as error:
        if error.errno not in DAMAGE_ERRNOS:
            raise
        return f"the disk cannot read the file ({errno.errorcode[error.errno]})"


def sealed_row(row: dict[str, Any]) -> SealedRow:
    """The part of a row that a sealed file can be compared with."""
    return SealedRow(
        sequence=row["sequence"],
        object_id=ObjectId(row["object_id"]),
        state=State(row["state"]),
        stored_bytes=row["stored_bytes"],
        sha256=row["sha256"],
        sop_instance_uid=row["sop_instance_uid"],
        calling_ae_title=row["calling_ae_title"],
    )


def lose(
    index: SpoolIndex, object_ids: Collection[ObjectId], *, reason: str
) -> tuple[list[ObjectId], list[ObjectId]]:
    """Files of these rows are gone: those that central has are freed, others condemned; which were which."""
    freed, condemned = [], []
    with index.transaction():
        for object_id in object_ids:
            row = index.find(object_id)
            if row is None:
                raise UnknownObjectError(object_id)
            if row["damaged"] and row["state"] not in FREED_IF_LOST:
                _set_deliveries_aside(index, object_id, reason)
            elif _give_up(index, object_id, State(row["state"]), reason) is CONDEMN:
                condemned.append(object_id)
            else:
                freed.append(object_id)
    return freed, condemned


def _give_up(index: SpoolIndex, object_id: ObjectId, state: State, reason: str) -> Step:
    """What central has is freed, anything else condemned; which of them. Inside a transaction."""
    step = FREED_IF_LOST.get(state, CONDEMN)
    if step is CONDEMN:
        index.step_within(object_id, step, damaged=True, last_error=reason)
    else:
        index.step_within(object_id, step, freed_at_utc=utc_text(datetime.now(UTC)))
    _set_deliveries_aside(index, object_id, reason)
    return step


def _set_deliveries_aside(index: SpoolIndex, object_id: ObjectId, reason: str) -> None:
    index.execute(_SET_DELIVERIES_ASIDE, (reason, object_id))


class Inspection:
    """What the scrub reads and condemns. Safe from any thread."""

    def __init__(self, lock: SpoolLock, index: SpoolIndex, files: SpoolFiles) -> None:
        self._lock = lock
        self._index = index
        self._files = files

    def sealed_after(self, sequence: int, *, limit: int) -> list[SealedRow]:
        """Objects with a file that counts as sound, in the order they came, from behind `sequence`."""
        with self._lock.held():
            rows = self._index.execute(_FIND_SEALED, (sequence, limit)).fetchall()
        return [
            SealedRow(at, ObjectId(object_id), State(state), *rest) for at, object_id, state, *rest in rows
        ]

    def last_sequence(self) -> int:
        """The newest object's place in the order."""
        with self._lock.held():
            return self._index.last_sequence()

    def open_file(self, object_id: ObjectId) -> BinaryIO | None:
        """The whole file, label and all; None if it is not here."""
        with self._lock.held():
            return self._files.open_file(object_id)

    def condemn(self, object_id: ObjectId, reason: str) -> State | None:
        """The disk has damaged or lost an object's file: nobody can be sent it any more; its new state.

        None where nothing was to be done: it was freed meanwhile, or is being sent, and then central finds out.
        What central has is freed; anything else is kept for a person.
        """
        with self._lock.held():
            row = self._index.find(object_id)
            state = State(row["state"]) if row else State.FREED
            if state not in (*FREED_IF_LOST, *CONDEMN.from_states):
                return None
            with self._index.transaction():
                step = _give_up(self._index, object_id, state, reason)
            if step.to is State.FREED:
                self._files.unlink_freed(object_id)
            elif self._files.place_of(object_id) is not None:
                self._files.move(object_id, Place.QUARANTINE)
            return step.to
