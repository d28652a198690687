"""A day's bytes of a gateway: counted from the index and from what is not ended, and between two looks by what was let
begin."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from central.ingest.errors import TryAgainError
from central.ingest.partial import Appender, PartialUploads, UploadLimits, begun_bytes
from central.ingest.quota import DayQuota
from contract.identifiers import ObjectId
from contract.transfer import Problem


def test_between_two_looks_at_the_index_what_begins_is_added() -> None:
    asked: list[datetime] = []
    archived, now_s = 0, 0.0

    def brought(_gateway_id: str, since: datetime) -> int:
        asked.append(since)
        return archived

    quota = DayQuota(brought, day_bytes=100, day_bytes_of={}, clock_s=lambda: now_s)
    quota.spend("ct1", 60)
    quota.spend("ct1", 60)
    with pytest.raises(TryAgainError) as refused:
        quota.spend("ct1", 1)
    assert refused.value.problem is Problem.QUOTA
    assert len(asked) == 1
    assert abs(datetime.now(UTC) - timedelta(hours=24) - asked[0]) < timedelta(minutes=1)

    now_s, archived = 11.0, 99  # most of it compressed well, or the day moved on
    assert not quota.is_spent("ct1")
    quota.spend("ct1", 1)
    assert quota.is_spent("ct1")
    assert not quota.is_spent("ct2"), "each by itself"


def test_what_a_box_begins_and_never_ends_counts_for_a_day(tmp_path: Path) -> None:
    now_s = 0.0
    quota = DayQuota(
        lambda gateway_id, since: begun_bytes(tmp_path, gateway_id, since),
        day_bytes=100,
        day_bytes_of={},
        clock_s=lambda: now_s,
    )
    partials = PartialUploads.open(tmp_path, UploadLimits(1 << 20, 64, 0, quota.spend))
    left = partials.create("ct1", ObjectId("a" * 32), 60)
    with Appender(left) as appender:
        appender.write(b"x" * 59)  # all but the last byte
    now_s += 11
    other = partials.create("ct1", ObjectId("b" * 32), 60)
    now_s += 11
    with pytest.raises(TryAgainError):
        partials.create("ct1", ObjectId("c" * 32), 1)
    assert partials.create("ct1", ObjectId("b" * 32), 60) == other, "what has begun goes on"
    assert not quota.is_spent("ct2")
    os.utime(
        left.path, (time.time() - 86_500,) * 2
    )  # as after a restart of the box, which asks for it no more
    now_s += 11
    partials.create("ct1", ObjectId("c" * 32), 1)
