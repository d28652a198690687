"""The life of an object after reception: lease, receipt, quarantine; and what the spool says about itself."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contract.identifiers import ObjectId, new_object_id
from edge.buffer import scanners as scanners_module
from edge.buffer.errors import (
    IndexUnreadableError,
    SpoolClosedError,
    SpoolInUseError,
    StorageFailedError,
    UnknownObjectError,
    WrongStateError,
)
from edge.buffer.label import Label
from edge.buffer.receipts import RECEIPTS_KEPT
from edge.buffer.records import Claimed, Origin, RecoveryReport
from edge.buffer.spool import Spool
from edge.buffer.states import UNFREED, State
from edge.buffer.tables import SpoolObject, utc_text
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import ORIGIN, Central, content_of, identity, store, taken_files


def claim(spool: Spool, lease_s: float = 60) -> Claimed:
    claimed = spool.claim(lease_s=lease_s)
    assert claimed is not None
    return claimed


def state_of(spool: Spool, object_id: ObjectId) -> State:
    (row,) = [row for row in spool.list_objects(states=list(State), limit=999) if row.object_id == object_id]
    return row.state


def quarantine(spool: Spool, size_bytes: int) -> ObjectId:
    """An instance nobody could identify, of incompressible bytes."""
    with spool.receive(Origin("US1", "DICOMNET", "192.0.2.9", "1.2.840.10008.1.2.4.50")) as reception:
        reception.write(os.urandom(size_bytes))
        reception.quarantine("no SOP Instance UID")
    return reception.object_id


def test_objects_are_claimed_oldest_first_and_once(spool: Spool) -> None:
    stored = [store(spool, number).object_id for number in range(3)]

    claimed = [claim(spool) for _ in range(3)]

    assert [one.object_id for one in claimed] == stored
    assert spool.claim(lease_s=60) is None
    first = claimed[0]
    assert (first.sop_instance_uid, first.calling_ae_title, first.attempts) == ("1.2.3.0", "CT1", 1)
    assert first.size_bytes == len(content_of(0))
    assert abs(datetime.now(UTC) - first.received_at_utc) < timedelta(seconds=30)


def test_eight_claimants_never_share_an_object(spool: Spool) -> None:
    for number in range(24):
        store(spool, number, content=b"x")
    claimed: list[ObjectId] = []

    def work() -> None:
        while (one := spool.claim(lease_s=60)) is not None:
            claimed.append(one.object_id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(claimed) == len(set(claimed)) == 24


def test_a_lease_that_ran_out_is_given_to_the_next(spool: Spool) -> None:
    store(spool, 1)
    first = claim(spool, lease_s=3)
    assert spool.claim(lease_s=60) is None

    assert spool.wait_for_work(60)

    again = claim(spool)
    assert (again.object_id, again.attempts) == (first.object_id, 2)


def test_only_a_receipt_frees_the_file(spool: Spool, tmp_path: Path) -> None:
    stored = store(spool, 1)
    with pytest.raises(WrongStateError) as caught:
        spool.acknowledge(stored.object_id, "receipt")
    assert caught.value.found == State.READY
    claim(spool)

    spool.acknowledge(stored.object_id, "the receipt")

    assert taken_files(spool, tmp_path) == []
    with pytest.raises(UnknownObjectError):
        spool.open_object(stored.object_id)
    (row,) = spool.list_objects(states=[State.FREED], limit=9)
    assert row.has_receipt
    assert row.freed_at_utc is not None
    with pytest.raises(WrongStateError):
        spool.acknowledge(stored.object_id, "again")


def test_the_newest_that_came_in_are_given_page_by_page_oldest_first(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        store(spool, number)
    claim(spool)
    monkeypatch.setattr("edge.buffer.spool._RESTORED_OBJECTS", 5)
    monkeypatch.setattr("edge.buffer.spool._RESTORED_AT_ONCE", 2)

    found = [row.sop_instance_uid for row in spool.received_since(None)]

    assert found == [f"1.2.3.{number}" for number in range(2, 7)]
    assert list(spool.received_since(datetime.now(UTC) + timedelta(days=1))) == []


def test_receipts_that_come_together_count_together_or_not_at_all(spool: Spool) -> None:
    for number in range(3):
        store(spool, number)
    lent = [claim(spool) for _ in range(2)]
    receipts = [(one.object_id, f"receipt {number}") for number, one in enumerate(lent)]
    (waiting,) = spool.list_objects(states=[State.READY], limit=9)
    with pytest.raises(WrongStateError):
        spool.acknowledge_all([*receipts, (waiting.object_id, "for one that was never lent")])
    assert len(spool.list_objects(states=[State.SENDING], limit=9)) == 2

    spool.acknowledge_all(receipts)

    freed = spool.list_objects(states=[State.FREED], limit=9)
    assert {row.object_id for row in freed if row.has_receipt} == {one.object_id for one in lent}


def test_a_pack_of_receipts_takes_no_more_transactions_than_one(spool: Spool) -> None:
    for number in range(10):
        store(spool, number)
    lent = [claim(spool).object_id for _ in range(10)]
    spool.acknowledge(lent[0], "receipt")  # the first one forgets old receipts, too
    statements: list[str] = []
    spool._index.db.connection().set_trace_callback(statements.append)

    spool.acknowledge(lent[1], "receipt")
    of_one = count_begun(statements)
    statements.clear()
    spool.acknowledge_all([(object_id, "receipt") for object_id in lent[2:]])

    assert count_begun(statements) == of_one > 0
    assert {row.object_id for row in spool.list_objects(states=[State.FREED], limit=99)} == set(lent)
    assert not any(spool._files.unlink(object_id) for object_id in lent)


def count_begun(statements: list[str]) -> int:
    return sum(statement.startswith("BEGIN") for statement in statements)


def test_unknown_objects_are_refused(spool: Spool) -> None:
    with pytest.raises(UnknownObjectError):
        spool.acknowledge(new_object_id(), "receipt")
    with pytest.raises(UnknownObjectError):
        spool.open_object(new_object_id())
    with pytest.raises(UnknownObjectError):
        spool.requeue(new_object_id())


def test_a_released_object_comes_back_at_its_time(spool: Spool) -> None:
    store(spool, 1)
    first = claim(spool)

    spool.release(first.object_id, error="central is away", retry_in_s=2)

    assert spool.claim(lease_s=60) is None
    (row,) = spool.list_objects(states=[State.READY], limit=9)
    assert row.last_error == "central is away"
    assert row.next_attempt_in_s is not None
    assert 0 < row.next_attempt_in_s <= 2
    began_s = time.monotonic()
    assert spool.wait_for_work(120)
    assert time.monotonic() - began_s < 60
    assert claim(spool).attempts == 2


def test_waiting_ends_with_an_arrival_a_timeout_and_the_close(spool: Spool) -> None:
    assert not spool.wait_for_work(0.02)
    answers: list[bool] = []

    def wait() -> None:
        answers.append(spool.wait_for_work(None))

    for wake in (lambda: store(spool, 1), spool.close):
        thread = threading.Thread(target=wait)
        thread.start()
        wake()
        thread.join(60)
        assert not thread.is_alive()
        if len(answers) == 1:
            claim(spool)

    assert answers == [True, False]
    with pytest.raises(SpoolClosedError):
        spool.claim(lease_s=1)
    with pytest.raises(SpoolClosedError):
        spool.receive(ORIGIN)


def test_a_reception_open_at_the_close_fails_and_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    reception = spool.receive(ORIGIN)
    reception.write(b"x")
    spool.close()

    with pytest.raises(SpoolClosedError):
        reception.commit(identity(1))
    assert list(tmp_path.rglob("*.sealed")) == []


def test_what_central_refuses_for_good_is_kept_and_can_be_requeued(
    spool: Spool, tmp_path: Path, receiving_central: Central
) -> None:
    stored = store(spool, 1)
    claim(spool)

    spool.set_aside(stored.object_id, reason="not DICOM")

    assert [path.parent.name for path in taken_files(spool, tmp_path)] == ["quarantine"]
    assert spool.claim(lease_s=1) is None
    spool.requeue(stored.object_id)
    assert claim(spool).object_id == stored.object_id
    assert receiving_central.unseal(spool, stored.object_id) == content_of(1)
    with pytest.raises(WrongStateError):
        spool.requeue(stored.object_id)


def test_quarantine_of_what_nobody_was_promised_is_bounded_oldest_first(
    open_spool: OpenSpool, tmp_path: Path
) -> None:
    spool = open_spool(quarantine_max_bytes=250_000)
    promised = store(spool, 1).object_id
    claim(spool)
    spool.set_aside(promised, reason="refused")

    kept = [quarantine(spool, 100_000) for _ in range(5)]

    files = {path.stem for path in (tmp_path / "spool" / "quarantine").iterdir()}
    assert files == {promised, *kept[-2:]}
    assert state_of(spool, kept[0]) is State.FREED
    with pytest.raises(WrongStateError, match="never acknowledged"):
        spool.requeue(kept[-1])


def test_depth_counts_by_state(spool: Spool) -> None:
    assert spool.depth().oldest_unsent_at_utc is None
    assert spool.depth().last_received_at_utc is None
    stored = [store(spool, number) for number in range(4)]
    quarantine(spool, 1000)
    claim(spool)
    spool.acknowledge(stored[0].object_id, "receipt")
    claim(spool)

    depth = spool.depth()

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


def test_scanners_are_counted_and_refusals_remembered(open_spool: OpenSpool) -> None:
    spool = open_spool()
    store(spool, 1)
    store(spool, 1)
    store(spool, 2, origin=Origin("MR1", "DICOMNET", "192.0.2.8", "1.2.840.10008.1.2"))
    spool.note_rejection("CT1", "192.0.2.7", "called another AE title")
    spool.note_rejection("CT1", "192.0.2.7", "the data set has no SOP Instance UID")
    spool.note_rejection("", "198.51.100.1", "too many connections")
    spool.close()

    seen = {(one.calling_ae_title, one.peer_address): one for one in open_spool().scanners_seen()}

    ct = seen["CT1", "192.0.2.7"]
    assert (ct.instances, ct.size_bytes, ct.rejected) == (1, len(content_of(1)), 2)
    assert ct.last_error == "the data set has no SOP Instance UID"
    assert ct.last_store_at_utc is not None
    assert seen["MR1", "192.0.2.8"].instances == 1
    assert seen["", "198.51.100.1"].last_store_at_utc is None


def test_made_up_names_cannot_grow_the_table(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanners_module, "MAX_SCANNERS", 10)
    store(spool, 1)
    for batch in range(4):
        for number in range(20):
            spool.note_rejection(f"EVIL{batch}{number}", "198.51.100.1", "no")
        spool.scanners_seen()

    seen = [one.calling_ae_title for one in spool.scanners_seen()]
    assert len(seen) == 10
    assert "CT1" in seen


def test_one_process_owns_the_folder(spool: Spool, open_spool: OpenSpool) -> None:
    with pytest.raises(SpoolInUseError):
        open_spool()
    spool.close()
    open_spool()


def test_receipts_are_forgotten_after_their_time(open_spool: OpenSpool) -> None:
    spool = open_spool()
    for number in range(2):
        store(spool, number)
        spool.acknowledge(claim(spool).object_id, "receipt")
    long_ago = utc_text(datetime.now(UTC) - RECEIPTS_KEPT - timedelta(minutes=1))
    SpoolObject.update(freed_at_utc=long_ago).where(SpoolObject.sequence == 1).execute(spool._index.db)
    spool.close()

    rows = open_spool().list_objects(states=[State.FREED], limit=9)
    assert [row.sop_instance_uid for row in rows] == ["1.2.3.1"]


def test_a_clean_restart_finds_nothing_to_repair_and_everything_due(open_spool: OpenSpool) -> None:
    spool = open_spool()
    store(spool, 1)
    spool.release(claim(spool).object_id, error="away", retry_in_s=3600)
    spool.close()

    spool = open_spool()

    assert spool.recovery == RecoveryReport()
    assert spool.claim(lease_s=1) is not None


def test_a_lost_index_loses_no_image(
    open_spool: OpenSpool, tmp_path: Path, receiving_central: Central
) -> None:
    spool = open_spool()
    stored = store(spool, 1)
    spool.close()
    index = tmp_path / "spool" / "index.sqlite3"
    index.write_bytes(b"not a database at all" * 400)

    spool = open_spool()

    assert spool.recovery == RecoveryReport(files_adopted=1, index_rebuilt=True)
    claimed = claim(spool)
    assert (claimed.object_id, claimed.sop_instance_uid) == (stored.object_id, "1.2.3.1")
    assert receiving_central.unseal(spool, stored.object_id) == content_of(1)
    assert list((tmp_path / "spool").glob("index.sqlite3.damaged-*"))


def test_a_missing_file_is_taken_out_of_the_queue_and_reported(open_spool: OpenSpool, tmp_path: Path) -> None:
    spool = open_spool()
    store(spool, 1)
    spool.close()
    next(tmp_path.rglob("*.sealed")).unlink()

    spool = open_spool()

    assert spool.recovery.files_missing == 1
    assert spool.claim(lease_s=1) is None
    (row,) = spool.list_objects(states=[State.QUARANTINED], limit=9)
    assert row.last_error == "the sealed file is missing"
    with pytest.raises(UnknownObjectError):
        spool.requeue(row.object_id)


def test_an_index_of_a_newer_program_is_left_alone(open_spool: OpenSpool, tmp_path: Path) -> None:
    open_spool().close()
    with sqlite3.connect(tmp_path / "spool" / "index.sqlite3") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()

    with pytest.raises(IndexUnreadableError, match="99"):
        open_spool()


def test_the_index_has_no_column_for_a_patient() -> None:
    columns = set(SpoolObject._meta.fields)  # type: ignore[attr-defined]
    assert not {name for name in columns if "patient" in name or "name" in name or "birth" in name}


def test_a_claim_walks_the_queue_and_does_not_sort_it(spool: Spool) -> None:
    seen: list[str] = []
    spool._index.db.connection().set_trace_callback(seen.append)
    store(spool, 1)
    claim(spool)
    spool.depth()
    spool._index.db.connection().set_trace_callback(None)
    plans = {
        text: str(spool._index.db.execute_sql(f"EXPLAIN QUERY PLAN {text}").fetchall())
        for text in seen
        if text.lstrip().startswith("SELECT") and "objects" in text
    }
    assert len(plans) >= 4
    for text, plan in plans.items():
        assert "live_by_" in plan or "object_id" in plan, text
        assert "TEMP B-TREE" not in plan, text


def test_a_file_that_cannot_be_deleted_yet_is_deleted_at_the_next_start(
    open_spool: OpenSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool()
    store(spool, 1)
    claimed = claim(spool)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        spool.acknowledge(claimed.object_id, "receipt")
    assert len(taken_files(spool, tmp_path)) == 1
    spool.close()

    assert open_spool().recovery.frees_finished == 1
    assert list(tmp_path.rglob("*.sealed")) == []


def test_a_failing_index_speaks_this_rooms_language(spool: Spool) -> None:
    store(spool, 1)
    spool._index.db.execute_sql("DROP TABLE objects")
    for question in (spool.depth, lambda: spool.claim(lease_s=1), lambda: spool.wait_for_work(0)):
        with pytest.raises(StorageFailedError):
            question()


def test_whoever_asked_is_told_of_each_stored_instance_once_it_is_durable(open_spool: OpenSpool) -> None:
    depths: list[int] = []
    spool = open_spool(on_stored=lambda _: depths.append(spool.depth().unsent.objects))
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
    with spool.open_object(stored.object_id) as file:
        assert file.read()
