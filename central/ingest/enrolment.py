"""How a box enrols: the CA for whoever asks, a certificate for whoever holds a pairing token (contract.enrolment).

Always true: every refusal has the same answer, and is on record with its reason; no certificate leaves before
its enrolment is on record. Tries are limited per address, so 128 random bits stay out of reach.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.audit.errors import AuditUnavailableError
from central.audit.record import Action, Audit, AuditEvent
from central.identity.errors import PairingRefusedError
from central.identity.gateways import Enrolment, Gateways
from central.ingest.caller import source_address
from central.ingest.errors import RequestRefusedError, TryAgainError
from central.ingest.refusals import Refusals
from contract.enrolment import CA_PATH, ENROL_PATH, BrokerAddress, EnrolmentAnswer, EnrolmentRequest
from contract.transfer import Problem

_MAX_BODY_BYTES: Final = 16_384
_TRIES: Final = 10
_WINDOW_S: Final = 60.0
_ADDRESSES: Final = 4096


@dataclass(frozen=True)
class Introduction:
    """What every box is told of central when it enrols; keys in base64, none of it secret."""

    central_id: str
    ca_pem: str
    sealing_keys: tuple[str, ...]
    receipt_keys: tuple[str, ...]
    broker: BrokerAddress | None


class FailedTries:
    """A sliding window of failed tries per address. Full of addresses, it lets no new one try until some expire."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, deque[float]] = {}

    def check(self, address: str) -> None:
        """TryAgainError when `address` failed too often of late."""
        now = self._clock()
        with self._lock:
            failures = self._failures.get(address)
            if failures is None:
                if len(self._failures) < _ADDRESSES:
                    return
                self._failures = {
                    known: times for known, times in self._failures.items() if now - times[-1] < _WINDOW_S
                }
                too_many = len(self._failures) >= _ADDRESSES
            else:
                too_many = len(failures) == _TRIES and now - failures[0] < _WINDOW_S
        if too_many:
            raise TryAgainError(
                Problem.UNAVAILABLE,
                "too many failed tries from this address; wait a minute",
                {"Retry-After": str(int(_WINDOW_S))},
            )

    def count(self, address: str) -> None:
        """Note a failed try."""
        with self._lock:
            self._failures.setdefault(address, deque(maxlen=_TRIES)).append(self._clock())


class EnrolmentDesk:
    """The two routes."""

    def __init__(
        self, gateways: Gateways, introduction: Introduction, audit: Audit, refusals: Refusals
    ) -> None:
        self._gateways = gateways
        self._introduction = introduction
        self._audit = audit
        self._refusals = refusals
        self._tries = FailedTries()

    def routes(self) -> list[BaseRoute]:
        return [
            Route(CA_PATH, self._ca, methods=["GET"]),
            Route(ENROL_PATH, self._enrol, methods=["POST"]),
        ]

    async def _ca(self, _request: Request) -> Response:
        return Response(self._introduction.ca_pem, media_type="application/x-pem-file")

    async def _enrol(self, request: Request) -> Response:
        address = source_address(request)
        self._tries.check(address)
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > _MAX_BODY_BYTES:
                raise RequestRefusedError(Problem.INVALID, f"a request has at most {_MAX_BODY_BYTES} bytes")
        enrolment = await run_in_threadpool(self._redeem, bytes(body), address)
        answer = EnrolmentAnswer(
            gateway_id=enrolment.gateway_id,
            central_id=self._introduction.central_id,
            certificate_pem=enrolment.certificate_pem,
            ca_pem=self._introduction.ca_pem,
            sealing_keys=list(self._introduction.sealing_keys),
            receipt_keys=list(self._introduction.receipt_keys),
            broker=self._introduction.broker,
        )
        return Response(
            answer.model_dump_json(), media_type="application/json", headers={"Cache-Control": "no-store"}
        )

    def _redeem(self, body: bytes, address: str) -> Enrolment:
        try:
            asked = EnrolmentRequest.model_validate_json(body)
            enrolment = self._gateways.enrol(asked.token, asked.csr_pem)
        except (PairingRefusedError, ValidationError) as error:
            reason = error.reason if isinstance(error, PairingRefusedError) else "malformed request"
            self._tries.count(address)
            self._refusals.record(Action.ENROL_REFUSED, "", address, reason)
            raise RequestRefusedError(
                Problem.PAIRING,
                "this pairing string is not, or no longer, good for this: ask for a new one at central",
            ) from error
        try:
            self._audit.record(AuditEvent(enrolment.gateway_id, "gateway", Action.ENROL, "success", address))
        except AuditUnavailableError as error:
            # The token now belongs to the box's key: the same request is good again once the record is.
            raise TryAgainError(
                Problem.UNAVAILABLE, "central cannot keep its record now; try again"
            ) from error
        return enrolment
