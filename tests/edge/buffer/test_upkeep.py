"""The thread that frees in the background."""

from __future__ import annotations

from pathlib import Path

from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.buffer.upkeep import Upkeep
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import store
from tests.edge.buffer.test_retention import DAY, counts, files, receipted


def test_the_upkeep_frees_what_the_site_wants_no_more(open_spool: OpenSpool, tmp_path: Path) -> None:
    """Retention was switched off since the last life."""
    spool = open_spool(retain=DAY)
    for number in range(3):
        receipted(spool, number)
    unsent = store(spool, 4).object_id
    spool.close()
    spool = open_spool()
    assert counts(spool) == {State.RETAINED: 3, State.READY: 1}

    upkeep = Upkeep(spool.room, spool.retained, spool.queue.catch_up)
    upkeep.start()
    upkeep.stop(10)  # it ends what it is doing

    assert counts(spool) == {State.READY: 1}
    assert files(tmp_path) == {unsent}


def test_the_upkeep_ends_with_the_spool(spool: Spool) -> None:
    upkeep = Upkeep(spool.room, spool.retained, spool.queue.catch_up)
    upkeep.start()
    spool.close()
    upkeep.soon()
    upkeep.stop(10)
    assert not upkeep._thread.is_alive()
