"""What is owed to others than the first central: one row for each object and destination, with a state of its own.

| step      | from                | to        | when                                                       |
|-----------|---------------------|-----------|------------------------------------------------------------|
| owe       | -                   | waiting   | the object's row is made, or its bytes come again, and a   |
|           |                     |           | rule names the destination                                 |
| put off   | waiting             | waiting   | it failed; again later                                     |
| deliver   | waiting             | delivered | the destination said, of this instance, that it has it     |
| set aside | waiting             | set-aside | it refuses it for good, or the file is damaged             |
| try again | waiting, set-aside  | waiting   | a person says so; due at once                              |
| give up   | waiting, set-aside  | given-up  | a person says so                                           |
| recall    | delivered           | waiting   | a further central lost it after its receipt; it is here    |
| miss      | delivered           | lost      | the same, and it is not here (`edge.buffer.copy_receipts`) |

Always true: while a row of an object is waiting or set aside, its file stays (state `owed` once central has it),
unless the disk has damaged it. The rows of one destination say nothing of another's, and each destination has one
worker, so there are no leases but for further centrals (`edge.buffer.delivery_queue`). What ends a row is durable
before anything follows from it. A crash between an answer and its row sends the object again, which a destination
absorbs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from contract.identifiers import ObjectId
from edge.buffer.errors import UnknownObjectError, WrongStateError
from edge.buffer.index import SpoolIndex
from edge.buffer.lock import SpoolLock
from edge.buffer.order import EVERY_FOURTH
from edge.buffer.tables import utc_from_text

_AT_ONCE: Final = 64
"""Rows given up under one hold of the spool's lock: a reception waits for no more than these."""


class DeliveryState(StrEnum):
    """Where a delivery stands; the value is what the index and the control socket show."""

    WAITING = "waiting"
    SET_ASIDE = "set-aside"
    DELIVERED = "delivered"
    GIVEN_UP = "given-up"
    LOST = "lost"


@dataclass(frozen=True)
class Delivery:
    """An object whose turn it is. `attempts`: those before this one in which the destination was given its bytes."""

    object_id: ObjectId
    destination: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size_bytes: int
    attempts: int


@dataclass(frozen=True)
class DeliveryTally:
    """How one destination stands. `oldest_at_utc`: arrival of the oldest that waits."""

    waiting: int
    waiting_bytes: int
    set_aside: int
    oldest_at_utc: datetime | None


@dataclass(frozen=True)
class SetAside:
    """For a person: what a destination did not take, and why. What is no longer known of the object is empty or 0."""

    object_id: ObjectId
    received_at_utc: datetime | None
    destination: str
    reason: str
    attempts: int
    study_instance_uid: str
    calling_ae_title: str
    modality: str
    size_bytes: int
    stored_bytes: int


NOTHING_OWED: Final = DeliveryTally(0, 0, 0, None)

# The states stand in the text, so that SQLite sees that the partial index `open_deliveries` covers them.
_NEXT: Final = """
    SELECT d.object_id, o.sop_class_uid, o.sop_instance_uid, o.transfer_syntax_uid, o.size_bytes, d.attempts
    FROM deliveries AS d INDEXED BY open_deliveries JOIN objects AS o USING (object_id)
    WHERE d.state IN ('waiting', 'set-aside') AND d.destination = ? AND d.state = 'waiting' AND d.due_s <= ?
    ORDER BY d.number LIMIT 1
"""
# What is urgent is found from the objects' side, so that a long backlog is not sorted for it.
_NEXT_URGENT: Final = """
    SELECT d.object_id, o.sop_class_uid, o.sop_instance_uid, o.transfer_syntax_uid, o.size_bytes, d.attempts
    FROM objects AS o INDEXED BY live_by_priority_2 JOIN deliveries AS d USING (object_id)
    WHERE o.freed_at_utc IS NULL AND o.priority > 0 AND d.destination = ? AND d.state = 'waiting' AND d.due_s <= ?
    ORDER BY o.priority DESC, o.sequence LIMIT 1
"""
_EARLIEST: Final = """
    SELECT MIN(due_s) FROM deliveries INDEXED BY open_deliveries
    WHERE state IN ('waiting', 'set-aside') AND destination = ? AND state = 'waiting'
"""
_END: Final = """
    UPDATE deliveries SET state = :state, last_error = :error, attempts = attempts + 1
    WHERE object_id = :object_id AND destination = :destination AND state = 'waiting'
"""
_PUT_OFF: Final = """
    UPDATE deliveries SET due_s = :due_s, last_error = :error, attempts = attempts + 1
    WHERE object_id = :object_id AND destination = :destination AND state = 'waiting'
"""
_TALLIES: Final = """
    SELECT destination, state, COUNT(*), SUM(stored_bytes), MIN(number) FROM deliveries INDEXED BY open_deliveries
    WHERE state IN ('waiting', 'set-aside') GROUP BY destination, state
"""
_RECEIVED: Final = """
    SELECT received_at_utc FROM objects WHERE object_id = (SELECT object_id FROM deliveries WHERE number = ?)
"""
_SET_ASIDE_ROWS: Final = """
    SELECT d.object_id, o.received_at_utc, d.destination, COALESCE(d.last_error, ''), d.attempts,
        COALESCE(o.study_instance_uid, ''), COALESCE(o.calling_ae_title, ''), COALESCE(o.modality, ''),
        COALESCE(o.size_bytes, 0), COALESCE(o.stored_bytes, 0)
    FROM deliveries AS d INDEXED BY open_deliveries LEFT JOIN objects AS o USING (object_id)
    WHERE d.state IN ('waiting', 'set-aside') AND d.state = 'set-aside' ORDER BY d.number LIMIT ?
"""
_TRY_AGAIN: Final = """
    UPDATE deliveries SET state = 'waiting', due_s = 0.0
    WHERE state IN ('waiting', 'set-aside') AND destination = :destination
        AND (:object_id IS NULL OR object_id = :object_id)
        AND EXISTS (SELECT 1 FROM objects AS o WHERE o.object_id = deliveries.object_id AND o.freed_at_utc IS NULL)
"""
_FIND_OPEN: Final = """
    SELECT object_id FROM deliveries
    WHERE state IN ('waiting', 'set-aside') AND destination = :destination
        AND (:object_id IS NULL OR object_id = :object_id)
    ORDER BY number LIMIT :limit
"""
_GIVE_UP: Final = """
    UPDATE deliveries SET state = 'given-up'
    WHERE state IN ('waiting', 'set-aside') AND destination = ? AND object_id = ?
"""
_FIND: Final = "SELECT state FROM deliveries WHERE destination = ? AND object_id = ?"


class Deliveries:
    """Safe from any thread. Made by the spool.

    Parameters
    ----------
    settled : called under the lock with objects of which a delivery has ended.
    """

    def __init__(
        self,
        lock: SpoolLock,
        index: SpoolIndex,
        settled: Callable[[Collection[ObjectId]], None],
    ) -> None:
        self._index = index
        self._lock = lock
        self._settled = settled
        self._turns: dict[str, int] = {}

    # For the destination's worker -------------------------------------------------------------------------

    def next(self, destination: str) -> Delivery | None:
        """The most urgent that is due, and in every fourth turn the oldest; None if none is."""
        values = (destination, time.monotonic())
        with self._lock.held():
            turn = self._turns[destination] = self._turns.get(destination, 0) + 1
            found = self._index.execute(_NEXT_URGENT, values).fetchone() if turn % EVERY_FOURTH else None
            found = found or self._index.execute(_NEXT, values).fetchone()
        return found and Delivery(ObjectId(found[0]), destination, *found[1:])

    def wait(self, destination: str, timeout_s: float | None) -> bool:
        """Block until `next` would give something (True) or the time is over (False). SpoolClosedError at the end."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            with self._lock.held():
                now_s = time.monotonic()
                due_s: float | None = self._index.execute(_EARLIEST, (destination,)).fetchone()[0]
                if due_s is not None and due_s <= now_s:
                    return True
                if deadline_s is not None and deadline_s <= now_s:
                    return False
                moments = [moment for moment in (due_s, deadline_s) if moment is not None]
                self._lock.changed.wait(min(moments) - now_s if moments else None)

    def deliver(self, delivery: Delivery) -> bool:
        """The destination has it; False if a person gave it up meanwhile. Frees what waited for nothing else."""
        return self._end(delivery, DeliveryState.DELIVERED, None)

    def set_aside(self, delivery: Delivery, *, reason: str) -> bool:
        """For a person to look at; the object stays."""
        return self._end(delivery, DeliveryState.SET_ASIDE, reason)

    def _end(self, delivery: Delivery, state: DeliveryState, error: str | None) -> bool:
        values: dict[str, object] = {
            "state": state,
            "error": error,
            "object_id": delivery.object_id,
            "destination": delivery.destination,
        }
        with self._lock.held():
            with self._index.transaction():
                changed = self._index.execute(_END, values).rowcount
            if state is DeliveryState.DELIVERED:
                self._settled([delivery.object_id])
        return bool(changed)

    def put_off(self, delivery: Delivery, *, error: str, retry_in_s: float) -> None:
        """It failed; again after `retry_in_s`."""
        values: dict[str, object] = {
            "due_s": time.monotonic() + retry_in_s,
            "error": error,
            "object_id": delivery.object_id,
            "destination": delivery.destination,
        }
        with self._lock.held(), self._index.transaction(durable=False):
            self._index.execute(_PUT_OFF, values)

    # For people -------------------------------------------------------------------------------------------

    def tallies(self) -> Mapping[str, DeliveryTally]:
        """How each destination stands to which something is owed, configured or not."""
        found: dict[str, DeliveryTally] = {}
        with self._lock.held():
            for destination, state, objects, stored_bytes, first in self._index.execute(
                _TALLIES, ()
            ).fetchall():
                known = found.get(destination, NOTHING_OWED)
                if state == DeliveryState.WAITING:
                    oldest = self._index.execute(_RECEIVED, (first,)).fetchone()
                    known = replace(
                        known,
                        waiting=objects,
                        waiting_bytes=stored_bytes,
                        oldest_at_utc=oldest and utc_from_text(oldest[0]),
                    )
                else:
                    known = replace(known, set_aside=objects)
                found[destination] = known
        return found

    def set_aside_rows(self, *, limit: int) -> list[SetAside]:
        """What was set aside, oldest first."""
        with self._lock.held():
            rows = self._index.execute(_SET_ASIDE_ROWS, (limit,)).fetchall()
        return [
            SetAside(ObjectId(object_id), received and utc_from_text(received), *known)
            for object_id, received, *known in rows
        ]

    def try_again(self, destination: str, object_id: ObjectId | None = None) -> int:
        """Make one, or all that a destination has open, due at once; how many.

        What the disk has lost stays set aside: there is nothing to send.

        Raises
        ------
        UnknownObjectError, WrongStateError : the one that was named is not open, or its file is gone.
        """
        with self._lock.held():
            with self._index.transaction():
                changed = self._index.execute(
                    _TRY_AGAIN, {"destination": destination, "object_id": object_id}
                ).rowcount
            if object_id is not None and not changed:
                raise self._why_not(destination, object_id, "be sent again")
            self._lock.changed.notify_all()
        return changed

    def give_up(self, destination: str, object_id: ObjectId | None = None) -> int:
        """Owe one, or all that a destination has open, no longer; how many. Frees what waited for nothing else.

        Raises
        ------
        UnknownObjectError, WrongStateError : the one that was named is not open.
        """
        given_up = 0
        while batch := self._give_up_some(destination, object_id):
            given_up += batch
        if object_id is not None and not given_up:
            with self._lock.held():
                raise self._why_not(destination, object_id, "be given up")
        return given_up

    def _give_up_some(self, destination: str, object_id: ObjectId | None) -> int:
        values: dict[str, object] = {
            "destination": destination,
            "object_id": object_id,
            "limit": _AT_ONCE,
        }
        with self._lock.held():
            with self._index.transaction():
                found = [ObjectId(row[0]) for row in self._index.execute(_FIND_OPEN, values).fetchall()]
                for one in found:
                    self._index.execute(_GIVE_UP, (destination, one))
            self._settled(found)
        return len(found)

    def _why_not(
        self, destination: str, object_id: ObjectId, step: str
    ) -> UnknownObjectError | WrongStateError:
        found = self._index.execute(_FIND, (destination, object_id)).fetchone()
        if found is None:
            return UnknownObjectError(object_id)
        lost = found[0] in (DeliveryState.WAITING, DeliveryState.SET_ASIDE)
        state = "no longer on this box" if lost else f"{found[0]} for {destination}"
        return WrongStateError(object_id, step=step, found=state)
