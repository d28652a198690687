"""Pixels are coded as images while the scanner's own time pays for it, and not when it does not."""

from __future__ import annotations

import pytest

from edge.buffer import coding_pace
from edge.buffer.coding_pace import Coding, CodingPace
from edge.buffer.records import Origin
from tests.edge.buffer.instances import EXPLICIT_LITTLE, ORIGIN

SLICE_BYTES = 524_288
OTHER = Origin("MR1", "DICOMNET", "192.0.2.8", EXPLICIT_LITTLE)


class World:
    """A box and its scanners, with a clock that the test turns."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.pace = CodingPace(clock=lambda: self.now_s)
        self.tight_s, self.loose_s = 0.010, 0.001

    def image(self, own_s: float, origin: Origin = ORIGIN, size_bytes: int = SLICE_BYTES) -> bool:
        """The scanner takes `own_s`, then the box works; whether it coded tightly."""
        self.now_s += own_s
        tight = self.pace.allows_tight(origin)
        spent_s = self.tight_s if tight else self.loose_s
        self.now_s += spent_s
        self.pace.note(origin, size_bytes=size_bytes, spent_s=spent_s, cpu_s=spent_s, tight=tight)
        return tight

    def images(self, count: int, own_s: float, origin: Origin = ORIGIN) -> list[bool]:
        return [self.image(own_s, origin) for _ in range(count)]


@pytest.fixture
def world() -> World:
    return World()


def test_a_scanner_that_makes_images_is_always_coded_tightly(world: World) -> None:
    assert all(world.images(100, own_s=0.25))


def test_one_that_empties_its_disk_is_let_through_after_a_few(world: World) -> None:
    taken = world.images(100, own_s=0.0001)
    assert taken[0]
    assert sum(taken) <= 12
    assert not any(taken[12:])


def test_it_is_coded_again_once_it_slows_down(world: World) -> None:
    world.images(50, own_s=0.0001)
    taken = world.images(20, own_s=0.25)
    assert sum(taken) >= 17
    assert all(taken[4:])


def test_one_long_pause_between_two_bursts_buys_a_few_images(world: World) -> None:
    world.images(50, own_s=0.0001)
    world.image(own_s=3600)
    assert sum(world.images(50, own_s=0.0001)) <= 8


def test_while_the_line_is_slow_everything_is_coded(world: World) -> None:
    world.images(30, own_s=0.0001)
    world.pace.line_is_slow = lambda: True
    assert all(world.images(20, own_s=0.0001))
    world.pace.line_is_slow = lambda: False
    assert not any(world.images(20, own_s=0.0001)[2:])


def test_a_machine_without_idle_processors_codes_for_nobody_s_pace(world: World) -> None:
    world.pace.processors_are_busy = lambda: True
    assert not any(world.images(20, own_s=0.25))
    world.pace.processors_are_busy = lambda: False
    assert all(world.images(20, own_s=0.25))


def test_a_slow_line_wins_over_busy_processors(world: World) -> None:
    world.pace.processors_are_busy = world.pace.line_is_slow = lambda: True
    assert all(world.images(20, own_s=0.0001))


def test_a_site_that_wants_no_coding_gets_none_on_a_slow_line_either() -> None:
    pace = CodingPace(Coding.NEVER)
    pace.line_is_slow = lambda: True
    assert not pace.allows_tight(ORIGIN)


def test_a_slow_processor_is_measured_and_not_assumed(world: World) -> None:
    """A scanner at twenty images a second, and a box that needs 0.2 s for one."""
    world.tight_s = 0.2
    taken = world.images(100, own_s=0.05)
    assert not any(taken[20:])


def test_one_scanner_in_a_hurry_does_not_spoil_it_for_another(world: World) -> None:
    taken = [(world.image(0.0001), world.image(0.25, OTHER)) for _ in range(60)]
    # The first waits for the second here, so what it sends is paced by it.
    assert all(mr for _, mr in taken)
    world.images(50, own_s=0.0)
    assert world.pace.allows_tight(OTHER)
    assert not world.pace.allows_tight(ORIGIN)


def test_small_objects_say_nothing(world: World) -> None:
    for _ in range(100):
        world.image(own_s=0.0, size_bytes=4000)
    assert world.pace.allows_tight(ORIGIN)


def test_clocks_that_overlap_are_no_time_of_the_scanners(world: World) -> None:
    """Two associations of one scanner: more work was done than time has passed."""
    for _ in range(50):
        world.now_s += 0.001
        world.pace.note(ORIGIN, size_bytes=SLICE_BYTES, spent_s=0.01, cpu_s=0.01, tight=True)
    assert not world.pace.allows_tight(ORIGIN)


def test_a_crowd_does_not_look_like_a_slow_disk(world: World) -> None:
    """Four associations at the wire's speed: each waits for the others, and coding would make them wait longer."""
    world.images(30, own_s=0.0001)
    for _ in range(100):
        world.now_s += 0.001
        world.pace.note(ORIGIN, size_bytes=SLICE_BYTES, spent_s=0.2, cpu_s=0.002, tight=False)
    assert not world.pace.allows_tight(ORIGIN)


def test_made_up_senders_cannot_grow_the_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coding_pace, "_MAX_SENDERS", 10)
    world.images(20, own_s=0.0001)
    for number in range(100):
        world.pace.allows_tight(Origin(f"EVIL{number}", "DICOMNET", "198.51.100.1", EXPLICIT_LITTLE))
        assert not world.pace.allows_tight(ORIGIN)  # whoever is asked about stays
    assert len(world.pace._senders) == 10
