"""The spool against a model of it: whatever order things are asked in, both say the same.

Hypothesis chooses the orders, on a real directory. The model is three dictionaries and knows nothing of files or
SQL. A kill is a copy of the directory as it lies there, opened by a new spool: what the dead one had not written
is not in the copy.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from contract.identifiers import ObjectId
from edge.buffer.errors import UnknownObjectError, WrongStateError
from edge.buffer.receipts import Progress
from edge.buffer.records import InstanceIdentity, Origin
from edge.buffer.spool import Spool
from edge.buffer.states import State
from tests.edge.buffer.instances import Central

SOAK = bool(os.environ.get("DICOMNET_SOAK"))
pytestmark = pytest.mark.timeout(3400 if SOAK else 600)
CENTRAL = Central()
QUARANTINE_MAX_BYTES = 40_000
LONG_S, EXPIRED_S = 3600.0, 0.0
ORIGIN = Origin("CT1", "DICOMNET", "192.0.2.7", "1.2.840.10008.1.2.4.70")  # not compressed on the way in

TO_PACS = replace(ORIGIN, called_ae_title="TO_PACS")

OWED = ("1.2.3.1", "1.2.3.2")  # to PACS as well as to central, whatever is called
UIDS = st.sampled_from(["1.2.3.1", "1.2.3.2", "1.2.3.3"])
SERIES = st.sampled_from(["1.2.9.1", "1.2.9.2"])
CONTENTS = st.sampled_from([b"", b"one", b"two" * 3_000, b"three" * 40_000])


@dataclass
class Known:
    """What the model knows of an object that was kept. A lease that has run out is `ready` to the model."""

    state: State
    sop_instance_uid: str | None
    series_instance_uid: str | None
    content: bytes
    answered: bool
    waits: bool = False  # released with a wait that does not end within the test
    leased: bool = False  # for longer than the test
    delivery: str | None = None  # to PACS, while it is open: waiting, put off or set aside
    ever_owed: bool = False  # to PACS


class SpoolMachine(RuleBasedStateMachine):
    claimed = Bundle("claimed")

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="spool-model-"))
        self.lives = 0
        self.known: dict[ObjectId, Known] = {}
        self.order: list[ObjectId] = []  # as they were stored
        self.owed: list[ObjectId] = []  # as they came to be owed to PACS
        self.spool = self._open()

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.spool.close()
            shutil.rmtree(self.folder)

    def _open(self) -> Spool:
        return Spool.open(
            self.folder / str(self.lives),
            reserve_bytes=0,
            quarantine_max_bytes=QUARANTINE_MAX_BYTES,
            keys=CENTRAL.ring(),
            route=lambda label: (
                ("PACS",)
                if label.identity and (label.identity.sop_instance_uid in OWED or label.origin == TO_PACS)
                else ()
            ),
        )

    # In -------------------------------------------------------------------------------------------------

    @rule(uid=UIDS, series=SERIES, content=CONTENTS, origin=st.sampled_from([ORIGIN, TO_PACS]))
    def store(self, uid: str, series: str, content: bytes, origin: Origin) -> None:
        """The same bytes under the same UID are absorbed, and go where they were to go; others are kept beside them.

        The series is part of the bytes, as in a data set: one UID in two series is two objects.
        """
        content = series.encode() + content
        twins = [
            object_id
            for object_id, known in self.known.items()
            if (known.sop_instance_uid, known.content) == (uid, content)
            and known.state in (State.READY, State.SENDING, State.OWED)
        ]
        with self.spool.entrance.receive(origin) as reception:
            reception.write(content)
            stored = reception.commit(
                InstanceIdentity("1.2.840.10008.5.1.4.1.1.2", uid, "1.2.9", series, "CT")
            )
        assert stored.sha256 == hashlib.sha256(content).hexdigest()
        assert stored.size_bytes == len(content)
        if twins:
            assert stored.outcome == "duplicate"
            assert stored.object_id in twins
        else:
            assert stored.outcome == "stored"
            assert stored.object_id not in self.known
            self.known[stored.object_id] = Known(State.READY, uid, series, content, answered=True)
            self.order.append(stored.object_id)
        known = self.known[stored.object_id]
        if (uid in OWED or origin == TO_PACS) and not known.ever_owed:
            known.delivery, known.ever_owed = "waiting", True
            self.owed.append(stored.object_id)

    @rule(content=CONTENTS)
    def hang_up(self, content: bytes) -> None:
        with self.spool.entrance.receive(ORIGIN) as reception:
            reception.write(content)

    @rule(content=st.sampled_from([b"what is this" * 100, b"and this" * 3_000]))
    def quarantine(self, content: bytes) -> None:
        with self.spool.entrance.receive(ORIGIN) as reception:
            reception.write(content)
            reception.quarantine("nobody knows")
            object_id = reception.object_id
        self.known[object_id] = Known(State.QUARANTINED, None, None, content, answered=False)
        self.order.append(object_id)
        self._evict()

    def _evict(self) -> None:
        """The oldest of what no sender was told success for goes, until the rest is within its bound.

        What counts is whole blocks of the disk, with room for the label.
        """
        sizes = {row.object_id: -(-(row.stored_bytes + 1024) // 4096) * 4096 for row in self._rows()}
        kept = [
            one for one in self.order if self._is(one, State.QUARANTINED) and not self.known[one].answered
        ]
        while sum(sizes[one] for one in kept) > QUARANTINE_MAX_BYTES:
            self.known[kept.pop(0)].state = State.FREED

    # Out ------------------------------------------------------------------------------------------------

    @rule(target=claimed)
    def claim(self) -> ObjectId | None:
        return self._claim(LONG_S)

    @rule(target=claimed)
    def claim_for_no_time(self) -> ObjectId | None:
        """A sender that hangs: its lease is over before it has done anything."""
        return self._claim(EXPIRED_S)

    def _claim(self, lease_s: float) -> ObjectId | None:
        due = [one for one in self.order if self._is_due(one)]
        found = self.spool.queue.claim(lease_s=lease_s)
        if not due:
            assert found is None
            return None
        assert found is not None
        known = self.known[due[0]]
        assert found.object_id == due[0], "the oldest that is due comes first"
        assert (found.sop_instance_uid, found.series_instance_uid) == (
            known.sop_instance_uid,
            known.series_instance_uid,
        )
        assert found.sha256 == hashlib.sha256(known.content).hexdigest()
        known.state, known.leased, known.waits = State.SENDING, lease_s == LONG_S, False
        return found.object_id

    def _is_due(self, object_id: ObjectId) -> bool:
        known = self.known[object_id]
        if known.state is State.READY:
            return not known.waits
        return known.state is State.SENDING and not known.leased

    @rule(object_id=consumes(claimed))
    def acknowledge(self, object_id: ObjectId | None) -> None:
        if self._may(object_id, State.SENDING, lambda one: self.spool.queue.acknowledge(one, "a receipt")):
            known = self.known[object_id]  # type: ignore[index]
            known.state = State.OWED if known.delivery else State.FREED
            for one in self._in_state(State.LOST):
                if self.known[one].sop_instance_uid == known.sop_instance_uid:
                    del self.known[one]
                    self.order.remove(one)
                    self.owed = [other for other in self.owed if other != one]

    @rule()
    def set_central_back(self) -> None:
        """It has lost all that it had signed for."""
        signed = [one for one in self._in_state(State.FREED, State.OWED) if self.known[one].answered]
        receipts = self.spool.receipts.given_since(0, limit=10_000)
        assert sorted(one.object_id for one in receipts) == sorted(signed)
        progress = Progress(self.spool.receipts.newest_number())
        voided = self.spool.receipts.void(signed, progress)
        for one in signed:
            known = self.known[one]
            known.state = State.READY if known.state is State.OWED else State.LOST
            known.waits = known.leased = False
        assert voided.recalled == sum(self._is(one, State.READY) for one in signed)
        assert voided.missed == sum(self._is(one, State.LOST) for one in signed)
        assert self.spool.receipts.progress() == progress

    @rule(object_id=consumes(claimed), wait=st.booleans())
    def release(self, object_id: ObjectId | None, wait: bool) -> None:
        retry_in_s = LONG_S if wait else 0.0
        if self._may(
            object_id,
            State.SENDING,
            lambda one: self.spool.queue.release(one, error="the line broke", retry_in_s=retry_in_s),
        ):
            known = self.known[object_id]  # type: ignore[index]
            known.state, known.waits = State.READY, wait

    @rule(object_id=consumes(claimed))
    def set_aside(self, object_id: ObjectId | None) -> None:
        if self._may(object_id, State.SENDING, lambda one: self.spool.queue.set_aside(one, reason="refused")):
            self.known[object_id].state = State.QUARANTINED  # type: ignore[index]

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        object_id = data.draw(st.sampled_from(self.order))
        known = self.known[object_id]
        try:
            self.spool.quarantine.requeue(object_id)
        except (WrongStateError, UnknownObjectError):
            assert known.state is not State.QUARANTINED or not known.answered
        else:
            assert (known.state, known.answered) == (State.QUARANTINED, True)
            known.state, known.waits = State.READY, False

    # To another destination -----------------------------------------------------------------------------

    @rule(outcome=st.sampled_from(["delivered", "put off", "set aside"]))
    def deliver(self, outcome: str) -> None:
        due = [one for one in self.owed if self.known[one].delivery == "waiting"]
        found = self.spool.deliveries.next("PACS")
        assert (found and found.object_id) == (due[0] if due else None)
        if found is None:
            return
        if outcome == "delivered":
            assert self.spool.deliveries.deliver(found)
            self._end_delivery(found.object_id)
        elif outcome == "put off":
            self.spool.deliveries.put_off(found, error="busy", retry_in_s=LONG_S)
            self.known[found.object_id].delivery = "put off"
        else:
            assert self.spool.deliveries.set_aside(found, reason="refused")
            self.known[found.object_id].delivery = "set aside"

    @rule(give_up=st.booleans())
    def decide_on_deliveries(self, give_up: bool) -> None:
        """A person gives up all that is open, or has it tried again."""
        opened = [one for one in self.order if self.known[one].delivery]
        decide = self.spool.deliveries.give_up if give_up else self.spool.deliveries.try_again
        assert decide("PACS") == len(opened)
        for object_id in opened:
            if give_up:
                self._end_delivery(object_id)
            else:
                self.known[object_id].delivery = "waiting"

    def _end_delivery(self, object_id: ObjectId) -> None:
        known = self.known[object_id]
        known.delivery = None
        if known.state is State.OWED:
            known.state = State.FREED

    def _may(self, object_id: ObjectId | None, state: State, step: object) -> bool:
        """Take the step; whether it was allowed, which has to be what the model thinks."""
        if object_id is None:
            return False
        allowed = object_id in self.known and self.known[object_id].state is state
        try:
            step(object_id)  # type: ignore[operator]
        except WrongStateError:
            assert not allowed
            return False
        except UnknownObjectError:
            assert object_id not in self.known  # its loss was listed, and it came again
            return False
        assert allowed
        return True

    # Lives ----------------------------------------------------------------------------------------------

    @rule()
    def reopen(self) -> None:
        self.spool.close()
        self.spool = self._open()
        self._after_start()
        assert self.spool.recovery.torn_files == 0

    @rule(in_progress=st.booleans())
    def kill(self, in_progress: bool) -> None:
        dead, before = self.spool, self.folder / str(self.lives)
        self.lives += 1
        with dead.entrance.receive(ORIGIN) as reception:
            if in_progress:
                reception.write(b"half of it" * 40_000)
            else:
                reception.discard()
            shutil.copytree(before, self.folder / str(self.lives))
        dead.close()
        shutil.rmtree(before)
        self.spool = self._open()
        self._after_start()

    def _after_start(self) -> None:
        """Leases and waits were the former life's."""
        assert self.spool.recovery.files_missing == 0
        assert self.spool.recovery.files_set_aside == 0
        assert not self.spool.recovery.index_rebuilt
        for known in self.known.values():
            if known.state is State.SENDING:
                known.state = State.READY
            known.waits = known.leased = False
            if known.delivery == "put off":
                known.delivery = "waiting"

    # Always ---------------------------------------------------------------------------------------------

    def _rows(self) -> list:  # type: ignore[type-arg]
        return self.spool.holdings.list_objects(states=list(State), limit=10_000)

    def _in_state(self, *states: State) -> list[ObjectId]:
        return [one for one in self.order if self._is(one, *states)]

    def _is(self, object_id: ObjectId, *states: State) -> bool:
        return self.known[object_id].state in states

    @invariant()
    def rows_are_what_the_model_knows(self) -> None:
        if not hasattr(self, "spool"):
            return
        found = {row.object_id: row for row in self._rows()}
        assert {one: row.state for one, row in found.items()} == {
            one: known.state for one, known in self.known.items()
        }
        for object_id, row in found.items():
            known = self.known[object_id]
            assert row.sop_instance_uid == known.sop_instance_uid
            assert row.success_answered == known.answered
            assert row.has_receipt == (row.state in (State.FREED, State.OWED, State.LOST) and known.answered)
            assert known.delivery is None or row.state is not State.FREED
        depth = self.spool.holdings.depth()
        for state, tally in depth.by_state.items():
            assert tally.objects == sum(self._is(one, state) for one in self.order)
        assert (depth.oldest_unsent_at_utc is None) == (depth.unsent.objects == 0)
        assert self.spool.queue.wait_for_work(0) == any(self._is_due(one) for one in self.order)

    @precondition(lambda self: getattr(self, "order", None))
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        object_id = data.draw(st.sampled_from(self.order))
        known = self.known[object_id]
        if known.state in (State.FREED, State.LOST):
            try:
                self.spool.holdings.open_object(object_id).close()
            except UnknownObjectError:
                return
            raise AssertionError("a freed object can still be read")
        assert CENTRAL.unseal(self.spool, object_id) == known.content


TestSpoolModel = SpoolMachine.TestCase
TestSpoolModel.settings = settings(
    max_examples=400 if SOAK else 15,
    stateful_step_count=50 if SOAK else 30,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
