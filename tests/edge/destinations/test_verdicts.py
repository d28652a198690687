"""Every status of C-STORE and every HTTP status leads to one verdict, and success is never guessed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from contract.control import DestinationStatus
from contract.heartbeat import MAX_PAYLOAD_BYTES
from edge import heartbeat
from edge.buffer.spool import Spool
from edge.uplink.link import Link
from edge.uplink.verdicts import Verdict, judge_http, judge_status


def test_what_is_there_is_what_the_standard_calls_success_or_a_warning() -> None:
    """PS3.4 Table B.2-1 and PS3.7 Annex C: 0000, 0001, 0107, 0116 and Bxxx; of 65,536."""
    there = {status for status in range(1 << 16) if judge_status(status).verdict is Verdict.DELIVERED}
    assert there == {0x0000, 0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)}
    assert not any(judge_http(status).verdict is Verdict.DELIVERED for status in range(1000))


@pytest.mark.parametrize("status", [0xA900, 0xA9FF, 0xC000, 0xC123, 0xCFFF, 0x0122, 0x0117])
def test_what_blames_the_object(status: int) -> None:
    outcome = judge_status(status)
    assert outcome.verdict is Verdict.REFUSED
    assert outcome.sentence.startswith(f"answered {status:04X}: ")


@pytest.mark.parametrize("status", [0xA700, 0xA7FF, 0x0110, 0x0124, 0xFE00, 0xFF00, 0xD000, 0x1234])
def test_what_does_not(status: int) -> None:
    assert judge_status(status).verdict is Verdict.LATER


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (199, Verdict.LATER),
        (200, Verdict.LATER),
        (301, Verdict.AWAY),
        (401, Verdict.AWAY),
        (404, Verdict.AWAY),
        (413, Verdict.REFUSED),
        (418, Verdict.LATER),
        (500, Verdict.LATER),
        (503, Verdict.LATER),
    ],
)
def test_http(status: int, verdict: Verdict) -> None:
    assert judge_http(status).verdict is verdict


def test_a_heartbeat_has_room_for_all_destinations(tmp_path: Path) -> None:
    long = DestinationStatus(name="N" * 32, waiting_objects=10**9, last_error="\x1b[31m" + "é" * 500)
    spool = Spool.open(tmp_path / "spool", reserve_bytes=0, quarantine_max_bytes=0, keys=None)
    try:
        said = heartbeat.telemetry(
            spool,
            Link().status(),
            started_at_utc=datetime.now(UTC),
            paused=False,
            clock_offset_s=None,
            destinations=[long] * 40,
        )
    finally:
        spool.close()
    assert len(said.destinations) == 32
    assert said.destinations[0].waiting_objects == 10**9
    assert "\x1b" not in said.destinations[0].last_error
    assert len(said.model_dump_json().encode()) < MAX_PAYLOAD_BYTES
