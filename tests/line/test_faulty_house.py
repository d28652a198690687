"""The faults themselves: a schedule is carried out whole, whatever becomes of single requests."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope, Send

from contract.transfer import UPLOADS_PATH
from tests.line.faulty_house import Fault, Faults


def test_a_request_that_does_not_come_whole_uses_up_no_fault() -> None:
    """A box that pauses in the middle of a request is one such; it happens in the tests here, now and then."""
    faults = Faults([Fault.TWICE], seed=1)
    seen = 0

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        nonlocal seen
        seen += 1

    async def ask(ended: Message) -> None:
        async def receive() -> Message:
            return ended

        async def send(_message: Message) -> None: ...

        await faults.before(app)({"type": "http", "path": UPLOADS_PATH}, receive, send)

    asyncio.run(ask({"type": "http.disconnect"}))
    assert (seen, faults.done.total()) == (0, 0)
    asyncio.run(ask({"type": "http.request", "body": b"", "more_body": False}))
    assert (seen, faults.done) == (2, {Fault.TWICE: 1})
