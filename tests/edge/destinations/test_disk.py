"""A dead destination fills the disk: nothing owed to it makes way, and the box says what it waits for."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from contract.control import LinkStatus
from edge.box_status import not_accepting_because
from edge.buffer.records import Disk, Tally
from edge.buffer.retention import Freeing
from edge.buffer.states import State
from tests.edge.buffer.instances import held_files
from tests.edge.destinations.conftest import MakeBox

FULL = Disk(total_bytes=10 << 30, free_bytes=1 << 30, reserve_bytes=2 << 30)


def test_room_is_made_of_what_everybody_has_and_of_nothing_else(make_box: MakeBox) -> None:
    box = make_box(dimse=[{"name": "PACS", "ae_title": "PACS", "host": "127.0.0.1", "port": 1}])
    box.spool.retained.period = timedelta(days=1)
    owed = box.store()
    box.spool.holdings.depth()  # its row is in the index, by the rule so far
    box.route = lambda _: ()
    retained = box.store()
    box.give_to_central()
    assert box.spool.holdings.depth().by_state[State.OWED].objects == 1
    assert box.spool.holdings.depth().by_state[State.RETAINED].objects == 1

    freed = box.spool.retained.free(Freeing(want_bytes=1 << 40))
    assert freed.objects == 1
    states = {
        row.object_id: row.state for row in box.spool.holdings.list_objects(states=list(State), limit=9)
    }
    assert states == {owed: State.OWED, retained: State.FREED}
    assert _sealed(box.folder) == {owed}
    assert box.spool.room.disk().hours_to_full is None

    box.spool.deliveries.give_up("PACS")
    assert box.spool.holdings.depth().by_state[State.RETAINED].objects == 1
    assert box.spool.retained.free(Freeing(want_bytes=1 << 40)).objects == 1
    assert _sealed(box.folder) == set()


def test_a_full_disk_names_the_destinations_where_they_are_the_reason() -> None:
    link = LinkStatus(state="connected")
    assert "once central has taken" in not_accepting_because(link, FULL, Tally(0, 0))
    sentence = not_accepting_because(link, FULL, Tally(12, 3 << 30))
    assert "12 objects, 3.00 GiB, wait for other destinations than central alone" in sentence


def _sealed(folder: Path) -> set[str]:
    return {path.stem for path in held_files(folder)}
