"""What the index tells pages, status and heartbeat of what is here: questions alone, no step.

Always true: no question goes through the receipts of a month, which outnumber what waits by far; each names a partial
index of the live rows, or is bounded. Callers hold the spool's lock.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import datetime
from typing import Any

from contract.identifiers import ObjectId
from contract.priority import Priority
from edge.buffer.index import LIVE, SpoolIndex
from edge.buffer.records import ObjectRow, ReceivedRow, Tally
from edge.buffer.states import UNFREED, State
from edge.buffer.tables import SpoolObject, utc_from_text

_TALLIES = """
    SELECT state, COUNT(*), SUM(stored_bytes) FROM objects INDEXED BY live_by_state
    WHERE freed_at_utc IS NULL GROUP BY state
"""
# Left alone, SQLite searches by state and sorts the whole backlog.
_OLDEST_UNSENT = """
    SELECT received_at_utc FROM objects INDEXED BY live_by_sequence
    WHERE freed_at_utc IS NULL AND state IN ('ready', 'sending') ORDER BY sequence LIMIT 1
"""
_FIND_NEWEST = """
    SELECT sequence FROM objects INDEXED BY live_by_sequence
    WHERE freed_at_utc IS NULL AND received_at_utc >= ? ORDER BY sequence DESC LIMIT 1 OFFSET ?
"""
_FIND_RECEIVED = """
    SELECT sequence, calling_ae_title, study_instance_uid, series_instance_uid, sop_instance_uid
    FROM objects INDEXED BY live_by_sequence
    WHERE freed_at_utc IS NULL AND sequence > ? AND received_at_utc >= ? ORDER BY sequence LIMIT ?
"""


def tallies(index: SpoolIndex) -> dict[State, Tally]:
    """Objects and bytes of every live state, zeros included."""
    found = dict.fromkeys(UNFREED, Tally(0, 0))
    for state, objects, stored_bytes in index.execute(_TALLIES, ()):
        found[State(state)] = Tally(objects, stored_bytes)
    return found


def retained_bytes(index: SpoolIndex) -> int:
    """Room that what is retained takes on the disk."""
    question = """
        SELECT SUM(stored_bytes) FROM objects INDEXED BY live_by_state
        WHERE freed_at_utc IS NULL AND state = 'retained'
    """
    return index.execute(question, ()).fetchone()[0] or 0


def oldest_unsent_at_utc(index: SpoolIndex) -> datetime | None:
    found = index.execute(_OLDEST_UNSENT, ()).fetchone()
    return None if found is None else utc_from_text(found[0])


def object_rows(index: SpoolIndex, *, states: Collection[State], limit: int) -> list[ObjectRow]:
    """Oldest first."""
    now_s = time.monotonic()
    wanted = SpoolObject.select().where(SpoolObject.state.in_(list(states)))
    if State.FREED not in states:
        wanted = wanted.where(LIVE)
    found = wanted.order_by(SpoolObject.sequence).limit(limit).dicts().execute(index.db)
    return [_object_row(row, now_s) for row in found]


def newest_received_behind(index: SpoolIndex, since_utc: str, count: int) -> int:
    """The place in the order behind which the newest `count` lie of what `received_since` gives; 0: all do."""
    found = index.execute(_FIND_NEWEST, (since_utc, count)).fetchone()
    return 0 if found is None else int(found[0])


def received_since(index: SpoolIndex, since_utc: str, *, after: int, limit: int) -> list[ReceivedRow]:
    """What is still here of what came in since then ("": ever), in the order it came, from behind `after`."""
    return [ReceivedRow(*row) for row in index.execute(_FIND_RECEIVED, (after, since_utc, limit))]


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
