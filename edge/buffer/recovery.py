"""Start-up: bring folders and index back into agreement, whatever instruction the last life ended at.

The row says where an object is; files follow it. A file no row knows was, with a healthy index, never
acknowledged (the row comes before the answer) and goes to quarantine as such. Where the index itself was lost,
its files may have been acknowledged, so they are kept as such for a person: nothing is deleted on a guess.
Running it twice changes nothing more, so a crash during recovery is repaired by the next one.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

from peewee import DatabaseError

from edge.buffer.errors import StorageFailedError
from edge.buffer.files import Place, SpoolFiles
from edge.buffer.index import SpoolIndex
from edge.buffer.records import RecoveryReport
from edge.buffer.states import ACKNOWLEDGE, FREE, RELEASE, State
from edge.buffer.tables import SpoolObject, utc_text

_LOG = logging.getLogger(__name__)


def open_index(path: Path, *, reserve_bytes: int) -> tuple[SpoolIndex, bool]:
    """The index at `path`; True beside it if it was unreadable, has been put aside and begun anew."""
    try:
        return SpoolIndex(path, reserve_bytes=reserve_bytes), False
    except DatabaseError as error:
        if "locked" in str(error) or "unable to open" in str(error):
            raise StorageFailedError(OSError(5, str(error))) from error
        aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)  # they belong to the damaged file alone
        path.rename(aside)
        _LOG.error("the spool's index is damaged; begun anew", extra={"kept_as": aside.name})
        return SpoolIndex(path, reserve_bytes=reserve_bytes), True


def recover(
    files: SpoolFiles, index: SpoolIndex, *, index_is_new: bool, index_rebuilt: bool
) -> RecoveryReport:
    """Repair, and say what was found.

    Parameters
    ----------
    index_is_new : no index was there, or it could not be read: unknown files may have been acknowledged.
    """
    torn = files.sweep_incoming()
    with index.transaction():
        leases = _move_all(index, State.SENDING, RELEASE.to)
        freed = _move_all(index, ACKNOWLEDGE.to, FREE.to, freed_at_utc=utc_text(datetime.now(UTC)))
        SpoolObject.update(due_s=0.0).where(SpoolObject.due_s != 0.0).execute(index.db)
    live = index.live_states()
    moved = unlinked = adopted = 0
    found = list(files.sealed_files())  # a list: moving while scanning could show a file twice
    for object_id, _, stored_bytes in found:
        state = live.pop(object_id, None)
        if state is not None:
            moved += files.move(object_id, _place_of(state))
        elif index.find(object_id) is not None:  # freed: the crash came before the unlink
            unlinked += files.unlink(object_id)
        else:
            files.move(object_id, Place.QUARANTINE)
            with index.transaction():
                index.insert(
                    object_id,
                    state=State.QUARANTINED,
                    success_answered=index_is_new,
                    origin=None,
                    identity=None,
                    sha256=None,
                    size_bytes=0,
                    stored_bytes=stored_bytes,
                    last_error="the index did not know this file at start-up",
                )
            adopted += 1
    missing = 0
    for object_id, state in live.items():
        if state is not State.QUARANTINED:
            # Cannot happen by a crash; a person or a broken disk took the file. Out of the queue, and loud.
            with index.transaction():
                SpoolObject.update(state=State.QUARANTINED, last_error="the sealed file is missing").where(
                    SpoolObject.object_id == object_id
                ).execute(index.db)
            _LOG.error("a sealed file is missing", extra={"object_id": object_id})
        missing += 1
    return RecoveryReport(
        torn_files=torn,
        leases_dropped=leases,
        frees_finished=max(freed, unlinked),
        files_moved=moved,
        files_set_aside=adopted,
        files_missing=missing,
        index_rebuilt=index_rebuilt,
    )


def _move_all(index: SpoolIndex, found: State, to: State, **values: str) -> int:
    changed: int = SpoolObject.update(state=to, **values).where(SpoolObject.state == found).execute(index.db)
    return changed


def _place_of(state: State) -> Place:
    return Place.QUARANTINE if state is State.QUARANTINED else Place.OBJECTS
