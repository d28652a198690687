"""What leaves first: priority, short studies, and the oldest in every fourth turn; several at once within bounds."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from contract.identifiers import ObjectId
from contract.priority import Priority
from edge.buffer.label import Label
from edge.buffer.records import InstanceIdentity
from edge.buffer.spool import Spool
from edge.buffer.states import State
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import ORIGIN, Central

CENTRAL = Central()


class Queue:
    """A spool that is filled study by study, and what leaves it."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.names: dict[str, str] = {}

    def store(self, study: str, objects: int, size_bytes: int = 500) -> None:
        for number in range(objects):
            self.store_one(study, f"{study}.{number}", size_bytes)

    def store_one(self, study: str, name: str, size_bytes: int = 500) -> None:
        with self.spool.entrance.receive(ORIGIN) as reception:
            reception.write(name.encode().ljust(size_bytes, b"\0"))
            identity = InstanceIdentity("1.2.840.10008.5.1.4.1.1.2", name, study, f"{study}.9", "CT")
            self.names[str(reception.commit(identity).object_id)] = name

    def next(self, *, max_objects: int = 1, max_bytes: int = 1 << 30) -> list[str]:
        claims = self.spool.queue.claim_several(lease_s=60, max_objects=max_objects, max_bytes=max_bytes)
        return [self.names[claimed.object_id] for claimed in claims]


def studies(names: list[str]) -> list[str]:
    return [name.rpartition(".")[0] for name in names]


def test_short_studies_overtake_and_the_oldest_never_starves(spool: Spool) -> None:
    queue = Queue(spool)
    queue.store("1.1", 20)
    queue.store("1.2", 4)
    left = [name for _ in range(8) for name in queue.next()]
    assert studies(left).count("1.2") == 4
    assert studies(left[:4]).count("1.1") == 1, "one turn of four is the oldest's"
    assert left[3] == "1.1.0"


def test_a_flood_of_short_studies_does_not_hold_the_oldest_up(spool: Spool) -> None:
    queue = Queue(spool)
    queue.store("1.1", 3)
    left: list[str] = []
    for number in range(12):
        queue.store(f"1.{number + 2}", 1)
        left += queue.next()
    assert [name for name in left if name.startswith("1.1.")] == ["1.1.0", "1.1.1", "1.1.2"]


def test_what_was_put_first_goes_first_newest_first_and_over_a_restart(open_spool: OpenSpool) -> None:
    spool = open_spool()
    queue = Queue(spool)
    queue.store("1.1", 3)
    queue.store("1.2", 30)
    assert spool.queue.prioritise("1.2") == 30
    assert spool.queue.prioritise("1.99") == 0
    spool.close()
    queue.spool = open_spool()
    left = [name for _ in range(4) for name in queue.next()]
    assert left == ["1.2.29", "1.2.28", "1.2.27", "1.1.0"]


def test_of_what_is_stat_the_newest_goes_first_and_of_what_is_high_the_oldest(open_spool: OpenSpool) -> None:
    urgent = {"1.2": Priority.STAT, "1.3": Priority.STAT, "1.4": Priority.HIGH, "1.5": Priority.HIGH}

    def rank(label: Label) -> Priority:
        assert label.identity is not None
        return urgent.get(label.identity.study_instance_uid, Priority.ROUTINE)

    queue = Queue(open_spool(rank=rank))
    for study in ("1.1", "1.2", "1.4", "1.3", "1.5"):
        queue.store(study, 2)
    left = [name for _ in range(8) for name in queue.next()]
    stat, high = ["1.3.1", "1.3.0", "1.2.1", "1.2.0"], ["1.4.0", "1.4.1"]
    assert left == [*stat[:3], "1.1.0", stat[3], *high, "1.1.1"]


def test_several_go_together_as_far_as_they_fit(spool: Spool) -> None:
    queue = Queue(spool)
    queue.store("1.1", 5)
    size = spool.holdings.list_objects(states=[State.READY], limit=1)[0].stored_bytes
    assert len(queue.next(max_objects=10, max_bytes=3 * size + size // 2)) == 3
    assert len(queue.next(max_objects=1, max_bytes=10 * size)) == 1
    assert len(queue.next(max_objects=10, max_bytes=1)) == 1, "one goes whatever its size"
    assert queue.next(max_objects=10) == []


def test_room_beside_a_short_study_is_filled_with_the_oldest(spool: Spool) -> None:
    queue = Queue(spool)
    queue.store("1.1", 4)
    queue.store("1.2", 2)
    assert queue.next(max_objects=4) == ["1.2.0", "1.2.1", "1.1.0", "1.1.1"]


def test_an_object_that_fails_and_fails_goes_by_itself(spool: Spool) -> None:
    queue = Queue(spool)
    queue.store("1.1", 1)
    for _ in range(8):
        (claimed,) = spool.queue.claim_several(lease_s=60, max_objects=9, max_bytes=1 << 30)
        spool.queue.release(claimed.object_id, error="central failed", retry_in_s=0)
    queue.store("1.2", 4)
    assert queue.next(max_objects=9) == ["1.1.0"]
    assert len(queue.next(max_objects=9)) == 4


def test_an_interrupted_pack_is_claimed_as_it_was_or_not_at_all(spool: Spool) -> None:
    queue = Queue(spool)
    queue.store("1.1", 3)
    claims = spool.queue.claim_several(lease_s=60, max_objects=3, max_bytes=1 << 30)
    these = [claimed.object_id for claimed in claims]

    def again() -> list[ObjectId]:
        found = spool.queue.claim_several(lease_s=60, max_objects=3, max_bytes=1 << 30, these=these)
        return [claimed.object_id for claimed in found]

    assert again() == [], "they are being sent"
    for object_id in these:
        spool.queue.release(object_id, error="the line broke", retry_in_s=3600)
    assert again() == these, "before their time"
    for object_id in these[:2]:
        spool.queue.release(object_id, error="the line broke", retry_in_s=3600)
    assert again() == []
    assert queue.next() == []


def test_claims_stay_quick_with_a_long_queue(spool: Spool) -> None:
    """20,000 rows over 200 studies; what grows with the queue is read from one index, once a second."""
    queue = Queue(spool)
    queue.store("1.1", 1)
    with spool._index.transaction(durable=False):
        spool._index.execute(
            """
            WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 20000)
            INSERT INTO objects (object_id, state, success_answered, sop_class_uid, sop_instance_uid,
                study_instance_uid, series_instance_uid, calling_ae_title, called_ae_title, peer_address, sha256,
                size_bytes, stored_bytes, received_at_utc, due_s, attempts, damaged)
            SELECT printf('%032x', n), 'ready', 1, '1', '1.' || n, '1.2.' || (n % 200), '1', 'A', 'B', 'C',
                printf('%064x', n), 10, 10, '2026-01-01T00:00:00.000000Z', 0, 0, 0 FROM number
            """,
            (),
        )
    began_s = time.thread_time()
    for _ in range(50):
        assert len(spool.queue.claim_several(lease_s=60, max_objects=20, max_bytes=1 << 20)) == 20
    assert time.thread_time() - began_s < 5.0


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 5), st.sampled_from(list(Priority)), st.integers(1, 3)),
            st.none(),
            st.none(),
        ),
        max_size=60,
    )
)
def test_no_priority_starves_another(steps: list[tuple[int, Priority, int] | None]) -> None:
    """Against a model: three of four turns go to the highest priority that waits, the fourth to the oldest.

    So whatever comes in, an object with n older ones before it leaves within 4(n + 1) turns.
    """
    ranked: dict[str, Priority] = {}
    with TemporaryDirectory() as folder:
        spool = Spool.open(
            Path(folder) / "spool",
            reserve_bytes=0,
            quarantine_max_bytes=0,
            keys=CENTRAL.ring(),
            rank=lambda label: ranked[label.identity.sop_instance_uid],  # type: ignore[union-attr]
        )
        queue = Queue(spool)
        waiting: list[str] = []  # by age
        due: dict[str, int] = {}  # the turn by which it has left
        turn = 0
        for step in [*steps, *[None] * 250]:
            if step is not None:
                study, priority, objects = step
                for _ in range(objects):
                    name = f"1.{study}.{len(ranked)}"
                    ranked[name] = priority
                    queue.store_one(f"1.{study}", name)
                    due[name] = turn + 4 * (len(waiting) + 1)
                    waiting.append(name)
                continue
            if not waiting:
                break
            turn += 1
            (left,) = queue.next()
            urgent = max(ranked[name] for name in waiting)
            if turn % 4 == 0:
                assert left == waiting[0]
            elif urgent > Priority.ROUTINE:
                assert ranked[left] == urgent
            assert turn <= due[left], "no later than the oldest ones before it let it"
            waiting.remove(left)
        assert not waiting
        spool.close()
