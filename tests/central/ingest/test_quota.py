"""A day's bytes of a gateway: counted from the index, and between two looks by what was let begin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from central.ingest.errors import TryAgainError
from central.ingest.quota import DayQuota
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
