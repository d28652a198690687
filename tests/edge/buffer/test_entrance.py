"""Where instances come in: duplicates, refusals, and who is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.identifiers import ObjectId
from edge.buffer.errors import DiskFullError, NotEnrolledError
from edge.buffer.label import Label
from edge.buffer.records import InstanceIdentity
from edge.buffer.spool import Spool
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import (
    ORIGIN,
    Central,
    content_of,
    identity,
    leftovers,
    quarantine,
    store,
    taken_files,
)


def test_an_identical_resend_is_absorbed_and_another_content_is_kept(
    spool: Spool, tmp_path: Path, receiving_central: Central
) -> None:
    first = store(spool, 1)

    again = store(spool, 1)
    other = store(spool, 1, content=b"the same UID, another image")

    assert (again.outcome, again.object_id) == ("duplicate", first.object_id)
    assert other.outcome == "stored"
    assert sorted(leftovers(spool)) == sorted([f"{first.object_id}.sealed", f"{other.object_id}.sealed"])
    assert receiving_central.unseal(spool, first.object_id) == content_of(1)


def test_two_identical_instances_at_the_same_moment_become_one(spool: Spool, tmp_path: Path) -> None:
    first, second = spool.entrance.receive(ORIGIN), spool.entrance.receive(ORIGIN)
    first.write(b"same")
    second.write(b"same")
    # Hides the first row from the early question, as a race would; the transaction must still see it.
    original, spool.entrance.absorb = spool.entrance.absorb, lambda *_: None  # type: ignore[method-assign]

    kept = first.commit(identity(1))
    absorbed = second.commit(identity(1))

    spool.entrance.duplicate_of = original  # type: ignore[method-assign]
    assert (absorbed.outcome, absorbed.object_id) == ("duplicate", kept.object_id)
    assert leftovers(spool) == [f"{kept.object_id}.sealed"]


def test_an_instance_that_is_overtaken_between_question_and_row_is_a_duplicate(spool: Spool) -> None:
    first, second = spool.entrance.receive(ORIGIN), spool.entrance.receive(ORIGIN)
    first.write(b"same")
    second.write(b"same")
    original = spool.entrance.absorb

    def overtaken(label: Label, identity_: InstanceIdentity) -> ObjectId | None:
        answer = original(label, identity_)
        spool.entrance.absorb = original  # type: ignore[method-assign]
        first.commit(identity(1))
        return answer

    spool.entrance.absorb = overtaken  # type: ignore[method-assign]
    absorbed = second.commit(identity(1))

    assert (absorbed.outcome, absorbed.object_id) == ("duplicate", first.object_id)
    assert leftovers(spool) == [f"{first.object_id}.sealed"]


def test_after_central_has_it_a_resend_is_stored_again(spool: Spool) -> None:
    store(spool, 1)
    claimed = spool.queue.claim(lease_s=60)
    assert claimed is not None
    spool.queue.acknowledge(claimed.object_id, "receipt")

    assert store(spool, 1).outcome == "stored"


def test_below_the_reserve_nothing_is_taken_in(open_spool: OpenSpool) -> None:
    spool = open_spool(reserve_bytes=1 << 62)

    assert not spool.room.disk().accepting
    with pytest.raises(DiskFullError) as caught:
        spool.entrance.receive(ORIGIN)
    assert caught.value.reserve_bytes == 1 << 62
    assert caught.value.free_bytes is not None
    assert 0 < caught.value.free_bytes < spool.room.disk().total_bytes


def test_before_enrolment_nothing_is_taken_in(open_spool: OpenSpool, receiving_central: Central) -> None:
    spool = open_spool(keys=None)
    with pytest.raises(NotEnrolledError):
        spool.entrance.receive(ORIGIN)

    spool.entrance.set_keys(receiving_central.ring())

    assert store(spool, 1).outcome == "stored"


def test_whoever_asked_is_told_of_each_stored_instance_once_it_is_durable(open_spool: OpenSpool) -> None:
    depths: list[int] = []
    spool = open_spool(on_stored=lambda _: depths.append(spool.holdings.depth().unsent.objects))
    store(spool, 1)
    store(spool, 2)
    quarantine(spool, 10)
    assert depths == [1, 2]


def test_an_instance_that_nobody_could_be_told_of_is_kept_all_the_same(
    open_spool: OpenSpool, tmp_path: Path
) -> None:
    """Else its resend would be the duplicate of a file that is gone, and be answered with success."""

    def failing(_label: Label) -> None:
        raise ValueError("whoever listens has a fault")

    spool = open_spool(on_stored=failing)
    stored = store(spool, 1)
    assert [path.stem for path in taken_files(spool, tmp_path / "spool")] == [stored.object_id]
    assert store(spool, 1).outcome == "duplicate"
    with spool.holdings.open_object(stored.object_id) as file:
        assert file.read()
