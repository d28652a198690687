"""What the spool says of what it holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from edge.buffer.spool import Spool
from edge.buffer.states import UNFREED, State
from tests.edge.buffer.instances import claim, quarantine, store


def test_the_newest_that_came_in_are_given_page_by_page_oldest_first(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        store(spool, number)
    claim(spool)
    monkeypatch.setattr("edge.buffer.holdings._RESTORED_OBJECTS", 5)
    monkeypatch.setattr("edge.buffer.holdings._RESTORED_AT_ONCE", 2)

    found = [row.sop_instance_uid for row in spool.holdings.received_since(None)]

    assert found == [f"1.2.3.{number}" for number in range(2, 7)]
    assert list(spool.holdings.received_since(datetime.now(UTC) + timedelta(days=1))) == []


def test_depth_counts_by_state(spool: Spool) -> None:
    assert spool.holdings.depth().oldest_unsent_at_utc is None
    assert spool.holdings.depth().last_received_at_utc is None
    stored = [store(spool, number) for number in range(4)]
    quarantine(spool, 1000)
    claim(spool)
    spool.queue.acknowledge(stored[0].object_id, "receipt")
    claim(spool)

    depth = spool.holdings.depth()

    assert set(depth.by_state) == set(UNFREED)
    assert {state: tally.objects for state, tally in depth.by_state.items()} == {
        State.READY: 2,
        State.SENDING: 1,
        State.ACKNOWLEDGED: 0,
        State.OWED: 0,
        State.RETAINED: 0,
        State.QUARANTINED: 1,
    }
    assert depth.unsent.objects == 3
    assert depth.unsent.stored_bytes == sum(one.stored_bytes for one in stored[1:])
    assert depth.received_since_open == 4
    assert depth.oldest_unsent_at_utc is not None
    assert depth.last_received_at_utc is not None
