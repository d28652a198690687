"""Start-up: bring folders and index back into agreement, whatever instruction the last life ended at.

The row says where an object is; files follow it. A file no row knows tells by its label what it is: a sound one was
written to its end and may have been acknowledged, so its row is made again and it goes its way; one without a label
was cut off on its way in, nobody was told that it is safe, and it is swept. What is neither (a label that does not
fit its bytes) is kept for a person: nothing that may have been acknowledged is deleted on a guess. Running it twice
changes nothing more, so a crash during recovery is repaired by the next one.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path
from typing import Final

from peewee import DatabaseError

from contract.identifiers import ObjectId
from edge.buffer.files import SHARDS, Place, SpoolFiles
from edge.buffer.index import LIVE, Rank, Route, SpoolIndex
from edge.buffer.label import Label, UnlabelledError, is_sound, read_label
from edge.buffer.records import Origin, RecoveryReport
from edge.buffer.sqlite_errors import is_damage, sqlite_error
from edge.buffer.states import FREE, RELEASE, State
from edge.buffer.tables import DeliveryRow, SpoolObject, utc_text

VERIFIED_AT_START_BYTES = 512 << 20
"""How much is read to compare files with their labels before the box opens; the scrub reads the rest."""

_LOG = logging.getLogger(__name__)


def open_index(path: Path, *, reserve_bytes: int, route: Route, rank: Rank) -> tuple[SpoolIndex, bool]:
    """The index at `path`; True beside it if it was damaged, has been put aside and begun anew.

    Raises
    ------
    DiskFullError, StorageFailedError : it cannot be read or written now; nothing says that it is damaged.
    """
    try:
        return SpoolIndex(path, reserve_bytes=reserve_bytes, route=route, rank=rank), False
    except DatabaseError as error:
        if not is_damage(error):
            raise sqlite_error(error, reserve_bytes=reserve_bytes) from error
        aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)  # they belong to the damaged file alone
        path.rename(aside)
        _LOG.error("the spool's index is damaged; begun anew", extra={"kept_as": aside.name})
        try:
            return SpoolIndex(path, reserve_bytes=reserve_bytes, route=route, rank=rank), True
        except DatabaseError as again:
            raise sqlite_error(again, reserve_bytes=reserve_bytes) from again


def recover(
    files: SpoolFiles, index: SpoolIndex, *, index_is_new: bool, index_rebuilt: bool
) -> RecoveryReport:
    """Repair, and say what was found.

    Parameters
    ----------
    index_is_new : no index was there, or it could not be read: unknown files may have been acknowledged.
    """
    with index.transaction():
        leases = _move_all(index, State.SENDING, RELEASE.to)
        index.mend_owed()
        freed = _move_all(index, State.ACKNOWLEDGED, FREE.to, freed_at_utc=utc_text(datetime.now(UTC)))
        SpoolObject.update(due_s=0.0).where(LIVE, SpoolObject.due_s != 0.0).execute(index.db)
        DeliveryRow.update(due_s=0.0).where(DeliveryRow.due_s != 0.0).execute(index.db)
    compared = _compare(files, index)
    moved = sum(files.move(object_id, to) for object_id, to in compared.misplaced)
    taken = _take_in(compared.strangers, files, index, index_is_new=index_is_new)
    # Freed: a power cut took the row's last step, which is not synced, but not the unlink behind it. The rest cannot
    # happen by a crash; a person or a broken disk took the file. Out of the queue, and loud.
    unlinked, lost = index.lose(compared.missing, reason="the sealed file is missing")
    for object_id in lost:
        _LOG.error("a sealed file is missing", extra={"object_id": object_id})
    return RecoveryReport(
        torn_files=taken.fates[_Fate.SWEPT],
        leases_dropped=leases,
        frees_finished=max(freed, taken.fates[_Fate.FREED]) + len(unlinked),
        files_moved=moved,
        files_adopted=taken.fates[_Fate.ADOPTED],
        files_set_aside=taken.fates[_Fate.SET_ASIDE],
        files_missing=len(compared.missing) - len(unlinked),
        index_rebuilt=index_rebuilt,
        unverified_from=taken.unverified_from,
    )


@dataclass(frozen=True)
class _Compared:
    """Where folders and rows differ: a handful, however many objects there are."""

    misplaced: list[tuple[ObjectId, Place]]
    strangers: list[ObjectId]
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
        compared.strangers.extend(queued)
    compared.strangers.extend(set_aside)
    return compared


class _RowsByShard:
    """Every live object and where its file should lie, seventeen bytes each."""

    _ROW_BYTES: Final = 17

    def __init__(self, index: SpoolIndex) -> None:
        self._packed = {shard: bytearray() for shard in SHARDS}
        for object_id, state in index.live_states():
            place = tuple(Place).index(_place_of(state))
            self._packed[object_id[:2]] += bytes.fromhex(object_id) + bytes((place,))

    def of(self, shard: str) -> Iterator[tuple[ObjectId, Place]]:
        packed = self._packed[shard]
        for at in range(0, len(packed), self._ROW_BYTES):
            *raw, place = packed[at : at + self._ROW_BYTES]
            yield ObjectId(bytes(raw).hex()), tuple(Place)[place]


class _Fate(Enum):
    """What becomes of a file that no live row knows."""

    KEPT = auto()  # lies in both folders
    FREED = auto()  # its row says so; the crash came before the unlink
    UNUSED = auto()  # a name kept ready for an instance that never came
    SWEPT = auto()  # cut off on its way in
    DOUBLE = auto()  # whole, but the same bytes are here under another id
    ADOPTED = auto()  # whole: its row is made again
    SET_ASIDE = auto()  # neither: for a person


@dataclass(frozen=True)
class _Taken:
    """What became of the strangers, and where in the order those begin that nobody has verified."""

    fates: Counter[_Fate]
    unverified_from: int


def _take_in(
    strangers: list[ObjectId], files: SpoolFiles, index: SpoolIndex, *, index_is_new: bool
) -> _Taken:
    fates: Counter[_Fate] = Counter()
    unverified_bytes = VERIFIED_AT_START_BYTES
    unverified_from = 0
    with index.transaction():
        for object_id in sorted(strangers, key=files.written_at_ns):  # the oldest goes first again
            size_bytes = files.size_of(object_id)
            verify = False
            freed = index.was_freed(object_id)
            if freed is not None:
                # A second name of a live object is not this program's doing; deleting by id would take both.
                fate = _Fate.FREED if freed else _Fate.KEPT
            elif not size_bytes:
                fate = _Fate.UNUSED
            else:
                unverified_bytes -= size_bytes
                verify = unverified_bytes >= 0
                fate = _read_in(object_id, size_bytes, files, index, verify=verify, index_is_new=index_is_new)
            if fate in (_Fate.FREED, _Fate.UNUSED, _Fate.SWEPT, _Fate.DOUBLE):
                files.unlink(object_id)
            elif fate is _Fate.ADOPTED and not verify and not unverified_from:
                unverified_from = index.last_sequence()
            fates[fate] += 1
    return _Taken(fates, unverified_from)


def _read_in(
    object_id: ObjectId,
    size_bytes: int,
    files: SpoolFiles,
    index: SpoolIndex,
    *,
    verify: bool,
    index_is_new: bool,
) -> _Fate:
    """Judge a file by its label, and make the row of one that is kept."""
    file = files.open_file(object_id)
    if file is None:
        return _Fate.UNUSED
    with file:
        try:
            found = read_label(file)
        except UnlabelledError:
            if not index_is_new:
                return _Fate.SWEPT
            reason = "a file without a label, from before the index was lost"
        else:
            label = found.label
            if label.object_id == object_id and (not verify or is_sound(file, found)):
                # Where it lies counts: it may have been set aside since the label was written.
                place = files.place_of(object_id)
                if label.identity and index.duplicate_of(label.identity.sop_instance_uid, label.sha256):
                    # Its row could not be written, its sender was told failure and sent it again.
                    return _Fate.DOUBLE
                if verify:
                    _make_durable(object_id, files)
                state = State.QUARANTINED if place is Place.QUARANTINE else label.state
                index.insert(label, success_answered=label.identity is not None, state=state)
                files.move(object_id, _place_of(state))
                return _Fate.ADOPTED
            reason = "the file's bytes do not fit its label"
            if label.object_id == object_id:
                # Never evicted, it may have been acknowledged; and whoever looks sees what to send again.
                files.move(object_id, Place.QUARANTINE)
                answered = label.identity is not None
                kept = replace(label, reason=reason)
                index.insert(kept, success_answered=answered, state=State.QUARANTINED)
                of_it = SpoolObject.object_id == object_id
                SpoolObject.update(damaged=True).where(of_it).execute(index.db)
                return _Fate.SET_ASIDE
    unknown = Label(object_id, Origin("", "", "", ""), None, "", 0, size_bytes, datetime.now(UTC), reason)
    files.move(object_id, Place.QUARANTINE)
    index.insert(unknown, success_answered=index_is_new)
    return _Fate.SET_ASIDE


def _make_durable(object_id: ObjectId, files: SpoolFiles) -> None:
    """Nothing tells whether the sync of a file without a row succeeded, or failed and its end was not seen."""
    try:
        files.write_anew(object_id)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # What may have been acknowledged is not given up for want of room; most likely it was durable.
        _LOG.warning("no room to write a file anew", extra={"object_id": object_id})


def _move_all(index: SpoolIndex, found: State, to: State, **values: str) -> int:
    # The rows of a month's receipts outnumber the live ones, and no index finds a state among them.
    of_these = (LIVE, SpoolObject.state == found)
    changed: int = SpoolObject.update(state=to, **values).where(*of_these).execute(index.db)
    return changed


def _place_of(state: State) -> Place:
    return Place.QUARANTINE if state is State.QUARANTINED else Place.OBJECTS
