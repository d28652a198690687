"""What waits for a person: what nobody could identify, and what central refuses or the disk has damaged.

Always true: only what no sender was told success for ever makes way here, oldest first, to keep it within its bound.
"""

from __future__ import annotations

from datetime import UTC, datetime

from contract.identifiers import ObjectId
from edge.buffer.index import LIVE, SpoolIndex
from edge.buffer.states import EVICT
from edge.buffer.tables import SpoolObject, utc_text


def evict(index: SpoolIndex, *, max_bytes: int) -> list[ObjectId]:
    """Free the oldest of what no sender was told success for, until the rest is within `max_bytes`.

    To be called inside a transaction; the caller unlinks the files after it.
    """
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
    kept = list(rows.execute(index.db))
    held_bytes = sum(stored_bytes for _, stored_bytes in kept)
    evicted: list[ObjectId] = []
    for object_id, stored_bytes in kept:
        if held_bytes <= max_bytes:
            break
        index.step_within(ObjectId(object_id), EVICT, freed_at_utc=utc_text(datetime.now(UTC)))
        evicted.append(ObjectId(object_id))
        held_bytes -= stored_bytes
    return evicted
