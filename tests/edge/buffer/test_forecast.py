"""When the disk will be full: foretold from a steady pace, and only then."""

from __future__ import annotations

import pytest

from edge.buffer.forecast import SAMPLE_S, RoomHistory, Sample, hours_to_full

GB = 1_000_000_000


def samples(rooms: list[int], every_s: float = 600.0) -> list[Sample]:
    return [Sample(every_s * number, room_bytes) for number, room_bytes in enumerate(rooms)]


def test_a_steady_pace_is_foretold() -> None:
    falling = [100 * GB - number * GB for number in range(7)]  # six gigabytes an hour
    assert hours_to_full(samples(falling), 90 * GB) == 15.0


def test_one_big_series_or_a_cleaning_does_not_swing_it() -> None:
    falling = [100 * GB - number * GB for number in range(12)]
    for odd in (-30 * GB, 30 * GB):
        swung = list(falling)
        swung[5] += odd
        assert hours_to_full(samples(swung), 84 * GB) == pytest.approx(14, rel=0.2)


@pytest.mark.parametrize(
    "rooms",
    [
        [],
        [100 * GB],
        [100 * GB, 99 * GB, 98 * GB],
        [100 * GB] * 12,
        [number * GB for number in range(12)],
        [100 * GB - number for number in range(12)],
    ],
    ids=["nothing", "one", "half an hour", "steady", "growing", "too slow to matter"],
)
def test_nothing_is_foretold_from_too_little_or_a_disk_that_does_not_fill(rooms: list[int]) -> None:
    assert hours_to_full(samples(rooms), 90 * GB) is None


def test_a_burst_of_some_minutes_foretells_nothing() -> None:
    assert hours_to_full(samples([50 * GB, 40 * GB, 30 * GB, 20 * GB], every_s=300), 20 * GB) is None


@pytest.mark.parametrize("room_bytes", [0, -5 * GB])
def test_no_room_is_no_hours(room_bytes: int) -> None:
    assert hours_to_full([], room_bytes) == 0.0


def test_two_hours_are_remembered_however_often_it_is_asked() -> None:
    history = RoomHistory()
    day_s, room = 24 * 3600, 100 * GB
    for second in range(0, day_s, 15):
        before_noon = second < day_s / 2
        room += 10_000_000 if before_noon else -15_000_000  # a million bytes a second, in the afternoon
        history.note(second, room)
    assert history.hours_to_full(36 * GB) == 10.0


def test_samples_lie_apart() -> None:
    history = RoomHistory()
    for second in range(int(SAMPLE_S) * 3):
        history.note(second, 100 * GB - second * GB)
    assert history.hours_to_full(GB) is None
