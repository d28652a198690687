"""The two listeners on one event loop: people over HTTP(S), gateways over TLS with client certificates.

Why it exists: no ASGI server shows an application the client's certificate, and uvicorn alone serves one
address. Always true: what a gateway route finds under `PEER_CERTIFICATE` is the certificate of its own
connection, verified against our CA by TLS; sockets are bound before anything else starts, so that a taken port
is one clear sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from asyncio import Event, Transport
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from central.errors import StartError
from central.identity.identity import KeyPair
from central.ingest.caller import PEER_CERTIFICATE

_BACKLOG: Final = 512
_GRACE_S: Final = 10  # for answers under way when central stops


class ClientCertificateProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with the connection's client certificate in each request's state."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        # uvicorn copies app_state into the scope of every request of this connection.
        self.app_state = {**self.app_state, PEER_CERTIFICATE: certificate}


@dataclass(frozen=True)
class Listener:
    """A bound socket and what answers on it. `tls` None: plain HTTP."""

    bound: socket.socket
    app: ASGIApp
    tls: ssl.SSLContext | None = None
    behind_proxy: bool = False

    @property
    def port(self) -> int:
        return int(self.bound.getsockname()[1])


def bind(host: str, port: int, key: str) -> socket.socket:
    """A listening socket.

    Raises
    ------
    StartError : with the settings' `key` to change.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise StartError(f"cannot listen on {host} port {port} ({key}): {reason(error)}") from error
    # Connections inherit it. asyncio sets it by itself only on sockets that say they are TCP, which those of
    # create_server do not; without it, head and body of each answer wait 40 ms for the other side's acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def reason(error: BaseException) -> str:
    """The system's words for an error, without number and path."""
    return getattr(error, "strerror", None) or str(error)


def gateway_tls(server: KeyPair, ca: str, on_foreign: Callable[[str], None]) -> ssl.SSLContext:
    """TLS 1.2 or newer with the private CA; a client certificate is verified if one is shown.

    Which routes need one is for the routes to say: a box that enrols has none yet. A certificate that does not
    verify ends the handshake, so no route ever hears of it: `on_foreign` does, with OpenSSL's words for what is
    wrong, on a thread. Whose address it was, TLS does not know.
    """
    context = _server_context()
    context.sslobject_class = _watched(on_foreign)
    context.load_cert_chain(server.certificate, server.key)
    context.load_verify_locations(cadata=ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _watched(on_foreign: Callable[[str], None]) -> type[ssl.SSLObject]:
    class Watched(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except ssl.SSLCertVerificationError as error:
                asyncio.get_running_loop().run_in_executor(None, on_foreign, error.verify_message)
                raise

    return Watched


def people_tls(certificate: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or newer with the certificate from the settings.

    Raises
    ------
    StartError : the files cannot be read or do not fit each other.
    """
    context = _server_context()
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise StartError(f"people.tls_certificate or people.tls_key will not do: {reason(error)}") from error
    return context


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


async def serve(listeners: Sequence[Listener], stop: Event, ready: Callable[[], None]) -> None:
    """Answer on all listeners until `stop` is set, then let what is under way finish. `ready` once all accept."""
    servers = [_Server(_config(listener)) for listener in listeners]
    running = [
        asyncio.ensure_future(server.serve(sockets=[listener.bound]))
        for server, listener in zip(servers, listeners, strict=True)
    ]
    starting = [asyncio.ensure_future(server.accepting.wait()) for server in servers]
    await asyncio.wait(
        [asyncio.ensure_future(asyncio.wait(starting)), *running], return_when="FIRST_COMPLETED"
    )
    if all(waiter.done() for waiter in starting):
        ready()
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait([stopping, *running], return_when="FIRST_COMPLETED")
        stopping.cancel()
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*running)


class _Server(uvicorn.Server):
    """A uvicorn server that says when it accepts, and leaves signals to the program."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _config(listener: Listener) -> uvicorn.Config:
    tls = listener.tls
    return uvicorn.Config(
        listener.app,
        http=ClientCertificateProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # who looked at what is in the audit record; URLs hold search values
        server_header=False,
        proxy_headers=listener.behind_proxy,
        forwarded_allow_ips="127.0.0.1,::1",
        timeout_graceful_shutdown=_GRACE_S,
        ssl_context_factory=(lambda _config, _default: tls) if tls is not None else None,
    )
