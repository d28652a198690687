"""Several centrals of which one at a time is sent to."""

from __future__ import annotations

from contract.receipt import verify_receipt
from edge.buffer.states import State
from tests.edge.app.waiting import wait
from tests.edge.buffer.instances import store
from tests.edge.centrals.conftest import Start
from tests.edge.centrals.test_copy import enrol, is_at_central, state_of
from tests.edge.scripted_central import ScriptedCentral


def test_the_next_takes_over_when_the_first_is_out_for_long_and_gives_way_when_it_is_back(
    start: Start, central: ScriptedCentral, north: ScriptedCentral
) -> None:
    box = start(further_centrals=["north"], mode="fail-over", fail_over_after_s=1)
    enrol(box, central)
    sealed_for_one = store(box._spool, 1).object_id
    wait(box, lambda status: not status.queue_objects)
    enrol(box, north, "north")
    first = store(box._spool, 2).object_id
    wait(box, lambda status: not status.queue_objects)
    assert central.archived.keys() == {sealed_for_one, first}
    assert north.archived == {}, "it stands by"
    assert box.operations.status().centrals[0].in_use is False

    central.stop()
    second = store(box._spool, 3).object_id
    wait(box, lambda status: not status.queue_objects)
    assert north.archived.keys() == {second}
    assert state_of(box, second) is State.FREED, "one receipt is enough"
    assert is_at_central(box, 3)
    assert box.operations.status().centrals[0].in_use is True
    (token,) = box._spool._index.execute(
        "SELECT receipt FROM objects WHERE object_id = ?", (second,)
    ).fetchone()
    identity = box._reporting._voices["north"].identity
    assert identity is not None
    assert verify_receipt(token, identity.receipt_keys).central_id == "central-north"

    central.start()
    wait(box, lambda status: status.link.state == "connected")
    third = store(box._spool, 4).object_id
    wait(box, lambda status: not status.queue_objects)
    assert third in central.archived
    assert north.archived.keys() == {second}, "what comes from then on goes to the first again"
    assert second not in central.archived, "and what the other has is not sent twice"


def test_what_was_not_sealed_for_it_waits_for_the_first(
    start: Start, central: ScriptedCentral, north: ScriptedCentral
) -> None:
    box = start()
    enrol(box, central)
    central.stop()
    before = store(box._spool, 1).object_id
    box = start(further_centrals=["north"], mode="fail-over", fail_over_after_s=1)
    enrol(box, north, "north")
    after = store(box._spool, 2).object_id
    wait(box, lambda _: after in north.archived)
    assert state_of(box, before) is State.READY
    assert north.archived.keys() == {after}
    central.start()
    wait(box, lambda status: not status.queue_objects)
    assert central.archived.keys() == {before}


def test_one_that_the_box_was_never_enrolled_at_is_passed_over(
    start: Start, central: ScriptedCentral, north: ScriptedCentral
) -> None:
    box = start(further_centrals=["ghost", "north"], mode="fail-over", fail_over_after_s=1)
    enrol(box, central)
    enrol(box, north, "north")
    central.stop()
    object_id = store(box._spool, 1).object_id
    status = wait(box, lambda status: not status.queue_objects)
    assert north.archived.keys() == {object_id}
    assert [one.in_use for one in status.centrals] == [False, True]


def test_a_first_that_refuses_the_box_is_out_too(
    start: Start, central: ScriptedCentral, north: ScriptedCentral
) -> None:
    box = start(further_centrals=["north"], mode="fail-over", fail_over_after_s=1)
    enrol(box, central)
    enrol(box, north, "north")
    central.revoked = True
    object_id = store(box._spool, 1).object_id
    status = wait(box, lambda status: not status.queue_objects)
    assert north.archived.keys() == {object_id}
    assert status.accepting
