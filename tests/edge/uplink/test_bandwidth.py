"""The calendar of limits, and the bucket that keeps to it; also over a real connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime

import pytest

from edge.uplink.bandwidth import WEEKDAYS, Bandwidth, HourlyLimit
from edge.uplink.forwarder import Forwarder
from tests.edge.uplink.conftest import Uplink

WORKDAYS = frozenset(WEEKDAYS[:5])
MONDAY, SUNDAY = 3, 2  # of August 2026


def at(day: int, hour: int) -> Callable[[], datetime]:
    return lambda: datetime(2026, 8, day, hour, 30)  # noqa: DTZ001  # a wall clock in the box's room


@pytest.mark.parametrize(
    ("day", "hour", "rate"),
    [(MONDAY, 7, None), (MONDAY, 8, 1000), (MONDAY, 17, 1000), (MONDAY, 18, None), (SUNDAY, 8, None)],
)
def test_a_limit_holds_on_its_days_and_hours(day: int, hour: int, rate: float | None) -> None:
    limits = [HourlyLimit(WORKDAYS, 8, 18, 1000), HourlyLimit(WORKDAYS, 8, 12, 5000)]
    assert Bandwidth(limits, local_time=at(day, hour)).bytes_per_s() == rate


def test_a_limit_may_go_over_midnight() -> None:
    limits = [HourlyLimit(frozenset(WEEKDAYS), 22, 6, 1000)]
    rates = [Bandwidth(limits, local_time=at(MONDAY, hour)).bytes_per_s() for hour in (21, 22, 5, 6)]
    assert rates == [None, 1000, 1000, None]


def test_a_night_belongs_to_the_day_on_which_it_begins() -> None:
    sunday_nights = [HourlyLimit(frozenset({"sun"}), 22, 6, 1000)]
    hours = [(SUNDAY, 5), (SUNDAY, 21), (SUNDAY, 22), (MONDAY, 5), (MONDAY, 6), (MONDAY, 22)]
    rates = [Bandwidth(sunday_nights, local_time=at(day, hour)).bytes_per_s() for day, hour in hours]
    assert rates == [None, None, 1000, 1000, None, None]


def test_all_draw_from_one_bucket() -> None:
    now = 100.0
    bandwidth = Bandwidth([HourlyLimit(WORKDAYS, 0, 24, 1000)], clock=lambda: now, local_time=at(MONDAY, 1))
    assert [bandwidth.reserve(500) for _ in range(3)] == [0.0, 0.5, 1.0]
    now = 110.0
    assert bandwidth.reserve(500) == 0.0, "a rest is not saved up"
    assert bandwidth.piece_bytes(1 << 18) == 1024
    assert Bandwidth().piece_bytes(1 << 18) == 1 << 18
    assert Bandwidth().reserve(1 << 30) == 0.0


def test_what_is_sent_keeps_to_the_limit_and_stops_at_once(
    uplink: Uplink, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    rate = 100_000.0
    bandwidth = Bandwidth([HourlyLimit(frozenset(WEEKDAYS), 0, 24, rate)])
    forwarder = Forwarder(
        uplink.spool.queue,
        uplink.link,
        connections=2,
        lease_s=60,
        backoff_ceiling_s=0.1,
        timeout_s=30,
        bandwidth=bandwidth,
    )
    size = sum(uplink.store(60_000).stored_bytes for _ in range(3))
    forwarder.start()
    began_s = time.monotonic()
    forwarder.use(uplink.identity)
    eventually(lambda: uplink.spool.holdings.depth().unsent.objects == 0)
    assert time.monotonic() - began_s >= (size / rate) * 0.75
    uplink.store(3_000_000)
    eventually(lambda: threading.Event().wait(0.2) or uplink.spool.holdings.depth().unsent.objects == 1)
    began_s = time.monotonic()
    forwarder.stop(5)
    uplink.spool.close()
    forwarder.join(60)
    assert time.monotonic() - began_s < 20  # at this rate the rest would take half a minute
