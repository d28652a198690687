from __future__ import annotations

from datetime import UTC, datetime, timedelta

from central.audit.events import Action, AuditEvent, AuditRow
from central.audit.looks import PAUSE_S, looks

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


def row(
    number: int, at_s: float, actor: str = "ann", action: Action = Action.VIEW, study: str = "1.2"
) -> AuditRow:
    event = AuditEvent(actor, "doctor", action, "success", "::1", study)
    return AuditRow(number, NOON + timedelta(seconds=at_s), event)


def test_records_of_one_look_are_one_and_nothing_is_left_out() -> None:
    rows = [
        row(1, 0),
        row(2, 10, actor="bob"),
        row(3, 20),
        row(4, 30, action=Action.EXPORT),
        row(5, 40, study="1.3"),
        row(6, 20 + PAUSE_S),
        row(7, 21 + 2 * PAUSE_S),  # a second longer than a pause
    ]
    found = looks(reversed(rows))
    assert [(look.actor, look.action.value, look.study_instance_uid, look.records) for look in found] == [
        ("ann", "view", "1.2", 1),
        ("ann", "view", "1.2", 3),
        ("ann", "view", "1.3", 1),
        ("ann", "export", "1.2", 1),
        ("bob", "view", "1.2", 1),
    ]
    assert (found[1].began_utc, found[1].ended_utc) == (NOON, NOON + timedelta(seconds=20 + PAUSE_S))
    assert sum(look.records for look in found) == len(rows)
    assert looks([]) == []
