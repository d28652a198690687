"""What is owed to other destinations: each by itself, nothing freed before its time, through crashes and damage."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from contract.identifiers import ObjectId
from contract.priority import Priority
from contract.sealing import DataKeyRing
from edge.buffer.deliveries import Delivery, DeliveryTally
from edge.buffer.errors import SpoolClosedError, UnknownObjectError, WrongStateError
from edge.buffer.label import Label
from edge.buffer.retention import Freeing
from edge.buffer.spool import Spool
from edge.buffer.states import State
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import ORIGIN, Central, content_of, store
from tests.edge.buffer.test_crash import check_files_match_rows, live

LONG_S = 3600.0


def to(*destinations: str) -> Callable[[Label], tuple[str, ...]]:
    return lambda _: destinations


def receipt(spool: Spool) -> ObjectId:
    """Let central have whatever goes next."""
    claimed = spool.queue.claim(lease_s=60)
    assert claimed is not None
    spool.queue.acknowledge(claimed.object_id, "a receipt")
    return claimed.object_id


def due(spool: Spool, destination: str) -> Delivery:
    delivery = spool.deliveries.next(destination)
    assert delivery is not None
    return delivery


def state_of(spool: Spool, object_id: ObjectId) -> State:
    (row,) = [
        row for row in spool.holdings.list_objects(states=list(State), limit=99) if row.object_id == object_id
    ]
    return row.state


def counts(spool: Spool, destination: str) -> tuple[int, int]:
    tally = spool.deliveries.tallies().get(destination, DeliveryTally(0, 0, 0, None))
    return tally.waiting, tally.set_aside


def file_of(root: Path, object_id: ObjectId) -> Path | None:
    return next((path for path in root.rglob(f"{object_id}.sealed")), None)


def test_an_object_stays_until_everybody_it_is_owed_to_has_it(
    open_spool: OpenSpool, tmp_path: Path, receiving_central: Central
) -> None:
    spool = open_spool(route=to("PACS", "ARCHIVE"))
    object_id = store(spool, 1).object_id
    assert due(spool, "PACS") == Delivery(
        object_id,
        "PACS",
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.3.1",
        "1.2.840.10008.1.2.1",
        len(content_of(1)),
        0,
    )

    assert spool.deliveries.deliver(due(spool, "PACS"))
    assert spool.deliveries.next("PACS") is None
    assert counts(spool, "ARCHIVE") == (1, 0)
    receipt(spool)
    assert state_of(spool, object_id) is State.OWED
    assert spool.holdings.depth().unsent.objects == 0
    assert spool.retained.free(Freeing(want_bytes=1 << 40)).objects == 0
    assert receiving_central.unseal(spool, object_id) == content_of(1)
    with pytest.raises(WrongStateError):
        spool.queue.acknowledge(object_id, "again")

    assert spool.deliveries.deliver(due(spool, "ARCHIVE"))
    assert state_of(spool, object_id) is State.FREED
    assert file_of(tmp_path, object_id) is None


def test_central_is_not_left_out_however_many_others_have_it(open_spool: OpenSpool) -> None:
    spool = open_spool(route=to("PACS"))
    object_id = store(spool, 1).object_id
    spool.deliveries.deliver(due(spool, "PACS"))
    assert state_of(spool, object_id) is State.READY
    assert spool.queue.claim(lease_s=1) is not None


def test_a_site_that_keeps_images_keeps_them_after_the_last_delivery(open_spool: OpenSpool) -> None:
    spool = open_spool(route=to("PACS"), retain=timedelta(days=1))
    object_id = store(spool, 1).object_id
    receipt(spool)
    spool.deliveries.deliver(due(spool, "PACS"))
    assert state_of(spool, object_id) is State.RETAINED


def test_only_what_a_rule_names_is_owed(open_spool: OpenSpool) -> None:
    spool = open_spool(
        route=lambda label: ("PACS",) if label.identity.sop_instance_uid == "1.2.3.2" else ()  # type: ignore[union-attr]
    )
    first, second = store(spool, 1).object_id, store(spool, 2).object_id
    assert due(spool, "PACS").object_id == second
    assert receipt(spool) == first
    assert state_of(spool, first) is State.FREED


TO_PACS = replace(ORIGIN, called_ae_title="ARCHIVE")


def to_pacs_by_called(label: Label) -> tuple[str, ...]:
    return ("PACS",) if label.origin.called_ae_title == "ARCHIVE" else ()


@pytest.mark.parametrize("overtaken", [False, True])
def test_the_same_bytes_sent_again_to_another_name_go_where_that_one_leads(
    open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch, overtaken: bool
) -> None:
    """The image lies here still for central, so its resend is absorbed; before or after its file was synced."""
    spool = open_spool(route=to_pacs_by_called)
    first = store(spool, 1).object_id
    assert store(spool, 1).outcome == "duplicate"
    assert counts(spool, "PACS") == (0, 0)
    if overtaken:
        monkeypatch.setattr(spool.entrance, "absorb", lambda *_: None)

    assert store(spool, 1, origin=TO_PACS).object_id == first
    assert store(spool, 1, origin=TO_PACS).object_id == first

    assert counts(spool, "PACS") == (1, 0)
    assert receipt(spool) == first
    assert state_of(spool, first) is State.OWED
    assert spool.deliveries.deliver(due(spool, "PACS"))
    assert state_of(spool, first) is State.FREED


def test_what_a_resend_adds_outlives_a_restart_and_what_has_ended_stays_ended(open_spool: OpenSpool) -> None:
    spool = open_spool(route=to_pacs_by_called)
    store(spool, 1)
    store(spool, 1, origin=TO_PACS)
    spool.close()

    spool = open_spool(route=to_pacs_by_called)
    assert spool.deliveries.deliver(due(spool, "PACS"))
    assert store(spool, 1, origin=TO_PACS).outcome == "duplicate"
    assert counts(spool, "PACS") == (0, 0)


def test_a_resend_of_what_the_site_keeps_near_is_owed(open_spool: OpenSpool) -> None:
    spool = open_spool(route=to_pacs_by_called, retain=timedelta(hours=1))
    first = store(spool, 1).object_id
    receipt(spool)
    assert state_of(spool, first) is State.RETAINED

    assert store(spool, 1, origin=TO_PACS).object_id == first

    assert state_of(spool, first) is State.OWED
    assert spool.deliveries.deliver(due(spool, "PACS"))
    assert state_of(spool, first) is State.RETAINED
    assert store(spool, 1, origin=TO_PACS).object_id == first
    assert state_of(spool, first) is State.RETAINED


def test_a_resend_wakes_the_worker_of_its_destination(open_spool: OpenSpool) -> None:
    spool = open_spool(route=to_pacs_by_called)
    first = store(spool, 1).object_id
    woken: list[bool] = []
    worker = threading.Thread(target=lambda: woken.append(spool.deliveries.wait("PACS", 60)))
    worker.start()

    store(spool, 1, origin=TO_PACS)

    worker.join(60)
    assert woken == [True]
    assert due(spool, "PACS").object_id == first


def test_a_copy_is_owed_by_what_the_object_is_sealed_for_and_not_by_its_resend(
    open_spool: OpenSpool, receiving_central: Central
) -> None:
    """The second central was made known between the two: it could open nothing of the object that is here."""
    second = Central().private.public_key()
    spool = open_spool(route=lambda label: ("second",) if second.key_id.hex() in label.sealed_for else ())
    store(spool, 1)
    spool.entrance.set_keys(DataKeyRing((receiving_central.private.public_key(), second)))

    assert store(spool, 1).outcome == "duplicate"
    store(spool, 2)

    assert counts(spool, "second") == (1, 0)


def test_what_is_put_off_lets_the_next_one_pass_and_comes_back_after_a_restart(open_spool: OpenSpool) -> None:
    spool = open_spool(route=to("PACS"))
    first, second = store(spool, 1).object_id, store(spool, 2).object_id
    spool.deliveries.put_off(due(spool, "PACS"), error="busy", retry_in_s=LONG_S)
    assert due(spool, "PACS").object_id == second
    spool.deliveries.deliver(due(spool, "PACS"))
    assert spool.deliveries.next("PACS") is None
    assert not spool.deliveries.wait("PACS", 0)

    spool.close()
    spool = open_spool(route=to("PACS"))
    again = due(spool, "PACS")
    assert (again.object_id, again.attempts) == (first, 1)


def test_what_is_urgent_overtakes_at_a_destination_and_the_oldest_has_every_fourth_turn(
    open_spool: OpenSpool,
) -> None:
    ranks = {"1.2.3.3": Priority.HIGH, "1.2.3.4": Priority.STAT, "1.2.3.5": Priority.LOW}
    spool = open_spool(
        route=to("PACS"),
        rank=lambda label: ranks.get(label.identity.sop_instance_uid, Priority.ROUTINE),  # type: ignore[union-attr]
    )
    objects = [store(spool, number).object_id for number in range(1, 6)]
    receipt(spool)
    left = []
    for _ in range(3):
        delivery = due(spool, "PACS")
        left.append(delivery.object_id)
        spool.deliveries.put_off(delivery, error="busy", retry_in_s=LONG_S)
        spool.deliveries.try_again("PACS", delivery.object_id)
    assert left == [objects[3]] * 3
    assert due(spool, "PACS").object_id == objects[0], "the fourth turn is the oldest's"
    for expected in (3, 2, 0):
        delivery = due(spool, "PACS")
        assert delivery.object_id == objects[expected]
        assert spool.deliveries.deliver(delivery)


def test_a_worker_wakes_for_what_arrives_and_for_the_end(open_spool: OpenSpool) -> None:
    spool = open_spool(route=to("PACS"))
    woken: list[object] = []

    def work() -> None:
        woken.append(spool.deliveries.wait("PACS", None))
        try:
            while spool.deliveries.wait("OTHER", None):
                pass
        except SpoolClosedError as error:
            woken.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    store(spool, 1)
    spool.holdings.depth()
    worker.join(0.5)
    spool.close()
    worker.join(60)
    assert not worker.is_alive()
    assert woken[0] is True
    assert isinstance(woken[1], SpoolClosedError)


def test_what_is_set_aside_waits_for_a_person(open_spool: OpenSpool) -> None:
    spool = open_spool(route=to("PACS"))
    object_id = store(spool, 1).object_id
    receipt(spool)
    assert spool.deliveries.set_aside(due(spool, "PACS"), reason="cannot understand")
    spool.close()

    spool = open_spool(route=to("PACS"))
    assert state_of(spool, object_id) is State.OWED
    assert spool.deliveries.next("PACS") is None
    assert counts(spool, "PACS") == (0, 1)
    (entry,) = spool.deliveries.set_aside_rows(limit=9)
    assert (entry.object_id, entry.destination, entry.reason) == (object_id, "PACS", "cannot understand")
    assert (entry.calling_ae_title, entry.study_instance_uid, entry.attempts) == ("CT1", "1.2.9", 1)

    assert spool.deliveries.try_again("PACS", object_id) == 1
    assert due(spool, "PACS").attempts == 1
    spool.deliveries.set_aside(due(spool, "PACS"), reason="again")
    assert spool.deliveries.try_again("PACS") == 1
    spool.deliveries.set_aside(due(spool, "PACS"), reason="and again")

    assert spool.deliveries.give_up("PACS", object_id) == 1
    assert state_of(spool, object_id) is State.FREED
    with pytest.raises(WrongStateError, match="given-up for PACS"):
        spool.deliveries.try_again("PACS", object_id)
    with pytest.raises(UnknownObjectError):
        spool.deliveries.give_up("ELSEWHERE", object_id)


def test_a_destination_that_is_gone_is_given_up_whole(open_spool: OpenSpool, tmp_path: Path) -> None:
    spool = open_spool(route=to("GONE"))
    for number in range(150):
        store(spool, number, b"small")
        receipt(spool)
    spool.close()
    spool = open_spool()  # not configured any more
    assert counts(spool, "GONE") == (150, 0)
    assert spool.deliveries.give_up("GONE") == 150
    assert spool.deliveries.tallies() == {}
    assert {row.state for row in spool.holdings.list_objects(states=list(State), limit=999)} == {State.FREED}
    check_files_match_rows(spool, tmp_path / "spool")


def test_an_answer_that_comes_after_it_was_given_up_changes_nothing(open_spool: OpenSpool) -> None:
    spool = open_spool(route=to("PACS"))
    store(spool, 1)
    delivery = due(spool, "PACS")
    spool.deliveries.give_up("PACS")
    assert not spool.deliveries.deliver(delivery)
    spool.deliveries.put_off(delivery, error="late", retry_in_s=0)
    assert spool.deliveries.next("PACS") is None


def test_a_lost_index_owes_everything_again(open_spool: OpenSpool, tmp_path: Path) -> None:
    spool = open_spool(route=to("PACS"))
    object_id = store(spool, 1).object_id
    spool.deliveries.deliver(due(spool, "PACS"))
    receipt_of_none = spool.deliveries.next("PACS")
    assert receipt_of_none is None
    spool.close()
    for path in (tmp_path / "spool").glob("index.sqlite3*"):
        path.unlink()
    spool = open_spool(route=to("PACS"))
    assert due(spool, "PACS").object_id == object_id


def test_damage_sets_deliveries_aside_and_a_resend_takes_them_over(open_spool: OpenSpool) -> None:
    spool = open_spool(route=to("PACS"))
    waiting, owed = store(spool, 1).object_id, store(spool, 2).object_id
    spool.deliveries.deliver(due(spool, "PACS"))
    spool.queue.claim(lease_s=60)
    receipt(spool)
    spool.queue.release(waiting, error="", retry_in_s=0)
    spool.deliveries.try_again("PACS")
    assert state_of(spool, owed) is State.OWED

    assert spool.inspection.condemn(owed, "a block has changed") is State.FREED
    assert counts(spool, "PACS") == (0, 1)
    assert spool.deliveries.try_again("PACS") == 0
    with pytest.raises(WrongStateError, match="no longer on this box"):
        spool.deliveries.try_again("PACS", owed)

    third = store(spool, 3).object_id
    assert spool.inspection.condemn(third, "a block has changed") is State.QUARANTINED
    assert counts(spool, "PACS") == (0, 2)
    again = store(spool, 3).object_id
    assert again != third
    assert spool.queue.claim_several(lease_s=60, max_objects=1, max_bytes=0, these=[again])
    spool.queue.acknowledge(again, "a receipt")
    assert state_of(spool, third) is State.FREED
    assert state_of(spool, again) is State.OWED
    assert counts(spool, "PACS") == (1, 1)


@pytest.mark.parametrize("point", ["after delivered", "after settled", "after owed"])
def test_a_crash_between_two_steps(
    point: str, tmp_path: Path, open_spool: OpenSpool, receiving_central: Central
) -> None:
    process = live(tmp_path / "spool", receiving_central, point)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 9
    object_id = ObjectId(said.split()[1].decode())

    spool = open_spool(route=to("PACS"))
    if point == "after owed":
        assert state_of(spool, object_id) is State.OWED
        assert receiving_central.unseal(spool, object_id) == content_of(1)
        spool.deliveries.deliver(due(spool, "PACS"))
    assert state_of(spool, object_id) is State.FREED
    assert spool.deliveries.next("PACS") is None
    check_files_match_rows(spool, tmp_path / "spool")


def test_kill_9_in_a_storm_owes_everything_that_was_acknowledged(
    tmp_path: Path, open_spool: OpenSpool, receiving_central: Central
) -> None:
    """Central and a destination take things meanwhile; what the next life has not freed, both have or are owed."""
    stored: dict[str, int] = {}
    delivered: set[str] = set()
    for cycle in range(6):
        process = live(tmp_path / "spool", receiving_central, "delivering storm", str(1000 * cycle))
        assert process.stdout is not None
        lines: list[bytes] = []
        while len(lines) < 2 + 5 * cycle or sum(line.startswith(b"delivered") for line in lines) < 2:
            lines.append(process.stdout.readline())
            assert lines[-1], "it ended by itself"
        process.kill()
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        for line in lines:
            number, _, object_id = line.strip().decode().partition(" ")
            if line.endswith(b"\n") and number == "delivered":
                delivered.add(object_id)
            elif line.endswith(b"\n"):
                stored[object_id] = int(number)

    spool = open_spool(route=to("PACS"))
    # The process may have ended before it could say of its last one that it was delivered.
    rows = spool._index.execute("SELECT object_id FROM deliveries WHERE state = 'delivered'", ())
    known = {row[0] for row in rows}
    assert delivered <= known
    owed = set()
    while (delivery := spool.deliveries.next("PACS")) is not None:
        owed.add(delivery.object_id)
        assert receiving_central.unseal(spool, delivery.object_id)
        assert spool.deliveries.deliver(delivery)
    assert set(stored) <= owed | known
    assert not owed & known
    assert len(delivered) > 6
    check_files_match_rows(spool, tmp_path / "spool")
