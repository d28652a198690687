"""A whole central whose listener for boxes does, by schedule, what networks, proxies and full servers do.

It stands between TLS and central's own routes, so it sees requests and not bytes: what a box sends may be carried out
twice, late, or out of order, and an answer may be another than central's. All bodies are small here and held whole.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract.transfer import PACKS_PATH, UPLOADS_PATH
from tests.central.app.house import House

_GATEWAY_STATUS: Final = (500, 502, 503, 504)


class Fault(StrEnum):
    """What becomes of one request."""

    NONE = "none"
    REFUSED = "refused"  # a proxy answers 500, 502, 503 or 504; central never sees it
    LOST_ANSWER = "lost answer"  # central carries it out, and the proxy answers one of those
    TOO_LARGE = "413"  # a proxy's bare 413
    TWICE = "twice"  # carried out twice, one after the other; the second answer counts
    AT_ONCE = "at once"  # carried out twice at the same time; the answer that is ready first counts
    LATE = "late"  # answered 504, and carried out only after the next request
    REPEATED = "repeated"  # and once more after every later request


class Faults:
    """Carries out a schedule, one entry for each request of an upload that comes whole, and is honest after its end."""

    def __init__(self, schedule: Sequence[Fault], seed: int) -> None:
        self._waiting = list(schedule)
        self._random = random.Random(seed)
        self.done: Counter[Fault] = Counter()
        self._later: list[tuple[Scope, bytes]] = []
        self._always: list[tuple[Scope, bytes]] = []

    def before(self, app: ASGIApp) -> ASGIApp:
        """The app that boxes get to see."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            of_upload = scope["type"] == "http" and scope["path"].startswith((UPLOADS_PATH, PACKS_PATH))
            if not of_upload or not (self._waiting or self._later or self._always):
                await app(scope, receive, send)
                return
            body = await _whole(receive)
            if body is None:
                return  # the line was cut, or the box paused: nobody is there to be answered
            fault = self._waiting.pop(0) if self._waiting else Fault.NONE
            self.done[fault] += 1
            later, self._later = self._later, []
            for message in await self._carry_out(fault, app, scope, body):
                await send(message)
            for old_scope, old_body in [*later, *self._always]:
                await _run(app, old_scope, old_body)
            if fault is Fault.REPEATED:
                self._always.append((scope, body))

        return answer

    async def _carry_out(self, fault: Fault, app: ASGIApp, scope: Scope, body: bytes) -> list[Message]:
        status = self._random.choice(_GATEWAY_STATUS)
        if fault is Fault.REFUSED:
            return await _run(Response("proxy", status), scope, b"")
        if fault is Fault.TOO_LARGE:
            return await _run(Response("proxy", 413), scope, b"")
        if fault is Fault.LATE:
            self._later.append((scope, body))
            return await _run(Response("proxy", 504), scope, b"")
        if fault is Fault.AT_ONCE:
            both = [asyncio.ensure_future(_run(app, scope, body)) for _ in range(2)]
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            first = done.pop().result()
            await asyncio.wait(both)
            return first
        messages = await _run(app, scope, body)
        if fault is Fault.TWICE:
            messages = await _run(app, scope, body)
        if fault is Fault.LOST_ANSWER:
            return await _run(Response("proxy", status), scope, b"")
        return messages


async def _whole(receive: Receive) -> bytes | None:
    """A request's body; None if the client went away before its end."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def _run(app: ASGIApp, scope: Scope, body: bytes) -> list[Message]:
    """What the app answers to a request that is here whole."""
    messages: list[Message] = []
    coming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    answered = asyncio.Event()

    async def receive() -> Message:
        if coming:
            return coming.pop()
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        messages.append(message)

    await app({**scope, "state": dict(scope.get("state", {}))}, receive, send)
    answered.set()
    return messages


class FaultyHouse(House):
    """A house with faults before its gateways' listener; set `faults` before `start`."""

    def __init__(self, root: Path, **sections: dict[str, Any]) -> None:
        super().__init__(root, **sections)
        self.faults = Faults((), 0)

    async def _serve(self, accepting: Any) -> None:
        gateways = self.central.gateways
        self.central = replace(self.central, gateways=replace(gateways, app=self.faults.before(gateways.app)))
        await super()._serve(accepting)
