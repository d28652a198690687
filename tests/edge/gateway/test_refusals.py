"""However often somebody is refused, log and list stay readable and small."""

from __future__ import annotations

import pytest

from edge.gateway.refusals import MAX_ADDRESSES, PER_ADDRESS, WINDOW_S, Refusals


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def events(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [vars(record) for record in caplog.records if record.name == "edge.gateway.refusals"]


def test_a_flood_from_one_address_costs_ten_lines_a_minute_and_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    noted: list[tuple[str, str, str]] = []
    clock = Clock()
    refusals = Refusals(lambda *what: noted.append(what), clock=clock)
    for _ in range(1000):
        refusals.note("CT1", "10.0.0.5", "not known here")
    assert len(noted) == len(events(caplog)) == PER_ADDRESS

    refusals.note("MR1", "10.0.0.6", "not known here")
    assert noted[-1] == ("MR1", "10.0.0.6", "not known here"), "another address has its own share"

    clock.now_s += WINDOW_S
    refusals.note("CT1", "10.0.0.5", "not known here")
    assert events(caplog)[-1]["more_not_shown"] == 1000 - PER_ADDRESS
    assert events(caplog)[-1]["reason"] == "not known here"


def test_a_flood_from_many_addresses_shares_one_share_beyond_the_bound() -> None:
    noted: list[tuple[str, str, str]] = []
    clock = Clock()
    refusals = Refusals(lambda *what: noted.append(what), clock=clock)
    for number in range(5000):
        refusals.note("", f"10.{number >> 8}.{number & 255}.1", "too many connections")
    assert len(noted) == MAX_ADDRESSES + PER_ADDRESS
    assert len(refusals._windows) == MAX_ADDRESSES + 1

    clock.now_s += WINDOW_S
    refusals.note("CT1", "192.168.7.7", "not known here")
    assert noted[-1][1] == "192.168.7.7", "addresses of the former minute have made room"
