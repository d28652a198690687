from __future__ import annotations

from pathlib import Path

import pytest

from central.audit import reading as reading_module
from central.audit.events import Action, AuditEvent
from central.audit.reading import Wanted
from central.audit.record import Audit
from tests.central.audit.notary import NOTARY


def event(actor: str, action: Action = Action.VIEW) -> AuditEvent:
    return AuditEvent(actor, "doctor", action, "success", "127.0.0.1", "1.2.3", detail="x")


def test_search_pages_backwards_and_filters(tmp_path: Path) -> None:
    audit = Audit.open(tmp_path / "audit.sqlite3", NOTARY)
    for number in range(5):
        audit.record(event(actor=f"u{number}", action=Action.VIEW if number % 2 else Action.EXPORT))
    newest = audit.newest(Wanted(), limit=2)
    assert [row.event.actor for row in newest] == ["u4", "u3"]
    assert [row.event.actor for row in audit.newest(Wanted(), limit=2, before_id=newest[-1].id)] == [
        "u2",
        "u1",
    ]
    assert [row.event.actor for row in audit.newest(Wanted(action=Action.VIEW), limit=9)] == ["u3", "u1"]
    assert [row.event.actor for row in audit.newest(Wanted(actor="u2"), limit=9)] == ["u2"]
    assert audit.newest(Wanted(study_instance_uid="9.9"), limit=9) == []
    assert newest[0].at_utc.utcoffset() is not None
    audit.close()


def test_rows_are_given_out_as_they_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_module, "_PAGE_ROWS", 5)
    audit = Audit.open(tmp_path / "audit.sqlite3", NOTARY)
    for number in range(1, 13):
        audit.record(event(f"user{number}"))
    assert [row["id"] for row in audit.rows()] == list(range(1, 13))
    assert [row["id"] for row in audit.rows(Wanted(actor="user7"))] == [7]
    assert list(audit.rows(Wanted(study_instance_uid="9"))) == []
    middle = next(iter(audit.rows(Wanted(actor="user7"))))["at_utc"]
    assert [row["id"] for row in audit.rows(Wanted(since_utc=middle))] == list(range(7, 13))
    assert [row["id"] for row in audit.rows(Wanted(until_utc=middle))] == list(range(1, 7))
    audit.close()
