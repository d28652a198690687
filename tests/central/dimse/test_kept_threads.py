"""Threads that are kept: the next connection finds what the one before it used, and none outlives the server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from central.dimse.kept_threads import KeptThreads

BOUND_S = 60.0


def test_one_after_the_other_is_one_thread_and_many_at_once_are_many() -> None:
    threads = KeptThreads("kept", 2)
    ran: list[int] = []

    def work(done: threading.Barrier) -> None:
        ran.append(threading.get_ident())
        done.wait(BOUND_S)

    def at_once(count: int) -> None:
        done = threading.Barrier(count + 1)
        for _ in range(count):
            threads.run(lambda: work(done))
        done.wait(BOUND_S)
        until(lambda: len(threads._idle) == min(2, count + before))

    before = 0
    for _ in range(3):
        at_once(1)
    assert len(set(ran)) == 1
    before = 2
    ran.clear()
    at_once(5)
    assert len(set(ran)) == 5
    until(lambda: len(threads._alive) == 2)
    threads.end(BOUND_S)
    assert not [one for one in threading.enumerate() if one.name == "kept"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_fails_ends_its_own_thread_only() -> None:
    threads = KeptThreads("kept", 2)
    done = threading.Event()

    def fail() -> None:
        raise ZeroDivisionError

    threads.run(fail)
    until(lambda: not threads._alive)
    threads.run(done.set)
    assert done.wait(BOUND_S)
    threads.end(BOUND_S)
    assert not threads._alive


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + BOUND_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
