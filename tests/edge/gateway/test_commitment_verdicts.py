"""What a request is judged on: every instance as it is when the last of them has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.buffer.commitments import Asker, CommitmentStore, Reference
from edge.buffer.receipts import Progress
from edge.buffer.service_database import ServiceDatabase
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.gateway.commitment_verdicts import Verdicts
from edge.gateway.service_settings import CommitmentSettings
from tests.edge.buffer.instances import claim, identity, state_of, store
from tests.edge.gateway.conftest import Gateway

FIRST, SECOND = (Reference(identity(n).sop_class_uid, identity(n).sop_instance_uid) for n in (1, 2))
WAIT_S = 3600.0


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


Judge = Callable[[], dict[int, int] | None]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spool(gateway: Gateway) -> Spool:
    return gateway.spool


@pytest.fixture
def ask(spool: Spool, tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Judge]]:
    """Ask for both instances; what judges that request."""
    database = ServiceDatabase(tmp_path / "services.sqlite3")
    requests = CommitmentStore(database, clock=clock)

    def asking(**settings: object) -> Judge:
        judging = CommitmentSettings.model_validate({"wait_hours": WAIT_S / 3600, **settings})
        verdicts = Verdicts(requests, spool.holdings, judging)
        requests.add("1.9", Asker("CT1", "DICOMNET", "10.0.0.1"), [FIRST, SECOND])
        return lambda: verdicts.judge(requests.waiting()[0])

    yield asking
    database.close()


def test_what_is_damaged_while_another_is_waited_for_is_waited_for_too(
    spool: Spool, ask: Callable[..., Judge], clock: Clock
) -> None:
    first = store(spool, 1)
    judge = ask()
    assert judge() is None
    assert spool.inspection.condemn(first.object_id, "the disk has changed the file's bytes")
    store(spool, 2)

    assert judge() is None
    clock.now_s += WAIT_S
    assert judge() == {0: 0x0112}


def test_what_was_damaged_and_came_again_is_committed_to(spool: Spool, ask: Callable[..., Judge]) -> None:
    first = store(spool, 1)
    judge = ask()
    assert judge() is None
    assert spool.inspection.condemn(first.object_id, "the disk has changed the file's bytes")
    store(spool, 2)
    assert judge() is None
    store(spool, 1)

    assert judge() == {}


def test_what_central_lost_while_another_is_waited_for_fails(
    spool: Spool, ask: Callable[..., Judge], clock: Clock
) -> None:
    first, second = store(spool, 1), store(spool, 2)
    spool.queue.acknowledge(claim(spool).object_id, "a receipt")
    judge = ask(policy="at_central")
    assert judge() is None
    assert spool.receipts.void([first.object_id], Progress()).missed == 1
    assert state_of(spool, first.object_id) is State.LOST
    assert claim(spool).object_id == second.object_id
    spool.queue.acknowledge(second.object_id, "a receipt")

    assert judge() is None
    clock.now_s += WAIT_S
    assert judge() == {0: 0x0112}
