"""What one further central is owed, lent to a forwarder as the spool lends its own: leases, packs, receipts.

A row of `edge.buffer.deliveries` for each object, so a central that is away keeps nothing from the others. A lease is
the row's due time, and ends with the process. Always true: a row ends as delivered only together with that central's
receipt, durably; until then the object's file stays. In three of four turns what is urgent goes first, then the oldest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, BinaryIO, Final

from contract.identifiers import ObjectId
from edge.buffer.copy_receipts import CopyReceipts
from edge.buffer.deliveries import Deliveries, DeliveryState
from edge.buffer.index import SpoolIndex
from edge.buffer.lock import SpoolLock
from edge.buffer.order import CLAIMED_COLUMNS, EVERY_FOURTH, claimed_of, fill
from edge.buffer.records import Claimed

_COLUMNS: Final = ", ".join(
    "object_id" if name == "object_id" else f"d.{name}" if name == "attempts" else f"o.{name}"
    for name in CLAIMED_COLUMNS
)
_DUE: Final = "d.destination = :destination AND d.state = 'waiting' AND d.due_s <= :now"
_OLDEST: Final = f"""
    SELECT {_COLUMNS} FROM deliveries AS d INDEXED BY open_deliveries JOIN objects AS o USING (object_id)
    WHERE d.state IN ('waiting', 'set-aside') AND {_DUE} ORDER BY d.number LIMIT :limit
"""  # noqa: S608  # put together from the constants above alone
_URGENT: Final = f"""
    SELECT {_COLUMNS} FROM objects AS o INDEXED BY live_by_priority_2 JOIN deliveries AS d USING (object_id)
    WHERE o.freed_at_utc IS NULL AND o.priority > 0 AND {_DUE}
    ORDER BY o.priority DESC, o.sequence LIMIT :limit
"""  # noqa: S608  # put together from the constants above alone
_NAMED: Final = f"""
    SELECT {_COLUMNS} FROM deliveries AS d JOIN objects AS o USING (object_id)
    WHERE d.destination = :destination AND d.state = 'waiting' AND object_id = :object_id
"""  # noqa: S608  # put together from the constants above alone
_LEASE: Final = """
    UPDATE deliveries SET due_s = :until, attempts = attempts + 1
    WHERE destination = :destination AND object_id = :object_id AND state = 'waiting'
"""
_RELEASE: Final = """
    UPDATE deliveries SET due_s = :due_s, last_error = :error, attempts = attempts - :untried
    WHERE destination = :destination AND object_id = :object_id AND state = 'waiting'
"""
_END: Final = """
    UPDATE deliveries SET state = :state, last_error = :error, receipt = :receipt, receipt_number = :number
    WHERE destination = :destination AND object_id = :object_id AND state = 'waiting'
"""
_FORGET_LOST: Final = """
    DELETE FROM deliveries WHERE destination = ? AND state = 'lost' AND object_id IN (
        SELECT twin.object_id FROM objects AS one, objects AS twin INDEXED BY freed_by_instance
        WHERE one.object_id = ? AND twin.freed_at_utc IS NOT NULL AND twin.sop_instance_uid = one.sop_instance_uid)
"""


class DeliveryQueue:
    """A `Queue` of edge.uplink.dispatch. Safe from any thread. Made by the spool.

    Parameters
    ----------
    name : the central's; the `destination` of its rows.
    receipts : this central's; they number what it signs.
    settled : as for `Deliveries`.
    open_object : the sealed bytes.
    """

    def __init__(
        self,
        name: str,
        lock: SpoolLock,
        index: SpoolIndex,
        deliveries: Deliveries,
        receipts: CopyReceipts,
        settled: Callable[[Collection[ObjectId]], None],
        open_object: Callable[[ObjectId], BinaryIO],
    ) -> None:
        self._name = name
        self._index = index
        self._deliveries = deliveries
        self._lock = lock
        self._settled = settled
        self.open_object = open_object
        self._receipts = receipts
        self._turn = 0
        self._returns: dict[ObjectId, dict[str, object]] = {}

    def claim(self, *, lease_s: float) -> Claimed | None:
        """The one object that goes next."""
        return next(iter(self.claim_several(lease_s=lease_s, max_objects=1, max_bytes=0)), None)

    def claim_several(
        self, *, lease_s: float, max_objects: int, max_bytes: int, these: Collection[ObjectId] = ()
    ) -> list[Claimed]:
        """As `SendingQueue.claim_several`."""
        now_s = time.monotonic()
        with self._lock.held():
            self._write_returns()
            with self._index.transaction(durable=False):
                rows = self._these(these) if these else self._choose(now_s, max_objects, max_bytes)
                for row in rows:
                    values = {"until": now_s + lease_s, "destination": self._name, "object_id": row[0]}
                    self._index.execute(_LEASE, values)
        return [claimed_of(row) for row in rows]

    def _these(self, object_ids: Collection[ObjectId]) -> list[tuple[Any, ...]]:
        """All of them, due or not, or none."""
        found = [
            self._index.execute(_NAMED, {"destination": self._name, "object_id": one}).fetchone()
            for one in object_ids
        ]
        return found if all(found) else []

    def _choose(self, now_s: float, max_objects: int, max_bytes: int) -> list[tuple[Any, ...]]:
        self._turn += 1
        urgent: Iterable[tuple[Any, ...]] = ()
        if self._turn % EVERY_FOURTH:
            urgent = self._find(_URGENT, now_s, max_objects)
        chosen = fill([], urgent, max_objects, max_bytes)
        if len(chosen) == max_objects:
            return chosen
        return fill(chosen, self._find(_OLDEST, now_s, max_objects + len(chosen)), max_objects, max_bytes)

    def _find(self, statement: str, now_s: float, limit: int) -> list[tuple[Any, ...]]:
        values = {"destination": self._name, "now": now_s, "limit": limit}
        return self._index.execute(statement, values).fetchall()

    def wait_for_work(self, timeout_s: float | None) -> bool:
        """As `SendingQueue.wait_for_work`; SpoolClosedError at the end."""
        return self._deliveries.wait(self._name, timeout_s)

    def acknowledge_all(self, receipts: Sequence[tuple[ObjectId, str]]) -> None:
        """Keep this central's receipts, which the caller has verified; what waited for nothing else is freed.

        One that a person gave up meanwhile stays given up.
        """
        with self._lock.held():
            first = 1 + self._receipts.newest_number()
            with self._index.transaction():
                for number, (object_id, receipt) in enumerate(receipts, first):
                    self._end(object_id, DeliveryState.DELIVERED, None, receipt, number)
                    self._index.execute(_FORGET_LOST, (self._name, object_id))
            self._settled([object_id for object_id, _ in receipts])

    def set_aside(self, object_id: ObjectId, *, reason: str) -> None:
        """This central refuses it for good; a person decides, and the object stays."""
        with self._lock.held(), self._index.transaction():
            self._end(object_id, DeliveryState.SET_ASIDE, reason)

    def _end(
        self,
        object_id: ObjectId,
        state: DeliveryState,
        error: str | None,
        receipt: str | None = None,
        number: int | None = None,
    ) -> None:
        values: dict[str, object] = {
            "state": state,
            "error": error,
            "receipt": receipt,
            "number": number,
            "destination": self._name,
            "object_id": object_id,
        }
        self._index.execute(_END, values)

    def release(self, object_id: ObjectId, *, error: str, retry_in_s: float, untried: bool = False) -> None:
        """Give a lent object back; see `SendingQueue.release`."""
        values: dict[str, object] = {
            "due_s": time.monotonic() + retry_in_s,
            "error": error,
            "untried": untried,
            "destination": self._name,
            "object_id": object_id,
        }
        with self._lock.held():
            self._returns[object_id] = values
            self._write_returns()
            self._lock.changed.notify_all()

    def _write_returns(self) -> None:
        """Under the lock. What the disk does not take is kept for the next time: else its lease would have to lapse."""
        for object_id, values in list(self._returns.items()):
            with self._index.transaction(durable=False):
                self._index.execute(_RELEASE, values)
            del self._returns[object_id]
