"""Several centrals that each get everything: a state each, none waits for another, nothing is freed before the last."""

from __future__ import annotations

import pytest

from contract.control import BoxStatus, EnrolParams
from contract.identifiers import ObjectId
from contract.receipt import verify_receipt
from contract.transfer import UPLOADS_PATH, Problem
from edge.app import Box
from edge.buffer.states import State
from edge.centrals import UnknownCentralError
from edge.status_text import status_text
from tests.edge.app.waiting import wait
from tests.edge.buffer.instances import content_of, store
from tests.edge.centrals.conftest import Start
from tests.edge.scripted_central import ScriptedCentral, ScriptedHandler


def enrol(box: Box, central: ScriptedCentral, name: str = "central") -> None:
    box.operations.enrol(EnrolParams(pairing=str(central.pairing), central=name))


def state_of(box: Box, object_id: ObjectId) -> State:
    rows = box._spool.holdings.list_objects(states=list(State), limit=99)
    return next(row.state for row in rows if row.object_id == object_id)


def is_at_central(box: Box, number: int) -> bool:
    uid = f"1.2.3.{number}"
    return box._spool.holdings.standing([uid])[uid].at_central


def waits_for_north(status: BoxStatus) -> int:
    (north,) = [one for one in status.destinations if one.name == "north"]
    assert north.kind == "central"
    return north.waiting_objects


def test_each_gets_everything_and_a_dead_one_delays_nothing(
    start: Start, central: ScriptedCentral, north: ScriptedCentral
) -> None:
    box = start(further_centrals=["north"], mode="copy")
    enrol(box, central)
    enrol(box, north, "north")
    first = store(box._spool, 1).object_id
    wait(box, lambda _: state_of(box, first) is State.FREED)
    assert central.archived[first] == north.archived[first]
    assert is_at_central(box, 1)

    north.stop()
    second = store(box._spool, 2).object_id
    status = wait(box, lambda status: second in central.archived and status.queue_objects == 0)
    assert waits_for_north(status) == 1
    assert state_of(box, second) is State.OWED
    assert not is_at_central(box, 2), "one of two has it"
    status = wait(box, lambda status: status.centrals[0].link.state == "waiting")
    assert status.link.state == "connected"
    assert "\nnorth         copy, waiting: " in status_text(status)

    central.stop()
    north.start()
    third = store(box._spool, 3).object_id
    wait(box, lambda _: {second, third} <= north.archived.keys())
    assert state_of(box, second) is State.FREED
    assert is_at_central(box, 2)
    assert third not in central.archived
    assert not is_at_central(box, 3)

    box = start(further_centrals=["north"], mode="copy")
    central.start()
    wait(box, lambda _: state_of(box, third) is State.FREED)
    assert central.archived[third] == north.archived[third]
    assert north.doubled == central.doubled == []


def test_each_receipt_is_kept_and_is_that_centrals_own(
    start: Start, central: ScriptedCentral, north: ScriptedCentral
) -> None:
    box = start(further_centrals=["north"], mode="copy")
    enrol(box, central)
    enrol(box, north, "north")
    object_id = store(box._spool, 1).object_id
    wait(box, lambda _: state_of(box, object_id) is State.FREED)
    with box._spool._lock.held():
        index = box._spool._index
        (kept,) = index.execute("SELECT receipt FROM objects", ()).fetchone()
        (copy,) = index.execute("SELECT receipt FROM deliveries WHERE destination = 'north'", ()).fetchone()
    identities = {name: box._reporting._voices[name].identity for name in ("central", "north")}
    for name, token in (("central", kept), ("north", copy)):
        identity = identities[name]
        assert identity is not None
        receipt = verify_receipt(token, identity.receipt_keys)
        assert (receipt.central_id, receipt.object_id) == (identity.enrolment.answer.central_id, object_id)
    assert identities["central"] != identities["north"]


def test_a_central_that_is_added_later_gets_what_comes_from_then_on(
    start: Start, central: ScriptedCentral, north: ScriptedCentral
) -> None:
    box = start()
    enrol(box, central)
    central.stop()
    before = store(box._spool, 1).object_id
    box = start(further_centrals=["north"], mode="copy")
    unenrolled = store(box._spool, 2).object_id
    assert waits_for_north(box.operations.status()) == 0, "it cannot open them, so they do not wait for it"
    enrol(box, north, "north")
    after = store(box._spool, 3).object_id
    wait(box, lambda _: after in north.archived)
    central.start()
    wait(box, lambda status: not status.queue_objects)
    assert central.archived.keys() == {before, unenrolled, after}
    assert north.archived.keys() == {after}
    assert not box.operations.destinations().set_aside


def test_a_copy_that_is_refused_is_shown_and_tried_again(
    start: Start, central: ScriptedCentral, north: ScriptedCentral
) -> None:
    box = start(further_centrals=["north"], mode="copy")
    enrol(box, central)
    enrol(box, north, "north")

    def refuse(handler: ScriptedHandler) -> None:
        handler.body()
        if handler.path.startswith(UPLOADS_PATH):
            handler.problem(422, Problem.UNKNOWN_KEY, "sealed for a key that is not here")
        else:
            north.fault("POST", refuse)
            handler.problem(503, Problem.UNAVAILABLE)

    north.fault("POST", refuse)
    object_id = store(box._spool, 1).object_id
    wait(box, lambda status: bool(box.operations.destinations().set_aside))
    (entry,) = box.operations.destinations().set_aside
    assert (entry.destination, entry.object_id) == ("north", object_id)
    wait(box, lambda _: object_id in central.archived)
    assert state_of(box, object_id) is State.OWED
    box._destinations.try_again("north", object_id)
    wait(box, lambda _: state_of(box, object_id) is State.FREED)


def test_a_lost_index_owes_what_was_owed(
    start: Start, central: ScriptedCentral, north: ScriptedCentral
) -> None:
    """Rows are made again from labels, before any membership is there: the label says for whom it is sealed."""
    box = start(further_centrals=["north"], mode="copy")
    enrol(box, central)
    enrol(box, north, "north")
    central.stop()
    north.stop()
    object_id = store(box._spool, 1).object_id
    index = box._settings.spool_directory / "index.sqlite3"
    box.stop()
    for path in index.parent.glob("index.sqlite3*"):
        path.unlink()
    box.start()
    assert waits_for_north(box.operations.status()) == 1
    north.start()
    central.start()
    wait(box, lambda _: object_id in north.archived and state_of(box, object_id) is State.FREED)
    assert len(content_of(1)) == north.archived[object_id].size_bytes


def test_one_central_is_not_enrolled_under_two_names(
    start: Start, central: ScriptedCentral, north: ScriptedCentral
) -> None:
    box = start(further_centrals=["north"], mode="copy")
    enrol(box, central)
    with pytest.raises(UnknownCentralError, match="that this box knows as central"):
        enrol(box, central, "north")
    with pytest.raises(UnknownCentralError, match="no central is called south: there are central, north"):
        enrol(box, north, "south")
