"""Paused means: nothing more leaves, from the next few bytes on, and nothing is lost by it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge.buffer.states import State
from tests.edge.uplink.conftest import Uplink

Eventually = Callable[[Callable[[], bool]], None]


def test_nothing_is_sent_while_paused_and_everything_after(uplink: Uplink, eventually: Eventually) -> None:
    forwarder = uplink.forward()
    eventually(lambda: uplink.link.status().state == "connected")
    forwarder.pause()
    assert forwarder.paused
    stored = [uplink.store() for _ in range(3)]
    # A worker that was to send would have done so well within this: it waits on the spool's own condition.
    threading.Event().wait(0.5)
    assert {uplink.states()[str(one.object_id)] for one in stored} == {State.READY}
    forwarder.resume()
    eventually(lambda: set(uplink.states().values()) <= {State.FREED})


def test_an_object_under_way_is_let_go_and_resumed(uplink: Uplink, eventually: Eventually) -> None:
    forwarder = uplink.forward()
    eventually(lambda: uplink.link.status().state == "connected")
    stored = uplink.store(64 << 20)
    eventually(lambda: uplink.states()[str(stored.object_id)] is not State.READY)
    forwarder.pause()
    eventually(lambda: uplink.states()[str(stored.object_id)] is not State.SENDING)
    forwarder.resume()
    eventually(lambda: uplink.states()[str(stored.object_id)] is State.FREED)


def test_a_paused_box_stops_at_once(uplink: Uplink, eventually: Eventually) -> None:
    forwarder = uplink.forward()
    eventually(lambda: uplink.link.status().state == "connected")
    forwarder.pause()
    uplink.store()
    uplink.restart()
    assert set(uplink.states().values()) == {State.READY}
