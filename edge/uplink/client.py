"""HTTPS to central: one pinned client, answers read up to a limit, failures named once.

Always true: nothing is sent before the server proved to be our central (the client's TLS context trusts our
CA only); no proxy from the environment gets in between; no answer makes the box allocate more than its cap.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from edge.uplink.errors import (
    CentralFailedError,
    CentralNotTrustedError,
    CentralUnreachableError,
    CertificateRefusedError,
    UplinkTransientError,
)
from edge.uplink.refusals import MAX_PROBLEM_BYTES


def open_client(base_url: str, tls: ssl.SSLContext, *, timeout_s: float, connections: int) -> httpx.Client:
    """A client for many threads. `timeout_s` bounds each connect, each send and each wait for bytes."""
    return httpx.Client(
        base_url=base_url,
        verify=tls,
        timeout=httpx.Timeout(timeout_s),
        headers={"Accept-Encoding": "identity"},  # bodies are read raw, against a cap
        limits=httpx.Limits(max_connections=connections + 1, max_keepalive_connections=connections),
        trust_env=False,  # HTTPS_PROXY and friends must not reroute a hospital's images
        follow_redirects=False,
    )


def read_bounded(response: httpx.Response, limit_bytes: int = MAX_PROBLEM_BYTES) -> bytes:
    """At most `limit_bytes` of the body of a streamed response; what is more is not read."""
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) > limit_bytes:
            break
    return bytes(body[:limit_bytes])


@contextmanager
def line_errors(central: str) -> Iterator[None]:
    """Turn httpx's errors into this room's."""
    try:
        yield
    except httpx.HTTPError as error:
        raise _translate(error, central) from error


def _translate(error: httpx.HTTPError, central: str) -> UplinkTransientError:
    tls = _tls_error(error)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return CentralNotTrustedError(
            f"{central} does not prove to be the central this box was paired with ({tls.verify_message}). "
            "Nothing was sent. Check the address and both clocks."
        )
    if tls is not None and _is_about_our_certificate(tls):
        return CertificateRefusedError(f"{central} does not accept this box's certificate ({tls.reason})")
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)):
        return CentralUnreachableError(f"{central} cannot be reached: {_why(error)}")
    return CentralFailedError(f"the line to {central} broke: {_why(error)}")


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """httpx keeps the TLS library's own word two causes down."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ssl.SSLError):
            return found
        found = found.__cause__ or found.__context__
    return None


def _is_about_our_certificate(error: ssl.SSLError) -> bool:
    """The peer's alert names a certificate or a CA (RFC 8446 section 6.2); with TLS 1.3 it comes on first read."""
    reason = error.reason or ""
    return "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason or "ACCESS" in reason)


def _why(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
        found = found.__cause__ or found.__context__
    return str(error) or type(error).__name__
