"""HTTPS to central: one pinned client, answers read up to a limit, failures named once.

Always true: nothing is sent before the server proved to be our central (the client's TLS context trusts our
CA only), through a proxy, too; no proxy from the environment gets in between; no answer makes the box allocate more
than its cap.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

import httpx

from edge.uplink.errors import (
    CentralFailedError,
    CentralNotTrustedError,
    CentralUnreachableError,
    CertificateRefusedError,
    KeyLostError,
    UplinkTransientError,
)
from edge.uplink.pinned_tls import CertificateDatesError
from edge.uplink.refusals import MAX_PROBLEM_BYTES, Remedy, read_refusal
from edge.uplink.tls_signer import SigningFailedError

_ALERTS: Final[Mapping[str, str]] = {
    "CERTIFICATE_EXPIRED": "this box's certificate is past its end. Ask the administrator for a pairing string that "
    "replaces this box",
    "UNKNOWN_CA": "this box's certificate is another central's. Enrol it at this one, or correct the address",
    "CERTIFICATE_REVOKED": "this box's certificate was revoked. Ask the administrator for a pairing string that "
    "replaces this box",
}
"""What central's TLS says of our certificate (alerts of RFC 8446 section 6.2), in words for a technician."""


_SocketOption = tuple[int, int, int] | tuple[int, int, bytes]
_UNSENT_BYTES: Final = 128 << 10
"""What may lie in the kernel unsent: enough to keep a fast line busy, little to send again after a cut."""


class _Way:
    """How this program gets out of the building: one way for everything that goes to central."""

    proxy: str | None = None


def go_through(proxy: str | None) -> None:
    """Ask the HTTP proxy at this URL for a tunnel (CONNECT) from the next client on; None: go straight.

    To be called once, before anything goes to central. TLS and its checks reach through the tunnel from end to end.
    """
    _Way.proxy = proxy


def open_client(base_url: str, tls: ssl.SSLContext, *, timeout_s: float, connections: int) -> httpx.Client:
    """A client for many threads. `timeout_s` bounds each connect, each send and each wait for bytes."""
    return httpx.Client(
        base_url=base_url,
        transport=httpx.HTTPTransport(
            verify=tls,
            # One more than the workers, for a probe; httpcore keeps them alive between requests.
            limits=httpx.Limits(max_connections=connections + 1, max_keepalive_connections=connections),
            trust_env=False,  # HTTPS_PROXY and friends must not reroute a hospital's images
            proxy=_Way.proxy,
            socket_options=_socket_options(),
        ),
        timeout=httpx.Timeout(timeout_s),
        headers={"Accept-Encoding": "identity"},  # bodies are read raw, against a cap
        trust_env=False,
        follow_redirects=False,
    )


def _socket_options() -> list[_SocketOption]:
    """What this kernel has: BBR, which takes a lost packet for what it mostly is on a radio link, no congestion."""
    wanted: list[_SocketOption] = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr"),
        (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES),
    ]
    taken: list[_SocketOption] = []
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        for option in wanted:
            with suppress(OSError):  # refused: the kernel's own choice is good enough
                probe.setsockopt(*option)
                taken.append(option)
    return taken


def exchange(
    client: httpx.Client,
    method: str,
    path: str,
    limit_bytes: int = MAX_PROBLEM_BYTES,
    *,
    content: str | bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, httpx.Headers, bytes]:
    """One small request: status, headers, at most `limit_bytes` of the body. httpx's errors come out as they are."""
    response = client.send(client.build_request(method, path, content=content, headers=headers), stream=True)
    try:
        return response.status_code, response.headers, read_bounded(response, limit_bytes)
    finally:
        response.close()


def refused(status: int, body: bytes) -> UplinkTransientError:
    """The error for an answer that is not the one hoped for."""
    refusal = read_refusal(status, body)
    if refusal.remedy is Remedy.NEW_CERTIFICATE:
        return CertificateRefusedError(refusal.sentence)
    return CentralFailedError(refusal.sentence, status)


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
    if isinstance(tls, SigningFailedError):
        lost = isinstance(tls.fault, KeyLostError)
        return (CertificateRefusedError if lost else CentralUnreachableError)(str(tls.fault))
    if isinstance(tls, CertificateDatesError):
        return CentralUnreachableError(
            f"{tls.verify_message}. Nothing was sent to {central}; this box asks it for the time by itself"
        )
    if isinstance(tls, ssl.SSLCertVerificationError):
        return CentralNotTrustedError(
            f"{central} does not prove to be the central this box was paired with ({tls.verify_message}). "
            "Nothing was sent. Check the address and both clocks."
        )
    if tls is not None and _is_about_our_certificate(tls):
        words = next((words for alert, words in _ALERTS.items() if alert in (tls.reason or "")), tls.reason)
        return CertificateRefusedError(f"{central} does not accept this box's certificate: {words}")
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)):
        return CentralUnreachableError(f"{central} cannot be reached: {why(error)}")
    return CentralFailedError(f"the line to {central} broke: {why(error)}")


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


def why(error: httpx.HTTPError) -> str:
    """The reason in one phrase, as near to the system's own word as it can be had."""
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
        found = found.__cause__ or found.__context__
    return str(error) or type(error).__name__
