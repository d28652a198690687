"""Whose turn it is: by places, by how long those before are out, and for how long."""

from __future__ import annotations

import threading

import pytest

from edge.uplink.line import Line
from edge.uplink.succession import Succession


class Scene:
    """Three centrals after 10 s; `out` holds since when each is out, and time is what the test says."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.out: list[float | None] = [None, None, None]
        self.succession = Succession(10, clock=lambda: self.now_s)
        for place in range(3):
            assert self.succession.add(lambda place=place: self.out[place]) == place  # type: ignore[misc]

    def turns(self) -> list[bool]:
        return [self.succession.is_turn(place) for place in range(3)]


@pytest.mark.parametrize(
    ("out", "turns"),
    [
        ([None, None, None], [True, False, False]),
        ([90.1, None, None], [True, False, False]),
        ([90.0, None, None], [True, True, False]),
        ([80.0, 95.0, None], [True, True, False]),
        ([80.0, 85.0, None], [True, True, True]),
        ([None, 80.0, None], [True, False, False]),
        ([95.0, 80.0, None], [True, False, False]),
    ],
)
def test_a_later_one_may_while_all_before_it_are_out_for_long(
    out: list[float | None], turns: list[bool]
) -> None:
    scene = Scene()
    scene.out = out
    assert scene.turns() == turns


def test_who_waits_is_woken_by_what_changes_and_by_the_end() -> None:
    scene = Scene()
    woken: list[bool] = []

    def wait() -> None:
        woken.append(scene.succession.await_turn(1))

    waiting = threading.Thread(target=wait)
    waiting.start()
    scene.out[0] = 80.0
    scene.succession.tell()
    waiting.join(60)
    assert woken == [True]

    scene.out[0] = None
    waiting = threading.Thread(target=wait)
    waiting.start()
    scene.succession.end()
    waiting.join(60)
    assert woken == [True, False]
    assert not scene.succession.await_turn(0), "it is over for everybody"


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_since_when_a_line_is_out() -> None:
    clock, changes = Clock(), []
    line = Line(
        60, clock=clock, uniform=lambda _, most: most, on_change=lambda: changes.append(line.out_since_s)
    )
    assert line.out_since_s is None, "nobody is enrolled there"
    clock.now_s = 5
    line.begin()
    assert line.out_since_s == 5
    assert line.enter().value == "begin"
    line.passed()
    assert line.out_since_s is None

    clock.now_s = 8
    line.failed()
    assert line.out_since_s == 5, "it answers probes and fails every object: out since it began"
    clock.now_s = 20
    line.enter()
    line.passed()
    line.succeeded()
    clock.now_s = 30
    line.failed()
    assert line.out_since_s == 30, "something got through meanwhile"
    clock.now_s = 40
    line.enter()
    line.passed()
    clock.now_s = 400
    line.failed()
    assert line.out_since_s == 400, "it was well for minutes, though nothing was sent"
    assert changes == [5, None, 5, None, 30, None, 400]
