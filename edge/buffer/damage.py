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
from edge.buffer.index import SpoolIndex
from edge.buffer.label import UnlabelledError, is_sound, read_label
from edge.buffer.records import SealedRow
from edge.buffer.states import CONDEMN, FREE, FREED_IF_LOST, State, Step
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


def sealed_after(index: SpoolIndex, sequence: int, *, limit: int) -> list[SealedRow]:
    """Objects with a file that counts as sound, in the order they came, from behind `sequence`."""
    return [
        SealedRow(at, ObjectId(object_id), State(state), *rest)
        for at, object_id, state, *rest in index.execute(_FIND_SEALED, (sequence, limit))
    ]


def condemn(index: SpoolIndex, object_id: ObjectId, state: State, reason: str) -> Step:
    """The file of an object in `state` is damaged or lost; nobody can be sent it any more."""
    step = FREED_IF_LOST.get(state, CONDEMN)
    values: dict[str, Any] = {"damaged": True, "last_error": reason}
    if step is not CONDEMN:
        values = {"freed_at_utc": utc_text(datetime.now(UTC))}
    with index.transaction():
        index.step_within(object_id, step, **values)
        index.execute(_SET_DELIVERIES_ASIDE, (reason, object_id))
    return step


def lose(
    index: SpoolIndex, object_ids: Collection[ObjectId], *, reason: str
) -> tuple[list[ObjectId], list[ObjectId]]:
    """Files of these rows are gone: those that central has are freed, others condemned; which were which."""
    freed, condemned = [], []
    now = utc_text(datetime.now(UTC))
    with index.transaction():
        for object_id in object_ids:
            row = index.find(object_id)
            if row is None or row["state"] in FREED_IF_LOST:
                index.step_within(object_id, FREED_IF_LOST[row["state"]] if row else FREE, freed_at_utc=now)
                freed.append(object_id)
            elif not row["damaged"]:
                index.step_within(object_id, CONDEMN, damaged=True, last_error=reason)
                condemned.append(object_id)
            index.execute(_SET_DELIVERIES_ASIDE, (reason, object_id))
    return freed, condemned
