"""STOW-RS: Store Instances (PS3.18 section 10.5), streamed into the archive.

What is always true: the role is looked at first, and that the caller stores is on record before a byte is kept; the
studies that were stored into are on record before the answer. When a record cannot be written the answer is 503, and
the client sends again what is found there as a duplicate.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.access.policy import Privilege, has_privilege, managed
from central.access.web import audit_event, principal_of
from central.archive.receiving import Receiving
from central.audit.events import Action, Outcome
from central.audit.record import Audit
from central.dicomweb.accept import Offer, accept_of, choose
from central.dicomweb.deposit import PART_TYPE, Deposit, DepositLimits
from central.dicomweb.errors import (
    BadRequestError,
    DicomwebError,
    ForbiddenError,
    TooSlowError,
    UnavailableError,
    UnsupportedMediaTypeError,
)
from central.dicomweb.gate import base_url, path_uid
from central.dicomweb.multipart_reader import boundary_of
from central.dicomweb.native_model import XML, native_model
from central.dicomweb.store_response import JSON, as_json, response_module, status_of
from central.institution import DEFAULT_INSTITUTION

SILENCE_S: Final = 60.0
REQUESTS_AT_ONCE: Final = 16
REQUESTS_OF_ONE_SENDER: Final = 8
_OPENERS: Final = 4
_BATCH_BYTES: Final = 256 << 10  # a change of threads for each
_OFFERS: Final = (Offer(JSON), Offer("application/json"), Offer(XML))
_log = logging.getLogger(__name__)


class Store:
    """The store transaction on `archive`."""

    def __init__(
        self, archive: Receiving, audit: Audit, limits: DepositLimits, silence_s: float = SILENCE_S
    ) -> None:
        self._archive = archive
        self._audit = audit
        self._limits = limits
        self._silence_s = silence_s
        self._openers = ThreadPoolExecutor(_OPENERS, thread_name_prefix="stow-objects")
        self._senders: Counter[str] = Counter()  # touched on the event loop alone

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/studies", self.store, methods=["POST"]),
            Route("/studies/{study}", self.store, methods=["POST"]),
        ]

    async def store(self, request: Request) -> Response:
        study_uid = path_uid(request, "study") if "study" in request.path_params else None
        await run_in_threadpool(self._admit, request, study_uid)
        offer = choose(accept_of(request), _OFFERS)
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedMediaTypeError("send the body as it is, without a Content-Encoding")
        boundary = boundary_of(request.headers.get("content-type", ""), PART_TYPE)
        sender = principal_of(request).username
        # Of somebody of the whole central it goes where everything goes that is no particular institution's.
        institution = managed(principal_of(request)) or DEFAULT_INSTITUTION
        with self._place(sender):
            deposit = Deposit(
                self._archive, self._limits, self._openers, boundary, sender, institution, study_uid
            )
            try:
                fault = await self._received(request, deposit)
            finally:  # also when central stops, or fails: what is stored is on record
                await run_in_threadpool(self._record_stored, request, deposit, study_uid)
        if fault is not None and not deposit.stored:
            raise fault
        module = response_module(deposit.stored, deposit.failed, base_url(request))
        return Response(
            native_model(module) if offer.media_type == XML else as_json(module),
            status_of(deposit.stored, deposit.failed),
            media_type=offer.media_type,
        )

    async def _received(self, request: Request, deposit: Deposit) -> DicomwebError | None:
        """Take the body in; what is wrong with it as a whole, if anything is."""
        try:
            async for batch in self._batches(request):
                await run_in_threadpool(deposit.feed, batch)
            await run_in_threadpool(deposit.finish)
        except DicomwebError as error:
            await run_in_threadpool(deposit.break_off)
            return error
        except ClientDisconnect:
            return BadRequestError("the connection ended before the request did")
        finally:
            await run_in_threadpool(deposit.discard)
        return None

    def _admit(self, request: Request, study_uid: str | None) -> None:
        """Record that the caller stores; refuse who may not, and when there is no room."""
        allowed = has_privilege(principal_of(request), Privilege.STORE_INSTANCES)
        outcome: Outcome = "success" if allowed else "refused"
        detail = "STOW-RS begins" if allowed else "STOW-RS: role-may-not"
        self._audit.record(audit_event(request, Action.STORE, outcome, detail, study_uid))
        if not allowed:
            raise ForbiddenError("your role may not store instances")
        if not self._limits.has_room():
            raise UnavailableError("the archive has no room now; send again later")

    def _record_stored(self, request: Request, deposit: Deposit, asked_study_uid: str | None) -> None:
        studies = Counter(one.study_instance_uid for one in deposit.stored)
        for study_uid, count in studies.items():
            detail = f"STOW-RS: {count} instances stored"
            self._audit.record(audit_event(request, Action.STORE, "success", detail, study_uid))
        if deposit.failed:
            counted = Counter(f"{one.failure_reason:04X}" for one in deposit.failed)
            reasons = ", ".join(f"{count} x {reason}" for reason, count in counted.items())
            _log.warning("event=not-stored by=%s reasons=%s", principal_of(request).username, reasons)
            detail = f"STOW-RS: not stored: {reasons}"
            self._audit.record(audit_event(request, Action.STORE, "refused", detail, asked_study_uid))

    async def _batches(self, request: Request) -> AsyncIterator[bytes]:
        """The body, some pieces at a time.

        Raises
        ------
        TooSlowError : nothing came for too long.
        ClientDisconnect : the connection ended.
        """
        pieces, batch = aiter(request.stream()), bytearray()
        while True:
            try:
                batch += await asyncio.wait_for(anext(pieces), self._silence_s)
            except StopAsyncIteration:
                break
            except TimeoutError as error:
                raise TooSlowError(f"nothing came for {self._silence_s:g} s") from error
            if len(batch) >= _BATCH_BYTES:
                yield bytes(batch)
                batch.clear()
        yield bytes(batch)

    @contextmanager
    def _place(self, sender: str) -> Iterator[None]:
        """One of the places; a sender who holds his share, and be it in silence, leaves the others theirs."""
        if self._senders.total() >= REQUESTS_AT_ONCE or self._senders[sender] >= REQUESTS_OF_ONE_SENDER:
            raise UnavailableError("too many requests store already; try again later")
        self._senders[sender] += 1
        try:
            yield
        finally:
            self._senders[sender] -= 1
            self._senders += Counter()  # forgets who has none
