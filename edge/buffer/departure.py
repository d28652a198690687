"""What becomes of an object that central has: it stays for whom it is owed to, or for the site, or it goes.

Always true: its receipt is durable before any of this, and while a destination beside central still waits for it, its
file stays. A crash between the receipt and the rest leaves `acknowledged` or `owed` where the deliveries say otherwise;
recovery goes on with it (`mend_owed`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from contract.identifiers import ObjectId
from edge.buffer.index import SpoolIndex
from edge.buffer.states import REPLACE
from edge.buffer.tables import utc_text

_IS_OWED: Final = "SELECT 1 FROM deliveries WHERE object_id = ? AND state IN ('waiting', 'set-aside') LIMIT 1"
_OWED_WITH_NOTHING_OPEN: Final = """
    UPDATE objects SET state = 'acknowledged' WHERE freed_at_utc IS NULL AND state = 'owed' AND NOT EXISTS (
        SELECT 1 FROM deliveries AS d WHERE d.object_id = objects.object_id AND d.state IN ('waiting', 'set-aside'))
"""
_ACKNOWLEDGED_WITH_SOME_OPEN: Final = """
    UPDATE objects SET state = 'owed' WHERE freed_at_utc IS NULL AND state = 'acknowledged' AND EXISTS (
        SELECT 1 FROM deliveries AS d WHERE d.object_id = objects.object_id AND d.state IN ('waiting', 'set-aside'))
"""
_FIND_DAMAGED_TWINS: Final = """
    SELECT twin.object_id FROM objects AS twin JOIN objects AS one USING (sop_instance_uid, sha256)
    WHERE one.object_id = ? AND twin.freed_at_utc IS NULL AND twin.damaged
"""
_FORGET_OPEN: Final = "DELETE FROM deliveries WHERE object_id = ? AND state IN ('waiting', 'set-aside')"
_FIND_LOST_TWINS: Final = """
    SELECT twin.object_id FROM objects AS one, objects AS twin INDEXED BY lost_by_instance
    WHERE one.object_id = ? AND twin.state = 'lost' AND twin.sop_instance_uid = one.sop_instance_uid
"""


def is_owed(index: SpoolIndex, object_id: ObjectId) -> bool:
    """Whether a destination beside central still waits for it, or has set it aside."""
    return index.execute(_IS_OWED, (object_id,)).fetchone() is not None


def mend_owed(index: SpoolIndex) -> None:
    """Bring `owed` and `acknowledged` into agreement with the deliveries. Inside a transaction."""
    index.execute(_OWED_WITH_NOTHING_OPEN, ())
    index.execute(_ACKNOWLEDGED_WITH_SOME_OPEN, ())


def replace_damaged_twins(index: SpoolIndex, object_id: ObjectId) -> list[ObjectId]:
    """Free damaged objects of the same instance and the same bytes; whom they were owed to gets them from this one."""
    twins = [ObjectId(found) for (found,) in index.execute(_FIND_DAMAGED_TWINS, (object_id,))]
    for twin in twins:
        with index.transaction(durable=False):
            index.execute(_FORGET_OPEN, (twin,))
            index.step_within(twin, REPLACE, freed_at_utc=utc_text(datetime.now(UTC)))
    return twins


def forget_lost_twins(index: SpoolIndex, object_id: ObjectId) -> None:
    """Central has this instance again, whose loss was listed under another object."""
    lost = [found for (found,) in index.execute(_FIND_LOST_TWINS, (object_id,))]
    if not lost:
        return
    with index.transaction(durable=False):
        for one in lost:
            index.execute("DELETE FROM deliveries WHERE object_id = ?", (one,))
            index.execute("DELETE FROM objects WHERE object_id = ? AND state = 'lost'", (one,))
