"""Rows of the record as it gives them out."""

from __future__ import annotations

from typing import Any


def row(action: str = "view", **changes: object) -> dict[str, Any]:
    """A look at a series; `changes` by column."""
    return {
        "id": 7,
        "at_utc": "2026-11-27T09:30:00.123456+00:00",
        "actor": "ann",
        "actor_role": "doctor",
        "action": action,
        "outcome": "success",
        "source_address": "192.0.2.7",
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.4",
        "sop_instance_uid": None,
        "detail": "x",
        **changes,
    }
