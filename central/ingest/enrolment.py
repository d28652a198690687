"""How a box enrols and renews: Enrollment over Secure Transport (RFC 7030), with a pairing token as the password.

Always true: every refusal of a token has the same answer, and is on record with its reason; no certificate leaves
before its enrolment is on record; what central says of itself goes to holders of a live token or a valid certificate.
Tries are limited per address, so 128 random bits stay out of reach.
"""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NoReturn

from cryptography import x509
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.access.web import source_address
from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, AuditEvent
from central.audit.record import Audit
from central.audit.refusals import Refusals
from central.identity.errors import CertificateRefusedError, PairingRefusedError, RenewalRefusedError
from central.identity.gateways import Gateways
from central.identity.pairings import Pairings, PendingBox
from central.identity.standings import Standings
from central.ingest.caller import Callers, peer_certificate, read_body
from central.ingest.errors import RequestRefusedError, TryAgainError
from central.ingest.problems import problem_response
from contract.enrolment import (
    CA_PATH,
    CERTS_ONLY_TYPE,
    ENROL_PATH,
    INTRODUCTION_PATH,
    PKCS7_TYPE,
    RENEW_PATH,
    Introduction,
    decode_request,
    encode_certificates,
)
from contract.transfer import Problem

_MAX_BODY_BYTES: Final = 16_384
_TRIES: Final = 10
_WINDOW_S: Final = 60.0
_ADDRESSES: Final = 4096
_ASK_AGAIN_S: Final = 15
_NO_STORE: Final = {"Cache-Control": "no-store"}
_BASE64: Final = {"Content-Transfer-Encoding": "base64"}


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
    """The routes.

    Parameters
    ----------
    introduce : what central says of itself now.
    ca : its CA certificate.
    end_session : ends the session that a replaced box may have at the broker.
    """

    def __init__(
        self,
        gateways: Gateways,
        pairings: Pairings,
        standings: Standings,
        callers: Callers,
        introduce: Callable[[], Introduction],
        ca: x509.Certificate,
        audit: Audit,
        refusals: Refusals,
        end_session: Callable[[str], object],
    ) -> None:
        self._gateways = gateways
        self._pairings = pairings
        self._standings = standings
        self._callers = callers
        self._introduce = introduce
        self._ca = ca
        self._audit = audit
        self._refusals = refusals
        self._end_session = end_session
        self._tries = FailedTries()

    def routes(self) -> list[BaseRoute]:
        return [
            Route(CA_PATH, self._cacerts, methods=["GET"]),
            Route(INTRODUCTION_PATH, self._introduction, methods=["GET"]),
            Route(ENROL_PATH, self._enrol, methods=["POST"]),
            Route(RENEW_PATH, self._renew, methods=["POST"]),
        ]

    async def _cacerts(self, _request: Request) -> Response:
        return Response(encode_certificates([self._ca]), media_type=PKCS7_TYPE, headers=_BASE64)

    async def _introduction(self, request: Request) -> Response:
        if peer_certificate(request) is not None:
            await self._callers.gateway_of(request)
        else:
            address = source_address(request)
            self._tries.check(address)
            token = _token(request)
            if token is None:
                return _challenge()
            if not await run_in_threadpool(self._pairings.is_live, token):
                await run_in_threadpool(self._refuse, "unknown or expired token", address)
        answer = await run_in_threadpool(self._introduce)
        return Response(answer.model_dump_json(), media_type="application/json", headers=_NO_STORE)

    async def _enrol(self, request: Request) -> Response:
        address = source_address(request)
        self._tries.check(address)
        token = _token(request)
        if token is None:
            return _challenge()
        body = await read_body(request, _MAX_BODY_BYTES)
        certificate = await run_in_threadpool(self._redeem, token, body, address)
        if certificate is None:
            # RFC 7030 section 4.2.3: accepted for processing; the client asks again with the same request.
            return Response(status_code=202, headers={"Retry-After": str(_ASK_AGAIN_S)})
        return _certificates(certificate)

    def _redeem(self, token: str, body: bytes, address: str) -> x509.Certificate | None:
        try:
            outcome = self._pairings.enrol(token, body, address)
        except PairingRefusedError as error:
            self._refuse(error.reason, address, error)
        try:
            if isinstance(outcome, PendingBox):
                if outcome.is_new:
                    self._record(outcome.name, Action.ENROL_REQUEST, address, f"key {outcome.fingerprint}")
                return None
            if outcome.is_replacement:
                self._standings.forget(outcome.gateway_id)
                self._end_session(outcome.gateway_id)
            self._record(outcome.gateway_id, Action.ENROL, address, "")
        except AuditUnavailableError as error:
            # The token now belongs to the box's key: the same request is good again once the record is.
            raise TryAgainError(
                Problem.UNAVAILABLE, "central cannot keep its record now; try again"
            ) from error
        return outcome.certificate

    async def _renew(self, request: Request) -> Response:
        gateway_id = await self._callers.gateway_of(request)
        body = await read_body(request, _MAX_BODY_BYTES)
        certificate = await run_in_threadpool(
            self._renewed, gateway_id, peer_certificate(request), body, source_address(request)
        )
        return _certificates(certificate)

    def _renewed(
        self, gateway_id: str, peer_certificate_der: bytes | None, body: bytes, address: str
    ) -> x509.Certificate:
        try:
            certificate = self._gateways.renew(peer_certificate_der, decode_request(body))
            self._record(gateway_id, Action.RENEW, address, "")
        except CertificateRefusedError as error:  # it was good when the request began
            self._callers.refuse(error, address)
        except (ValueError, PairingRefusedError, RenewalRefusedError) as error:
            self._refusals.record(Action.ENROL_REFUSED, gateway_id, address, f"renewal: {error}")
            raise RequestRefusedError(Problem.INVALID, f"the certificate is not renewed: {error}") from error
        except AuditUnavailableError as error:
            raise TryAgainError(
                Problem.UNAVAILABLE, "central cannot keep its record now; try again"
            ) from error
        return certificate

    def _record(self, gateway_id: str, action: Action, address: str, detail: str) -> None:
        concerned = frozenset({self._gateways.institution_of(gateway_id)})
        self._audit.record(
            AuditEvent(
                gateway_id, "gateway", action, "success", address, detail=detail, institutions=concerned
            )
        )

    def _refuse(self, reason: str, address: str, cause: Exception | None = None) -> NoReturn:
        self._tries.count(address)
        self._refusals.record(Action.ENROL_REFUSED, "", address, reason)
        raise RequestRefusedError(
            Problem.PAIRING,
            "this pairing string is not, or no longer, good for this: ask for a new one at central",
        ) from cause


def _token(request: Request) -> str | None:
    """The password of HTTP Basic (RFC 7030 section 3.2.3); None if there is none. The user name is free."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        _, colon, token = base64.b64decode(encoded, validate=True).decode("ascii").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return token if colon else None


def _challenge() -> Response:
    return problem_response(
        Problem.PAIRING,
        401,
        "send the pairing token as password",
        {"WWW-Authenticate": 'Basic realm="enrolment"'},
    )


def _certificates(certificate: x509.Certificate) -> Response:
    return Response(
        encode_certificates([certificate]), media_type=CERTS_ONLY_TYPE, headers={**_BASE64, **_NO_STORE}
    )
