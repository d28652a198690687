"""What cannot be made is not tried at each request, and everybody who waited hears why."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from central.archive.making import NOT_AGAIN_S, Making

WAIT_S = 60.0


class BrokenError(Exception):
    pass


def test_a_refusal_holds_for_a_minute_and_for_its_key_alone() -> None:
    now = [0.0]
    making, calls = Making[str](lambda: now[0]), list[str]()

    def fail() -> str:
        calls.append("tried")
        raise BrokenError("broken")

    for at_s in (0.0, 1.0, NOT_AGAIN_S - 1):
        now[0] = at_s
        with pytest.raises(BrokenError, match="broken"):
            making.once("a", fail, (BrokenError,))
    assert calls == ["tried"]
    assert making.once("b", lambda: "made", (BrokenError,)) == "made"
    now[0] = NOT_AGAIN_S
    assert making.once("a", lambda: "made", (BrokenError,)) == "made"


def test_what_may_pass_by_itself_is_tried_again() -> None:
    making, calls = Making[str](), list[str]()

    def fail() -> str:
        calls.append("tried")
        raise BrokenError

    for _ in range(2):
        with pytest.raises(BrokenError):
            making.once("a", fail)
    assert len(calls) == 2


def test_who_waited_hears_why(monkeypatch: pytest.MonkeyPatch) -> None:
    making, waiting, go_on = Making[str](), threading.Event(), threading.Event()

    def fail() -> str:
        waiting.set()
        assert go_on.wait(WAIT_S)
        raise BrokenError

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(making.once, "a", fail, (BrokenError,))
        assert waiting.wait(WAIT_S)
        second = pool.submit(making.once, "a", lambda: "made by the second", (BrokenError,))
        go_on.set()
        for each in (first, second):
            with pytest.raises(BrokenError):
                each.result(WAIT_S)


def test_refusals_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("central.archive.making._MOST_REFUSALS", 3)
    making = Making[str]()

    def fail() -> str:
        raise BrokenError

    for number in range(10):
        with pytest.raises(BrokenError):
            making.once(str(number), fail, (BrokenError,))
    assert len(making._refused) <= 4
    assert making.once("0", lambda: "made", (BrokenError,)) == "made", "the oldest is forgotten first"
