from __future__ import annotations

import csv
import io
from pathlib import Path

from central.audit.csv_export import csv_lines
from central.audit.events import Action, AuditEvent
from tests.central.databases import open_record


def test_every_record_is_a_line_and_nothing_is_computed(tmp_path: Path) -> None:
    audit = open_record(tmp_path)
    try:
        for actor, detail in (
            ("ann", 'two\nlines, "quoted"; all'),
            ("=cmd()", "+1"),
            ("@x", "-1"),
            ("\tx", ""),
            ("x;=cmd()", 'a; "+1";b\n@x'),
            (" =cmd()", "1-1; a=1"),
        ):
            audit.record(AuditEvent(actor, "doctor", Action.VIEW, "success", "::1", detail=detail))
        lines = list(csv_lines(audit.rows()))
    finally:
        audit.close()
    assert len(lines) == 7
    rows = list(csv.DictReader(io.StringIO("".join(lines), newline="")))
    assert [(row["actor"], row["detail"]) for row in rows] == [
        ("ann", 'two\nlines, "quoted"; all'),
        ("'=cmd()", "'+1"),
        ("'@x", "'-1"),
        ("'\tx", ""),
        ("x;'=cmd()", "a;' \"+1\";b\n'@x"),
        ("' =cmd()", "1-1; a=1"),
    ]
    assert all(row["chain"] and row["study_instance_uid"] == "" for row in rows)


def test_without_records_there_are_the_names() -> None:
    (line,) = csv_lines([])
    assert line.startswith("id,at_utc,actor,")
