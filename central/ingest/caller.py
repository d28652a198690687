"""Who calls on the gateways' listener, by the certificate of the connection, checked anew at every request; and what
they send, up to a limit."""

from __future__ import annotations

from typing import Final, NoReturn

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from central.access.web import source_address
from central.audit.events import Action
from central.audit.refusals import Refusals
from central.bodies import body_within
from central.identity.errors import CertificateRefusedError
from central.identity.gateways import Gateways
from central.ingest.errors import RequestRefusedError
from contract.transfer import Problem

PEER_CERTIFICATE: Final = "peer_certificate_der"
"""Key in the ASGI scope's state: the client's certificate in DER, or None. Put there by the listener."""


def peer_certificate(request: Request) -> bytes | None:
    """The certificate of the connection in DER, if the client has shown one."""
    certificate: bytes | None = getattr(request.state, PEER_CERTIFICATE, None)
    return certificate


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body; RequestRefusedError as soon as it is longer than that."""
    body = await body_within(request, limit_bytes)
    if body is None:
        raise RequestRefusedError(Problem.INVALID, f"a request has at most {limit_bytes} bytes")
    return body


class Callers:
    """Turns a request's certificate into a gateway id."""

    def __init__(self, gateways: Gateways, refusals: Refusals) -> None:
        self._gateways = gateways
        self._refusals = refusals

    async def gateway_of(self, request: Request) -> str:
        """The gateway that calls.

        Raises
        ------
        RequestRefusedError : with one line for the technician; the record says what was wrong.
        """
        return await run_in_threadpool(self._check, request)

    def refuse(self, error: CertificateRefusedError, address: str) -> NoReturn:
        """Record and answer what is wrong with the certificate of a caller from `address`."""
        self._refusals.record(Action.UPLOAD_REFUSED, error.claimed, address, error.reason)
        raise RequestRefusedError(Problem.CERTIFICATE, error.advice) from error

    def _check(self, request: Request) -> str:
        try:
            return self._gateways.gateway_of(peer_certificate(request))
        except CertificateRefusedError as error:
            self.refuse(error, source_address(request))
