"""Refusals that the route itself puts on no record: the door does, for whoever is signed in.

Why it exists: a page or list that answers 403, and a step that was put on record as taken and then could not be, are
refusals like any other; and no route should have to remember that.

Always true: a 403 leaves when a refusal is on record. So does the answer to a step that was not taken after all. Where
the record cannot be written, neither leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from central.access.problems import unrecorded
from central.audit.errors import AuditUnavailableError
from central.audit.events import AuditEvent


@dataclass
class Said:
    """What is on record of one request: whether there is anything, and the `step` that was about to be taken."""

    anything: bool = False
    step: AuditEvent | None = None


def unsaid(said: Said, status: int, refusal: Callable[[], AuditEvent]) -> AuditEvent | None:
    """What an answer of this status leaves to be put on record; None: nothing. `refusal`: for who has said nothing."""
    if said.step is not None and 400 <= status < 500:
        return replace(
            said.step, outcome="refused", detail=f"{said.step.detail}: not done, answered {status}"
        )
    return refusal() if status == HTTPStatus.FORBIDDEN and not said.anything else None


def putting_on_record(
    answer: ASGIApp, said: Said, refusal: Callable[[], AuditEvent], record: Callable[[AuditEvent], None]
) -> ASGIApp:
    """`answer`, which leaves when nothing about it is `unsaid`."""

    async def answer_on_record(scope: Scope, receive: Receive, send: Send) -> None:
        instead = False

        async def send_on_record(message: Message) -> None:
            nonlocal instead
            if message["type"] == "http.response.start":
                event = unsaid(said, message["status"], refusal)
                try:
                    if event is not None:
                        await run_in_threadpool(record, event)
                except AuditUnavailableError:
                    instead = True
                    await unrecorded()(scope, receive, send)
            if not instead:
                await send(message)

        await answer(scope, receive, send_on_record)

    return answer_on_record
