"""Idle time of the machine, as the kernel counts it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.buffer.processors import Processors

TICKS = os.sysconf("SC_CLK_TCK")


class Machine:
    """What `/proc/stat` says, and a clock; the test lets time pass."""

    def __init__(self, stat: Path) -> None:
        self.stat, self.now_s, self.idle, self.waiting = stat, 50.0, 7000, 300
        self.write()
        self.processors = Processors(stat, clock=lambda: self.now_s)

    def write(self) -> None:
        self.stat.write_text(f"cpu  900 10 400 {self.idle} {self.waiting} 0 5 0 0 0\ncpu0 1 2 3 4 5\n")

    def passes(self, seconds: float, *, idle: float = 0.0, waiting: float = 0.0) -> bool:
        """So many seconds, with so many processors idle, or waiting for the disk alone."""
        self.now_s += seconds
        self.idle += round(seconds * idle * TICKS)
        self.waiting += round(seconds * waiting * TICKS)
        self.write()
        return self.processors.are_busy()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "stat")


def test_all_of_them_at_work_are_busy_and_a_free_half_of_one_is_not(machine: Machine) -> None:
    assert not machine.processors.are_busy()
    assert machine.passes(1.0, idle=0.1)
    assert not machine.passes(1.0, idle=0.5)
    assert not machine.passes(1.0, idle=1.9)


def test_a_processor_that_waits_for_the_disk_has_time(machine: Machine) -> None:
    assert not machine.passes(1.0, waiting=0.6)


def test_an_answer_stands_for_half_a_second(machine: Machine) -> None:
    assert machine.passes(1.0)
    assert machine.passes(0.2, idle=2.0)
    assert not machine.passes(0.4, idle=2.0)


def test_where_the_kernel_does_not_tell_nobody_is_busy(machine: Machine) -> None:
    assert machine.passes(1.0)
    machine.stat.write_text("")
    machine.now_s += 1.0
    assert not machine.processors.are_busy()
    machine.stat.unlink()
    machine.now_s += 1.0
    assert not machine.processors.are_busy()


def test_the_machine_this_runs_on_tells() -> None:
    now_s = 0.0
    processors = Processors(clock=lambda: now_s)
    now_s = 1e6  # as if nothing had been idle for a long time
    assert processors.are_busy()
