"""Silence is judged against the scanner's own week, and a quiet night is no silence."""

from __future__ import annotations

import pytest

from edge.uplink.weekly_pattern import HOURS, WeeklyPattern


def weekday(hour: int) -> bool:
    """Monday to Friday, eight to six: a CT in an outpatient department."""
    return hour // 24 < 5 and 8 <= hour % 24 < 18


def taught(weeks: int, sends: object = weekday) -> WeeklyPattern:
    pattern = WeeklyPattern()
    for _ in range(weeks):
        for hour in range(HOURS):
            pattern.hour_passed(hour, active=sends(hour))  # type: ignore[operator]
            assert not pattern.is_silent
    return pattern


def quiet_hours_until_silent(pattern: WeeklyPattern, start: int) -> int:
    for count in range(10 * HOURS):
        if pattern.is_silent:
            return count
        pattern.hour_passed((start + count) % HOURS, active=False)
    raise AssertionError("never silent")


def test_nothing_is_silent_before_two_weeks_are_known() -> None:
    pattern = WeeklyPattern()
    for hour in range(2 * HOURS - HOURS // 2 - 1):
        pattern.hour_passed(hour % HOURS, active=weekday(hour % HOURS))
    assert not pattern.is_known
    for hour in range(20):
        pattern.hour_passed(hour, active=False)
    assert pattern.surprise == 0


def test_a_working_day_without_an_image_is_noticed_within_the_day() -> None:
    pattern = taught(8)
    assert 4 <= quiet_hours_until_silent(pattern, 8) <= 7, "from Monday, eight o'clock"


def test_a_night_and_a_weekend_are_not_silence() -> None:
    pattern = taught(8)
    for hour in range(4 * 24 + 18, 7 * 24 + 8):  # Friday evening to Monday morning
        pattern.hour_passed(hour % HOURS, active=False)
    assert not pattern.is_silent


def test_an_hour_of_summer_time_is_not_silence() -> None:
    pattern = taught(8)
    for week in range(3):
        for hour in range(HOURS):
            pattern.hour_passed(hour, active=weekday((hour - 1) % HOURS))
            assert not pattern.is_silent, (week, hour)


def test_a_scanner_of_few_images_needs_longer() -> None:
    sparse = taught(12, lambda hour: hour % 5 == 0)
    assert quiet_hours_until_silent(sparse, 0) >= 20


def test_one_image_ends_it() -> None:
    pattern = taught(8)
    quiet_hours_until_silent(pattern, 8)
    pattern.hour_passed(16, active=True)
    assert not pattern.is_silent
    assert pattern.surprise == 0


def test_an_outage_does_not_become_the_custom_but_a_move_does() -> None:
    pattern = taught(8)
    before = bytes(pattern.hits)
    quiet_hours_until_silent(pattern, 8)
    for hour in range(HOURS):
        pattern.hour_passed(hour, active=False)
    assert sum(pattern.hits) == pytest.approx(sum(before), rel=0.05)
    weeks_before = sum(pattern.weeks)
    for _ in range(3):
        for hour in range(HOURS):
            pattern.hour_passed(hour, active=False)
    assert sum(pattern.weeks) != weeks_before, "after two silent weeks it learns again"


def test_counts_stay_small_for_ever() -> None:
    pattern = taught(60)
    assert max(pattern.weeks) <= 12
    assert all(hits <= weeks for hits, weeks in zip(pattern.hits, pattern.weeks, strict=True))
