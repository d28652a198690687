"""A whole life of the spool: opened, closed, opened again, and what it finds then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge.buffer.errors import SpoolClosedError, SpoolInUseError, UnknownObjectError
from edge.buffer.receipts import RECEIPTS_KEPT
from edge.buffer.records import RecoveryReport
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.buffer.tables import SpoolObject, utc_text
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import ORIGIN, Central, claim, content_of, identity, store, taken_files


def test_a_reception_open_at_the_close_fails_and_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    reception = spool.entrance.receive(ORIGIN)
    reception.write(b"x")
    spool.close()

    with pytest.raises(SpoolClosedError):
        reception.commit(identity(1))
    assert list(tmp_path.rglob("*.sealed")) == []


def test_one_process_owns_the_folder(spool: Spool, open_spool: OpenSpool) -> None:
    with pytest.raises(SpoolInUseError):
        open_spool()
    spool.close()
    open_spool()


def test_receipts_are_forgotten_after_their_time(open_spool: OpenSpool) -> None:
    spool = open_spool()
    for number in range(2):
        store(spool, number)
        spool.queue.acknowledge(claim(spool).object_id, "receipt")
    long_ago = utc_text(datetime.now(UTC) - RECEIPTS_KEPT - timedelta(minutes=1))
    SpoolObject.update(freed_at_utc=long_ago).where(SpoolObject.sequence == 1).execute(spool._index.db)
    spool.close()

    rows = open_spool().holdings.list_objects(states=[State.FREED], limit=9)
    assert [row.sop_instance_uid for row in rows] == ["1.2.3.1"]


def test_a_clean_restart_finds_nothing_to_repair_and_everything_due(open_spool: OpenSpool) -> None:
    spool = open_spool()
    store(spool, 1)
    spool.queue.release(claim(spool).object_id, error="away", retry_in_s=3600)
    spool.close()

    spool = open_spool()

    assert spool.recovery == RecoveryReport()
    assert spool.queue.claim(lease_s=1) is not None


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
    assert spool.queue.claim(lease_s=1) is None
    (row,) = spool.holdings.list_objects(states=[State.QUARANTINED], limit=9)
    assert row.last_error == "the sealed file is missing"
    with pytest.raises(UnknownObjectError):
        spool.quarantine.requeue(row.object_id)


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
        spool.queue.acknowledge(claimed.object_id, "receipt")
    assert len(taken_files(spool, tmp_path)) == 1
    spool.close()

    assert open_spool().recovery.frees_finished == 1
    assert list(tmp_path.rglob("*.sealed")) == []
