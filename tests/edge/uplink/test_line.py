"""The breaker: who may send, who probes, and how long everybody waits."""

from __future__ import annotations

import threading

from edge.uplink.line import Line, Pass, backoff_s


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def longest(_low: float, high: float) -> float:
    return high


def test_backoff_doubles_up_to_the_ceiling_and_jitters_from_zero() -> None:
    assert [backoff_s(failures, 60, longest) for failures in (0, 1, 2, 5, 6, 1000)] == [1, 2, 4, 32, 60, 60]
    assert backoff_s(3, 60, lambda low, _high: low) == 0


def test_with_a_new_identity_every_worker_begins_and_one_failure_closes_the_line_for_all() -> None:
    clock = Clock()
    line = Line(60, clock=clock, uniform=longest)
    line.begin()
    assert [line.enter() for _ in range(3)] == [Pass.BEGIN] * 3
    line.passed()
    assert line.enter() is Pass.SEND
    assert (line.failed(), line.failed()) == (1, 1)
    line.passed()  # of the third, whose probe was answered before
    clock.now_s = 1
    assert line.enter() is Pass.PROBE, "closed"


def test_what_the_other_side_asks_for_is_waited_out_up_to_the_ceiling() -> None:
    line = Line(60, clock=Clock(), uniform=longest)
    for asked_s, waits_s in ((0.0, 1), (30.0, 30), (0.5, 1), (86_400.0, 60)):
        line.begin()
        assert line.failed(asked_s) == waits_s


def test_after_a_failure_one_worker_probes_and_the_others_wait_for_it() -> None:
    line = Line(60, uniform=lambda low, _high: low)
    line.begin()
    line.failed()
    assert line.enter() is Pass.PROBE
    entered: list[Pass] = []
    others = [threading.Thread(target=lambda: entered.append(line.enter())) for _ in range(3)]
    for thread in others:
        thread.start()
    others[0].join(0.05)
    assert entered == []
    line.passed()
    for thread in others:
        thread.join(60)
    assert entered == [Pass.SEND] * 3


def test_failures_together_count_once_and_the_delay_grows_until_an_object_gets_through() -> None:
    clock = Clock()
    line = Line(60, clock=clock, uniform=longest)
    line.begin()
    assert line.enter() is Pass.BEGIN
    line.passed()
    assert (line.failed(), line.failed()) == (1, 1)
    clock.now_s = 1
    assert line.enter() is Pass.PROBE
    line.passed()  # a probe alone does not shorten the next delay
    assert line.failed() == 2
    clock.now_s = 3
    assert line.enter() is Pass.PROBE
    line.passed()
    line.succeeded()
    assert line.failed() == 1


def test_a_worker_wakes_at_once_when_it_may_try_again() -> None:
    line = Line(3600, uniform=longest)
    line.begin()
    line.enter()
    for _ in range(12):
        line.failed()
        line.try_now()
        assert line.enter() is Pass.PROBE
    assert line.failed() > 600
    entered: list[Pass] = []
    worker = threading.Thread(target=lambda: entered.append(line.enter()))
    worker.start()
    line.try_now()
    worker.join(60)
    assert entered == [Pass.PROBE]


def test_without_an_identity_nobody_tries_and_stop_ends_the_wait() -> None:
    line = Line(60)
    line.try_now()
    entered: list[Pass] = []
    worker = threading.Thread(target=lambda: entered.append(line.enter()))
    worker.start()
    worker.join(0.05)
    assert entered == []
    line.stop()
    worker.join(60)
    assert entered == [Pass.STOP]
