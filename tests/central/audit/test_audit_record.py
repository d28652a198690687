from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from central.audit.errors import AuditUnavailableError
from central.audit.events import MAX_DETAIL_CHARACTERS, Action, AuditEvent
from central.audit.reading import Wanted
from central.audit.record import Audit
from tests.central.audit.notary import NOTARY


def event(actor: str = "ann", action: Action = Action.VIEW, study: str | None = "1.2.3") -> AuditEvent:
    return AuditEvent(actor, "doctor", action, "success", "127.0.0.1", study, detail="x")


def test_a_recorded_event_is_in_the_file_when_record_returns(tmp_path: Path) -> None:
    audit = Audit.open(tmp_path / "audit.sqlite3", NOTARY)
    audit.record(event())
    # A second program sees it, so it is committed; the first has not been closed.
    with sqlite3.connect(tmp_path / "audit.sqlite3") as other:
        assert other.execute("SELECT actor, action, study_instance_uid FROM audit_record").fetchall() == [
            ("ann", "view", "1.2.3")
        ]
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert (tmp_path / "audit.sqlite3").stat().st_mode & 0o777 == 0o600
    audit.close()


def test_synchronous_is_full(tmp_path: Path) -> None:
    audit = Audit.open(tmp_path / "audit.sqlite3", NOTARY)
    assert audit._db.pragma("synchronous") == 2
    audit.close()


@pytest.mark.parametrize("statement", ["UPDATE audit_record SET actor = 'eve'", "DELETE FROM audit_record"])
def test_the_file_itself_refuses_changes(tmp_path: Path, statement: str) -> None:
    audit = Audit.open(tmp_path / "audit.sqlite3", NOTARY)
    audit.record(event())
    with (
        sqlite3.connect(tmp_path / "audit.sqlite3") as other,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        other.execute(statement)
    assert [row.event.actor for row in audit.newest(Wanted(), limit=10)] == ["ann"]
    audit.close()


def test_events_of_many_threads_are_all_there_once(tmp_path: Path) -> None:
    audit = Audit.open(tmp_path / "audit.sqlite3", NOTARY)

    def work(name: int) -> None:
        for number in range(25):
            audit.record(event(actor=f"{name}-{number}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    actors = [row.event.actor for row in audit.newest(Wanted(), limit=1000)]
    assert sorted(actors) == sorted(f"{name}-{number}" for name in range(8) for number in range(25))
    audit.close()


def test_a_closed_record_refuses_instead_of_opening_again(tmp_path: Path) -> None:
    audit = Audit.open(tmp_path / "audit.sqlite3", NOTARY)
    audit.close()
    with pytest.raises(AuditUnavailableError):
        audit.record(event())
    with pytest.raises(AuditUnavailableError):
        audit.newest(Wanted(), limit=1)


def test_a_record_that_cannot_be_written_raises(tmp_path: Path) -> None:
    audit = Audit.open(tmp_path / "audit.sqlite3", NOTARY)
    audit._db.pragma("query_only", 1)  # what a disk that became read-only does
    with pytest.raises(AuditUnavailableError):
        audit.record(event())
    audit._db.pragma("query_only", 0)
    audit.record(event(actor="again"))
    assert [row.event.actor for row in audit.newest(Wanted(), limit=9)] == ["again"]
    audit.close()


def test_what_was_begun_is_in_the_file_when_the_wait_ends_and_not_before(tmp_path: Path) -> None:
    audit = Audit.open(tmp_path / "audit.sqlite3", NOTARY)
    with sqlite3.connect(tmp_path / "audit.sqlite3") as other, ThreadPoolExecutor(1) as waiting:
        with audit._write_lock:  # as while somebody else's commit is synced
            begun = [audit.begin(event(actor=name)) for name in ("ann", "bob")]
            ended = waiting.submit(begun[1].wait)
            assert other.execute("SELECT actor FROM audit_record").fetchall() == []
            assert not ended.done()
        ended.result(60)
        rows = other.execute("SELECT actor FROM audit_record ORDER BY id").fetchall()
    assert rows == [("ann",), ("bob",)]  # with one commit for both
    begun[0].wait()
    audit.close()


def test_nobody_waits_in_vain_for_what_was_not_written(tmp_path: Path) -> None:
    audit = Audit.open(tmp_path / "audit.sqlite3", NOTARY)
    audit._db.pragma("query_only", 1)
    begun = audit.begin(event())
    for _ in range(2):
        with pytest.raises(AuditUnavailableError):
            begun.wait()
    audit._db.pragma("query_only", 0)
    audit.close()
    with pytest.raises(AuditUnavailableError):
        audit.begin(event()).wait()


def test_what_comes_from_outside_is_cut(tmp_path: Path) -> None:
    audit = Audit.open(tmp_path / "audit.sqlite3", NOTARY)
    audit.record(AuditEvent("u" * 9999, "", Action.SIGN_IN_FAILED, "refused", "::1", detail="d" * 99_999))
    [row] = audit.newest(Wanted(), limit=1)
    assert len(row.event.actor) == 128
    assert len(row.event.detail) == MAX_DETAIL_CHARACTERS
    assert replace(event(), detail="d" * MAX_DETAIL_CHARACTERS).is_whole
    assert not replace(event(), detail="\0" * (MAX_DETAIL_CHARACTERS // 4 + 1)).is_whole  # as it is kept
    audit.close()


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(AuditUnavailableError, match="audit record"):
        Audit.open(tmp_path / "nowhere" / "audit.sqlite3", NOTARY)


def test_text_that_no_database_takes_is_recorded_escaped(tmp_path: Path) -> None:
    """Lone surrogates are no UTF-8, and PostgreSQL takes no NUL."""
    audit = Audit.open(tmp_path / "audit.sqlite3", NOTARY)
    audit.record(event(actor="a\ud800b\0c"))
    assert audit.newest(Wanted(), limit=1)[0].event.actor == r"a\ud800b\x00c"
    audit.close()


def test_a_failure_of_an_unforeseen_kind_is_never_taken_for_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Audit.open(tmp_path / "audit.sqlite3", NOTARY)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(audit._db, "atomic", fail)
    with pytest.raises((AuditUnavailableError, MemoryError)):
        audit.record(event())
    monkeypatch.undo()
    assert audit.newest(Wanted(), limit=1) == []
    audit.close()
