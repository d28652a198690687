"""Start-up: bring folders and index back into agreement, whatever instruction the last life ended at.

The row says where an object is; files follow it. A file no row knows is judged by its label (`edge.buffer.strangers`).
Running it twice changes nothing more, so a crash during recovery is repaired by the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from peewee import DatabaseError

from contract.identifiers import ObjectId
from edge.buffer.damage import MISSING, lose
from edge.buffer.departure import mend_owed
from edge.buffer.files import SHARDS, Place, SpoolFiles
from edge.buffer.index import LIVE, SpoolIndex
from edge.buffer.new_rows import NewRows
from edge.buffer.records import RecoveryReport
from edge.buffer.sqlite_errors import is_damage, sqlite_error
from edge.buffer.states import FREE, RELEASE, State
from edge.buffer.strangers import Fate, place_of, take_in
from edge.buffer.tables import DeliveryRow, SpoolObject, utc_text

_LOG = logging.getLogger(__name__)


def open_index(path: Path, *, reserve_bytes: int) -> tuple[SpoolIndex, bool]:
    """The index at `path`; True beside it if it was damaged, has been put aside and begun anew.

    Raises
    ------
    DiskFullError, StorageFailedError : it cannot be read or written now; nothing says that it is damaged.
    """
    try:
        return SpoolIndex(path, reserve_bytes=reserve_bytes), False
    except DatabaseError as error:
        if not is_damage(error):
            raise sqlite_error(error, reserve_bytes=reserve_bytes) from error
        aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)  # they belong to the damaged file alone
        path.rename(aside)
        _LOG.error("the spool's index is damaged; begun anew", extra={"kept_as": aside.name})
        try:
            return SpoolIndex(path, reserve_bytes=reserve_bytes), True
        except DatabaseError as again:
            raise sqlite_error(again, reserve_bytes=reserve_bytes) from again


def recover(files: SpoolFiles, index: SpoolIndex, rows: NewRows, *, index_rebuilt: bool) -> RecoveryReport:
    """Repair, and say what was found.

    Parameters
    ----------
    index_rebuilt : it could not be read and was begun anew.
    """
    with index.transaction():
        leases = _move_all(index, State.SENDING, RELEASE.to)
        mend_owed(index)
        freed = _move_all(index, State.ACKNOWLEDGED, FREE.to, freed_at_utc=utc_text(datetime.now(UTC)))
        SpoolObject.update(due_s=0.0).where(LIVE, SpoolObject.due_s != 0.0).execute(index.db)
        DeliveryRow.update(due_s=0.0).where(DeliveryRow.due_s != 0.0).execute(index.db)
    compared = _compare(files, index)
    moved = sum(files.move(object_id, to) for object_id, to in compared.misplaced)
    # Freed: a power cut took the row's last step, which is not synced, but not the unlink behind it. The rest cannot
    # happen by a crash; a person or a broken disk took the file. Out of the queue, and loud. Before any stranger is
    # judged, so that none counts as the double of a file that is not there.
    unlinked, lost = lose(index, compared.missing, reason=MISSING)
    taken = take_in(compared.strangers, files, index, rows)
    for object_id in lost:
        _LOG.error("a sealed file is missing", extra={"object_id": object_id})
    if index.is_new:
        with index.transaction():
            index.note_complete()
    return RecoveryReport(
        torn_files=taken.fates[Fate.SWEPT],
        leases_dropped=leases,
        frees_finished=max(freed, taken.fates[Fate.FREED]) + len(unlinked),
        files_moved=moved,
        files_adopted=taken.fates[Fate.ADOPTED],
        files_set_aside=taken.fates[Fate.SET_ASIDE],
        files_missing=len(compared.missing) - len(unlinked),
        index_rebuilt=index_rebuilt,
        unverified_from=taken.unverified_from,
    )


@dataclass(frozen=True)
class _Compared:
    """Where folders and rows differ: a handful, however many objects there are."""

    misplaced: list[tuple[ObjectId, Place]]
    strangers: list[tuple[ObjectId, Place]]
    missing: list[ObjectId]


def _compare(files: SpoolFiles, index: SpoolIndex) -> _Compared:
    """Names only: no file is opened or asked for its size. Folder by folder, so that 100,000 cost two megabytes."""
    rows = _RowsByShard(index)
    set_aside = files.names_in(Place.QUARANTINE)
    # Moved and deleted later: doing it while a folder is read could show a file twice.
    compared = _Compared([], [], [])
    for shard in SHARDS:
        queued = files.names_in(Place.OBJECTS, shard)
        for object_id, place in rows.of(shard):
            here, other = (queued, set_aside) if place is Place.OBJECTS else (set_aside, queued)
            if object_id in here:
                here.discard(object_id)
            elif object_id in other:
                other.discard(object_id)
                compared.misplaced.append((object_id, place))
            else:
                compared.missing.append(object_id)
        compared.strangers.extend((object_id, Place.OBJECTS) for object_id in queued)
        set_aside -= queued
    compared.strangers.extend((object_id, Place.QUARANTINE) for object_id in set_aside)
    return compared


class _RowsByShard:
    """Every live object and where its file should lie, seventeen bytes each."""

    _ROW_BYTES: Final = 17

    def __init__(self, index: SpoolIndex) -> None:
        self._packed = {shard: bytearray() for shard in SHARDS}
        question = "SELECT object_id, state FROM objects WHERE freed_at_utc IS NULL"
        for object_id, state in index.execute(question, ()):
            place = tuple(Place).index(place_of(State(state)))
            self._packed[object_id[:2]] += bytes.fromhex(object_id) + bytes((place,))

    def of(self, shard: str) -> Iterator[tuple[ObjectId, Place]]:
        packed = self._packed[shard]
        for at in range(0, len(packed), self._ROW_BYTES):
            *raw, place = packed[at : at + self._ROW_BYTES]
            yield ObjectId(bytes(raw).hex()), tuple(Place)[place]


def _move_all(index: SpoolIndex, found: State, to: State, **values: str) -> int:
    # The rows of a month's receipts outnumber the live ones, and no index finds a state among them.
    of_these = (LIVE, SpoolObject.state == found)
    changed: int = SpoolObject.update(state=to, **values).where(*of_these).execute(index.db)
    return changed
