"""What waits for the first central, lent to its forwarder, and to one that stands in for it.

Always true: a claim is a lease, and one that runs out makes the object claimable again, so a sender that hangs stalls
nothing. An object leaves the queue only when central's receipt, which the sender has verified, is durable, or when it
is set aside for a person. A crash gives every lease back; what could not be given back because the disk was full is, as
soon as there is room, before anything is claimed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import BinaryIO, Final, NamedTuple

from contract.identifiers import ObjectId
from contract.priority import Priority
from edge.buffer.arrivals import Arrivals
from edge.buffer.departure import Departure
from edge.buffer.errors import PermanentSpoolError
from edge.buffer.files import Place, SpoolFiles
from edge.buffer.index import SpoolIndex
from edge.buffer.lock import SpoolLock
from edge.buffer.order import ClaimOrder, Waiting
from edge.buffer.receipts import Receipts, forget_receipts
from edge.buffer.records import Claimed
from edge.buffer.states import ACKNOWLEDGE, RELEASE, SET_ASIDE

_FORGET_RECEIPTS_EVERY_S: Final = 3600.0
_RANKED_AT_ONCE: Final = 64  # studies; a reception waits for no more
_UNTRIED: Final = "UPDATE objects SET attempts = attempts - 1 WHERE object_id = ?"


class _Return(NamedTuple):
    """How an object comes back."""

    error: str
    due_s: float
    untried: bool


class SendingQueue:
    """A `Queue` of edge.uplink.dispatch. Safe from any thread.

    Parameters
    ----------
    open_object : the sealed bytes.
    """

    def __init__(
        self,
        lock: SpoolLock,
        index: SpoolIndex,
        files: SpoolFiles,
        arrivals: Arrivals,
        receipts: Receipts,
        departure: Departure,
        open_object: Callable[[ObjectId], BinaryIO],
    ) -> None:
        self._lock = lock
        self._index = index
        self._files = files
        self._arrivals = arrivals
        self._receipts = receipts
        self._departure = departure
        self.open_object = open_object
        self._order = ClaimOrder(index)
        self._receipts_forgotten_at_s = time.monotonic()
        self._returns: dict[ObjectId, _Return] = {}

    def claim(self, *, lease_s: float) -> Claimed | None:
        """Lease the one object that goes next (`edge.buffer.order`); None if nothing's time has come."""
        return next(iter(self.claim_several(lease_s=lease_s, max_objects=1, max_bytes=0)), None)

    def claim_several(
        self,
        *,
        lease_s: float,
        max_objects: int,
        max_bytes: int,
        these: Collection[ObjectId] = (),
        opened_by: Collection[str] = (),
    ) -> list[Claimed]:
        """The same of objects that go together: one whatever its size, more as far as all fit `max_bytes` sealed.

        Parameters
        ----------
        these : exactly these, whether their time has come or not, or none of them.
        opened_by : key ids; only what was sealed for one of them beside the first central's. Empty: everything.
        """
        now_s = time.monotonic()
        with self._lock.held():
            self.catch_up()
            if these:
                return self._order.claim_these(these, now_s=now_s, lease_s=lease_s)
            return self._order.claim(
                now_s=now_s,
                lease_s=lease_s,
                max_objects=max_objects,
                max_bytes=max_bytes,
                opened_by=opened_by,
            )

    def wait_for_work(self, timeout_s: float | None, opened_by: Collection[str] = ()) -> bool:
        """Block until `claim` would give something (True), the timeout passes or the spool closes (False)."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock.changed, self._index.translated():
            while not self._lock.is_closed:
                self._arrivals.bring_in()
                now_s = time.monotonic()
                due_s = self._order.earliest_due_s(opened_by)
                if due_s is not None and due_s <= now_s:
                    return True
                if deadline_s is not None and deadline_s <= now_s:
                    return False
                moments = [moment for moment in (due_s, deadline_s) if moment is not None]
                self._lock.changed.wait(min(moments) - now_s if moments else None)
        return False

    def acknowledge(self, object_id: ObjectId, receipt: str) -> None:
        """Keep central's receipt, which the caller has verified, and free the file or retain it for a while.

        Raises
        ------
        UnknownObjectError, WrongStateError
        """
        self.acknowledge_all([(object_id, receipt)])

    def acknowledge_all(self, receipts: Sequence[tuple[ObjectId, str]]) -> None:
        """The same of several objects, with one sync: all of them, or none. Raises as `acknowledge`."""
        with self._lock.held():
            first = 1 + self._receipts.newest_number()
            with self._index.transaction():
                for number, (object_id, receipt) in enumerate(receipts, first):
                    self._index.step_within(
                        object_id, ACKNOWLEDGE, receipt=receipt, receipt_number=number, last_error=None
                    )
            # The receipts are durable from here on; a crash leaves the rest of this to recovery.
            self._departure.let_go([object_id for object_id, _ in receipts])
            if time.monotonic() - self._receipts_forgotten_at_s >= _FORGET_RECEIPTS_EVERY_S:
                self._receipts_forgotten_at_s = time.monotonic()
                forget_receipts(self._index)

    def release(self, object_id: ObjectId, *, error: str, retry_in_s: float, untried: bool = False) -> None:
        """Give a claimed object back; it can be claimed again after `retry_in_s`.

        `untried`: nothing of it was sent, so that this was no attempt.
        """
        with self._lock.held():
            self._returns[object_id] = _Return(error, time.monotonic() + retry_in_s, untried)
            self._write_returns()
            self._lock.changed.notify_all()

    def catch_up(self) -> None:
        """Write down what the disk did not take when its turn came. DiskFullError, StorageFailedError: not yet."""
        with self._lock.held():
            self._departure.catch_up()
            self._write_returns()

    def _write_returns(self) -> None:
        """Under the lock. What the disk does not take is kept for the next time: else its lease would have to lapse."""
        for object_id, given_back in list(self._returns.items()):
            try:
                with self._index.transaction(durable=False):
                    self._index.step_within(
                        object_id, RELEASE, last_error=given_back.error, due_s=given_back.due_s
                    )
                    if given_back.untried:
                        self._index.execute(_UNTRIED, (object_id,))
            except PermanentSpoolError:
                del self._returns[object_id]
                raise
            del self._returns[object_id]

    def set_aside(self, object_id: ObjectId, *, reason: str) -> None:
        """Quarantine a claimed object central refuses for good. Its sender was told success: it is kept."""
        with self._lock.held():
            self._index.step(object_id, SET_ASIDE, last_error=reason)
            self._files.move(object_id, Place.QUARANTINE)

    def prioritise(self, study_instance_uid: str, priority: Priority = Priority.FIRST) -> int:
        """A person's decision about a study, which wins over rules and orders, for what comes of it later, too.

        How many objects of it wait; where none does, nothing is kept. Survives a restart.
        """
        with self._lock.held():
            return self._order.prioritise(study_instance_uid, priority)

    def rank_again(self, priority_of: Callable[[Waiting], Priority], studies: Collection[str]) -> int:
        """Orders of these studies came, or changed: rank anew what waits of them. How many objects that moved."""
        moved = 0
        named = list(studies)
        for at in range(0, len(named), _RANKED_AT_ONCE):
            with self._lock.held():
                moved += self._order.rank_again(priority_of, named[at : at + _RANKED_AT_ONCE])
        return moved
