"""The formats in which the record is given out, a line at a time, for commands and pages alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from central.audit.csv_export import csv_lines
from central.audit.fhir import audit_event
from central.audit.reading import Wanted
from central.audit.record import Audit


class Format(StrEnum):
    """NDJSON is a JSON object a line, with the checkpoints by which ``tools/verify_audit.py`` verifies it; FHIR is an
    AuditEvent (R4) a line."""

    NDJSON = "ndjson"
    CSV = "csv"
    FHIR = "fhir"


def lines(audit: Audit, wanted: Wanted, form: Format, central_id: str) -> Iterator[str]:
    """What is `wanted`, the oldest first, in lines with their ends, made as they are asked for."""
    if form is Format.CSV:
        yield from csv_lines(audit.rows(wanted))
        return
    made = (
        (audit_event(row, central_id=central_id) for row in audit.rows(wanted))
        if form is Format.FHIR
        else _with_checkpoints(audit, wanted)
    )
    for line in made:
        yield json.dumps(line, ensure_ascii=False) + "\n"


def _with_checkpoints(audit: Audit, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Records, and behind them the checkpoints, unless it is a part: that could not be checked with them."""
    if wanted == Wanted():
        audit.sign()
        for word in audit.pruned():
            yield {"pruned": word}
    yield from audit.rows(wanted)
    if wanted == Wanted():
        for _, word in audit.checkpoints():
            yield {"checkpoint": word}
