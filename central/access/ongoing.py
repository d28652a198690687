"""Answers that take long: whether they may go on is asked again while they leave.

Why it exists: a study takes minutes to download, and access to it can end meanwhile: with the session, by a refusal or
withdrawn consent, with a link or an emergency, or because the study is erased.

What is always true
-------------------
- What a route gives out it says here (`gives_out`; the gate of DICOMweb does so with every grant). When a piece of the
  answer is to leave and the last decision is `STANDS_S` old, everything is decided anew: who calls, then the policy.
- Once something has ended, no further piece leaves (one that waits for the line goes with the one before it), and the
  answer never gets its end: the server closes the connection, and no client takes what came for the whole.
- Why it ended is on record; that the record cannot be written lets nothing go on.

What a crash leaves: an answer without its end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Send

from central.access.policy import Principal
from central.audit.errors import AuditUnavailableError
from central.audit.events import AuditEvent

STANDS_S: Final = 2.0
"""How long a decision counts in an answer or a retrieval that goes on."""

_log = logging.getLogger(__name__)


class AccessEndedError(Exception):
    """What an answer gives out may not be had any more."""


class Ongoing:
    """What the answer to one request gives out. Of one thread at a time.

    Parameters
    ----------
    caller : who calls, as they stand now; or why they are nobody any more.
    record : puts an event on record, or raises AuditUnavailableError.
    clock : monotonic, in seconds.
    """

    def __init__(
        self,
        caller: Callable[[], Principal | str],
        record: Callable[[AuditEvent], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._caller = caller
        self._record = record
        self._clock = clock
        self._decided_at_s = clock()
        self._given_out: list[tuple[AuditEvent, Callable[[Principal], str | None]]] = []

    def gives_out(self, event: AuditEvent, why_not: Callable[[Principal], str | None]) -> None:
        """The answer shows what `event` says, as it was allowed just now. `why_not`: what keeps this caller from it at
        this moment, or None."""
        self._given_out.append((event, why_not))

    def is_due(self) -> bool:
        """Whether it is time to decide anew."""
        return bool(self._given_out) and self._clock() - self._decided_at_s >= STANDS_S

    def has_ended(self) -> bool:
        """Decide anew. What may not be had any more is put on record. Reads the databases."""
        if not self._given_out:
            return False
        caller = self._caller()
        ended = [
            (event, why)
            for event, why_not in self._given_out
            if (why := caller if isinstance(caller, str) else why_not(caller)) is not None
        ]
        self._decided_at_s = self._clock()
        for event, why in ended:
            _log.info("event=answer-ended action=%s why=%s", event.action, why)
            said = replace(event, outcome="refused", detail=f"{event.detail}: ended while it ran: {why}")
            try:
                self._record(said)
            except AuditUnavailableError as error:
                _log.error("event=not-recorded what=%s why=%s", "an answer was ended", error)
        return bool(ended)

    def sending(self, send: Send) -> Send:
        """`send`, which raises AccessEndedError in place of a piece that may not leave any more."""

        async def send_while_allowed(message: Message) -> None:
            if message.get("body") and self.is_due() and await run_in_threadpool(self.has_ended):
                raise AccessEndedError
            await send(message)

        return send_while_allowed
