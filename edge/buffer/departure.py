"""What becomes of an object that central has: it stays for whom it is owed to, or for the site, or it goes.

Always true: its receipt is durable before any of this, and while a destination beside central still waits for it, its
file stays. What the disk does not take of the rest, because it is full, is made up for by `catch_up`. A crash between
the receipt and the rest leaves `acknowledged` or `owed` where the deliveries say otherwise; recovery goes on with it
(`mend_owed`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Final

from contract.identifiers import ObjectId
from edge.buffer.errors import TransientSpoolError
from edge.buffer.files import SpoolFiles
from edge.buffer.index import SpoolIndex
from edge.buffer.retention import Retained
from edge.buffer.room import DiskRoom
from edge.buffer.states import FREE, OWE, REPLACE, RETAIN, SETTLE, State
from edge.buffer.tables import utc_from_text, utc_text

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

_LOG = logging.getLogger(__name__)


class Departure:
    """Callers hold the spool's lock."""

    def __init__(self, index: SpoolIndex, files: SpoolFiles, room: DiskRoom, retained: Retained) -> None:
        self._index = index
        self._files = files
        self._room = room
        self._retained = retained
        self._late: dict[ObjectId, None] = {}  # what the disk did not take

    def let_go(self, object_ids: Collection[ObjectId]) -> None:
        """Central has these, durably, and with them what damaged or lost objects held of the same instances."""
        try:
            self._let_go(object_ids)
            for object_id in object_ids:
                self._end_twins(object_id)
        except TransientSpoolError as error:
            self._put_off(object_ids, error)

    def settle(self, object_ids: Collection[ObjectId]) -> None:
        """A delivery of each to another destination has ended, durably."""
        try:
            for object_id in object_ids:
                self._settle(object_id)
        except TransientSpoolError as error:
            self._put_off(object_ids, error)

    def catch_up(self) -> None:
        """Bring to its end what the disk did not take, before anything else is sent. TransientSpoolError: not yet."""
        for object_id in list(self._late):
            row = self._index.find(object_id)
            if row is not None:
                if row["state"] == State.ACKNOWLEDGED:
                    self._let_go([object_id])
                self._settle(object_id)
                if row["receipt"] is not None:
                    self._end_twins(object_id)
            del self._late[object_id]

    def _put_off(self, object_ids: Collection[ObjectId], error: TransientSpoolError) -> None:
        self._late.update(dict.fromkeys(object_ids))
        _LOG.warning(
            "what is at central stays for now", extra={"objects": len(self._late), "reason": str(error)}
        )

    def _settle(self, object_id: ObjectId) -> None:
        row = self._index.find(object_id)
        if row is not None and row["state"] == State.OWED and not self._is_owed(object_id):
            self._index.step(object_id, SETTLE, durable=False)
            self._let_go([object_id])

    def _end_twins(self, object_id: ObjectId) -> None:
        self._replace_damaged_twins(object_id)
        self._forget_lost_twins(object_id)

    def _let_go(self, object_ids: Collection[ObjectId]) -> None:
        freed = []
        with self._index.transaction(durable=False):
            for object_id in object_ids:
                if self._is_owed(object_id):
                    self._index.step_within(object_id, OWE)
                elif self._retained.period and self._is_kept(object_id):
                    self._index.step_within(object_id, RETAIN)
                else:
                    self._index.step_within(object_id, FREE, freed_at_utc=utc_text(datetime.now(UTC)))
                    freed.append(object_id)
        for object_id in freed:
            self._files.unlink_freed(object_id)

    def _is_owed(self, object_id: ObjectId) -> bool:
        """Whether a destination beside central still waits for it, or has set it aside."""
        return self._index.execute(_IS_OWED, (object_id,)).fetchone() is not None

    def _is_kept(self, object_id: ObjectId) -> bool:
        row = self._index.find(object_id)
        if row is None:
            return False
        return self._retained.keeps(utc_from_text(row["received_at_utc"]), self._room.measure())

    def _replace_damaged_twins(self, object_id: ObjectId) -> None:
        """Free damaged objects of the same bytes; whom they were owed to gets them from this one."""
        twins = [ObjectId(found) for (found,) in self._index.execute(_FIND_DAMAGED_TWINS, (object_id,))]
        for twin in twins:
            with self._index.transaction(durable=False):
                self._index.execute(_FORGET_OPEN, (twin,))
                self._index.step_within(twin, REPLACE, freed_at_utc=utc_text(datetime.now(UTC)))
            self._files.unlink_freed(twin)

    def _forget_lost_twins(self, object_id: ObjectId) -> None:
        """Central has this instance again, whose loss was listed under another object."""
        lost = [found for (found,) in self._index.execute(_FIND_LOST_TWINS, (object_id,))]
        if not lost:
            return
        with self._index.transaction(durable=False):
            for one in lost:
                self._index.execute("DELETE FROM deliveries WHERE object_id = ?", (one,))
                self._index.execute("DELETE FROM objects WHERE object_id = ? AND state = 'lost'", (one,))


def mend_owed(index: SpoolIndex) -> None:
    """Bring `owed` and `acknowledged` into agreement with the deliveries. Inside a transaction."""
    index.execute(_OWED_WITH_NOTHING_OPEN, ())
    index.execute(_ACKNOWLEDGED_WITH_SOME_OPEN, ())
