"""What time it is on a box whose clock may be anything: learned, carried on, kept, never turned back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge.uplink.clock import BoxClock, ClockError

T = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Hands:
    """A system clock and a monotonic one, both turned by the test."""

    def __init__(self, system: datetime) -> None:
        self.system_s = system.timestamp()
        self.monotonic_s = 100.0

    def box(self, path: Path) -> BoxClock:
        return BoxClock(path, system=lambda: self.system_s, monotonic=lambda: self.monotonic_s)

    def wait(self, seconds: float) -> None:
        self.system_s += seconds
        self.monotonic_s += seconds


def test_before_central_has_said_anything_the_systems_clock_counts(tmp_path: Path) -> None:
    clock = Hands(T).box(tmp_path / "clock.json")
    assert (clock.now(), clock.is_learned, clock.offset_s()) == (T, False, None)


def test_centrals_word_counts_and_goes_on_whatever_the_system_says(tmp_path: Path) -> None:
    hands = Hands(datetime(1970, 1, 1, tzinfo=UTC))
    clock = hands.box(tmp_path / "clock.json")
    clock.learn(T)
    hands.wait(90)
    hands.system_s = 4e9  # somebody sets the clock
    assert clock.now() == T + timedelta(seconds=90)
    assert clock.offset_s() == pytest.approx(4e9 - clock.now().timestamp())


def test_time_goes_on_over_a_restart_without_a_battery(tmp_path: Path) -> None:
    first = Hands(datetime(1970, 1, 1, tzinfo=UTC)).box(tmp_path / "clock.json")
    first.learn(T)
    again = Hands(datetime(1970, 1, 1, tzinfo=UTC)).box(tmp_path / "clock.json")
    assert again.now() == T
    assert not again.is_learned


def test_a_good_system_clock_beats_an_old_floor_and_does_not_move_it(tmp_path: Path) -> None:
    Hands(T).box(tmp_path / "clock.json").learn(T)
    later = T + timedelta(days=12)
    assert Hands(later).box(tmp_path / "clock.json").now() == later
    far = Hands(datetime(2038, 1, 1, tzinfo=UTC)).box(tmp_path / "clock.json")
    assert far.now().year == 2038
    far.keep()
    assert Hands(later).box(tmp_path / "clock.json").now() == later


def test_central_does_not_turn_it_back(tmp_path: Path) -> None:
    hands = Hands(T)
    clock = hands.box(tmp_path / "clock.json")
    clock.learn(T)
    clock.learn(T - timedelta(minutes=10))  # central's clock was put right a little
    assert clock.now() == T
    hands.wait(1200)
    assert clock.now() == T + timedelta(minutes=10)
    with pytest.raises(ClockError, match="clock: central says 2026-04-29"):
        clock.learn(T - timedelta(days=2))
    assert clock.now() == T + timedelta(minutes=10)
    clock.begin_anew(T - timedelta(days=2))  # a person enrolled the box again
    assert clock.now() == T - timedelta(days=2)


def test_a_running_box_moves_its_floor_each_hour(tmp_path: Path) -> None:
    hands = Hands(T)
    clock = hands.box(tmp_path / "clock.json")
    clock.learn(T)
    hands.wait(3700)
    clock.now()
    assert json.loads((tmp_path / "clock.json").read_text())["floor_utc"].startswith("2026-05-01T13:01:40")


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"floor_utc": "never"}', b'{"floor_utc": "2026-01-01T00:00:00"}']
)
def test_an_unreadable_floor_stops_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clock.json").write_bytes(content)
    assert Hands(T).box(tmp_path / "clock.json").now() == T


@pytest.mark.parametrize("system_s", [-1e30, 1e30, float("nan")])
def test_an_impossible_system_clock_is_the_epoch(system_s: float) -> None:
    assert BoxClock(system=lambda: system_s).now().year == 1970
