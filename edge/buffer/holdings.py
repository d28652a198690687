"""What the spool holds: bytes, lists and numbers for pages, status, heartbeat, queries and Storage Commitment.

Always true: no step is taken here, and no question goes through the receipts of a month, which outnumber what waits by
far; each names a partial index of the live rows, or is bounded.
"""

from __future__ import annotations

import io
import time
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, BinaryIO, Final

from contract.identifiers import ObjectId
from contract.priority import Priority
from edge.buffer.errors import UnknownObjectError
from edge.buffer.files import SpoolFiles
from edge.buffer.index import LIVE, SpoolIndex
from edge.buffer.lock import SpoolLock
from edge.buffer.records import Depth, ObjectRow, Present, ReceivedRow, Tally
from edge.buffer.scanners import ScannerBook
from edge.buffer.sealed_file import SealedBytes
from edge.buffer.standing import Standing, standing
from edge.buffer.states import UNFREED, State
from edge.buffer.tables import SpoolObject, utc_from_text, utc_text

_TALLIES: Final = """
    SELECT state, COUNT(*), SUM(stored_bytes) FROM objects INDEXED BY live_by_state
    WHERE freed_at_utc IS NULL GROUP BY state
"""
# Left alone, SQLite searches by state and sorts the whole backlog.
_OLDEST_UNSENT: Final = """
    SELECT received_at_utc FROM objects INDEXED BY live_by_sequence
    WHERE freed_at_utc IS NULL AND state IN ('ready', 'sending') ORDER BY sequence LIMIT 1
"""
_FIND_NEWEST: Final = """
    SELECT sequence FROM objects INDEXED BY live_by_sequence
    WHERE freed_at_utc IS NULL AND received_at_utc >= ? ORDER BY sequence DESC LIMIT 1 OFFSET ?
"""
_FIND_RECEIVED: Final = """
    SELECT sequence, calling_ae_title, study_instance_uid, series_instance_uid, sop_instance_uid
    FROM objects INDEXED BY live_by_sequence
    WHERE freed_at_utc IS NULL AND sequence > ? AND received_at_utc >= ? ORDER BY sequence LIMIT ?
"""
_FIND_PRESENT: Final = """
    SELECT sequence, object_id, sop_class_uid, sop_instance_uid, study_instance_uid, series_instance_uid,
        transfer_syntax_uid
    FROM objects INDEXED BY live_by_sequence
    WHERE freed_at_utc IS NULL AND sop_instance_uid IS NOT NULL AND sequence > ? ORDER BY sequence LIMIT ?
"""
_READ_BYTES: Final = 1 << 17
_RESTORED_OBJECTS = 10_000
_RESTORED_AT_ONCE = 500


class Holdings:
    """Safe from any thread.

    Parameters
    ----------
    copies : destinations that are centrals: what they do not have is not at central.
    """

    def __init__(
        self,
        lock: SpoolLock,
        index: SpoolIndex,
        files: SpoolFiles,
        scanners: ScannerBook,
        copies: Collection[str],
    ) -> None:
        self._lock = lock
        self._index = index
        self._files = files
        self._scanners = scanners
        self._copies = copies

    def open_object(self, object_id: ObjectId) -> BinaryIO:
        """The sealed bytes, from the start. UnknownObjectError if they are not here."""
        with self._lock.held():
            row = self._index.find(object_id)
            file = self._files.open_file(object_id) if row else None
        if row is None or file is None:
            raise UnknownObjectError(object_id)
        return io.BufferedReader(SealedBytes(file, row["stored_bytes"]), _READ_BYTES)

    def depth(self) -> Depth:
        """How much is in which state. Cheap: reads live rows through one index."""
        with self._lock.held():
            return Depth(
                by_state=self._tallies(),
                received_since_open=self._scanners.received,
                oldest_unsent_at_utc=self._oldest_unsent_at_utc(),
                last_received_at_utc=self._scanners.last_store_at_utc(),
            )

    def _tallies(self) -> dict[State, Tally]:
        """Objects and bytes of every live state, zeros included."""
        found = dict.fromkeys(UNFREED, Tally(0, 0))
        for state, objects, stored_bytes in self._index.execute(_TALLIES, ()):
            found[State(state)] = Tally(objects, stored_bytes)
        return found

    def _oldest_unsent_at_utc(self) -> datetime | None:
        found = self._index.execute(_OLDEST_UNSENT, ()).fetchone()
        return None if found is None else utc_from_text(found[0])

    def list_objects(self, *, states: Collection[State], limit: int) -> list[ObjectRow]:
        """Objects in any of `states`, oldest first."""
        wanted = SpoolObject.select().where(SpoolObject.state.in_(list(states)))
        if State.FREED not in states:
            wanted = wanted.where(LIVE)
        with self._lock.held():
            found = wanted.order_by(SpoolObject.sequence).limit(limit).dicts().execute(self._index.db)
            now_s = time.monotonic()
            return [_object_row(row, now_s) for row in found]

    def received_since(self, moment: datetime | None) -> Iterator[ReceivedRow]:
        """What is still here of what came in since then (None: ever), the newest 10,000 of it, oldest first.

        A page at a time: a box that starts with a long queue must not hold it in memory.
        """
        since_utc = "" if moment is None else utc_text(moment)
        with self._lock.held():
            newest = self._index.execute(_FIND_NEWEST, (since_utc, _RESTORED_OBJECTS)).fetchone()
        after = 0 if newest is None else int(newest[0])
        while True:
            with self._lock.held():
                rows = self._index.execute(_FIND_RECEIVED, (after, since_utc, _RESTORED_AT_ONCE)).fetchall()
            page = [ReceivedRow(*row) for row in rows]
            yield from page
            if len(page) < _RESTORED_AT_ONCE:
                return
            after = page[-1].sequence

    def standing(self, sop_instance_uids: Collection[str]) -> Mapping[str, Standing]:
        """How safe these instances are; what is not in the answer is not here."""
        with self._lock.held():
            return standing(self._index, sop_instance_uids, self._copies)

    def present(self, *, after: int, limit: int) -> list[Present]:
        """Identified objects that are still here, behind sequence number `after`, in the order they came."""
        with self._lock.held():
            rows = self._index.execute(_FIND_PRESENT, (after, limit)).fetchall()
        return [Present(row[0], ObjectId(row[1]), *row[2:]) for row in rows]


def _object_row(row: dict[str, Any], now_s: float) -> ObjectRow:
    state = State(row["state"])
    waits = state is State.READY and row["due_s"] > now_s
    return ObjectRow(
        object_id=ObjectId(row["object_id"]),
        state=state,
        success_answered=row["success_answered"],
        sop_instance_uid=row["sop_instance_uid"],
        study_instance_uid=row["study_instance_uid"],
        series_instance_uid=row["series_instance_uid"],
        modality=row["modality"],
        transfer_syntax_uid=row["transfer_syntax_uid"],
        calling_ae_title=row["calling_ae_title"],
        peer_address=row["peer_address"],
        size_bytes=row["size_bytes"],
        stored_bytes=row["stored_bytes"],
        received_at_utc=utc_from_text(row["received_at_utc"]),
        attempts=row["attempts"],
        next_attempt_in_s=row["due_s"] - now_s if waits else None,
        last_error=row["last_error"],
        has_receipt=row["receipt"] is not None,
        freed_at_utc=row["freed_at_utc"] and utc_from_text(row["freed_at_utc"]),
        damaged=row["damaged"],
        priority=_priority(row["priority"]),
    )


def _priority(number: int) -> Priority:
    """Of another version's numbers the nearest."""
    return Priority(max(min(Priority), min(number, max(Priority))))
