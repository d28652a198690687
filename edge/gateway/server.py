"""Listens, admits, and runs one thread a connection: on the plain port, and on the TLS port where there is one.

Always true: a connection that the guard did not admit costs no thread. `stop` lets instances in progress finish
within the grace, then cuts what is left; a crash at any point leaves nothing a scanner was told is safe.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol

from edge.buffer.entrance import Entrance
from edge.gateway.admission import Admission, Caller
from edge.gateway.arrival import TlsArrival
from edge.gateway.association import Association
from edge.gateway.errors import (
    CannotListenError,
    RejectedError,
    TooManyAssociationsError,
    TooManyConnectionsError,
)
from edge.gateway.guard import Guard, Place, read_associate_rq
from edge.gateway.negotiation import LOCAL_LIMIT_EXCEEDED, Agreed, negotiate
from edge.gateway.refusals import Refusals
from edge.gateway.service import Service
from edge.gateway.settings import GatewaySettings, plain_address
from edge.gateway.tls import PeerCertificate, TlsIdentity
from edge.gateway.wire import send
from edge.gateway.workers import Worker, Workers
from edge.memory import Heap

_LOG = logging.getLogger(__name__)
_BACKLOG = 128
_ACCEPT_RETRY_S = 1.0
_RENEW_SOON = timedelta(days=30)


class _Serving(Protocol):
    """What runs on a connection's thread."""

    def run(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...


_Serve = Callable[[socket.socket, Place], _Serving]


class GatewayServer:
    """The DICOM ports of the box.

    Parameters
    ----------
    entrance : where instances go, and where refusals are noted.
    services : what is offered beside C-ECHO and C-STORE; no two of them for one SOP class.
    admission : who may come in; without one, whoever the settings let in without a list.
    on_association_end : told the calling AE title when an association that was accepted has ended.
    workers : other processes that receive; theirs to stop is whoever made them.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        entrance: Entrance,
        services: Sequence[Service] = (),
        admission: Admission | None = None,
        on_association_end: Callable[[str], None] = lambda _: None,
        workers: Workers | None = None,
    ) -> None:
        self._workers = workers or Workers()
        self._heap = Heap()
        self._on_association_end = on_association_end
        self._settings = settings
        self._services = {uid: service for service in services for uid in service.operations}
        self._entrance = entrance
        self._admission = admission or Admission(settings)
        self._refusals = Refusals(entrance.note_rejection)
        self._guard = Guard(
            max_connections=settings.max_connections,
            max_connections_per_address=settings.max_connections_per_address,
            max_associations=settings.max_associations,
        )
        self._plain: _Listener | None = None
        self._tls: _Listener | None = None
        self._lock = threading.Lock()
        self._running: dict[threading.Thread, _Serving] = {}
        self._stopping = threading.Event()

    @property
    def port(self) -> int:
        """The plain port it listens on; differs from the setting where that is 0."""
        if self._plain is None:
            raise RuntimeError("the server is not started")
        return self._plain.port

    @property
    def tls_port(self) -> int | None:
        """The TLS port it listens on; None where TLS is off."""
        return self._tls.port if self._tls else None

    def start(self) -> None:
        """Listen. CannotListenError, with a sentence for a person, if a port or the TLS files cannot be used."""
        settings = self._settings
        identity = TlsIdentity(settings.tls) if settings.tls.enabled else None
        plain = _Listener(settings.host, settings.port, self._stopping)
        if identity is not None:
            try:
                self._tls = _Listener(settings.host, settings.tls.port, self._stopping)
            except CannotListenError:
                plain.close()
                raise
            self._tls.start(lambda sock, address: self._admit(sock, address, self._tls_arrival(identity)))
            self._log_listening("listening for DICOM over TLS", self._tls)
            if identity.expires_at_utc - datetime.now(UTC) < _RENEW_SOON:
                _LOG.warning(
                    "the certificate of the TLS port expires soon: renew it and restart",
                    extra={"expires_at_utc": identity.expires_at_utc.isoformat()},
                )
        self._plain = plain
        plain.start(lambda sock, address: self._admit(sock, address, self._association))
        self._log_listening("listening for DICOM", plain)

    def stop(self) -> None:
        """Stop listening, let instances in progress finish, end every association. Idempotent."""
        with self._lock:
            self._stopping.set()
            running = dict(self._running)
        for listener in (self._plain, self._tls):
            if listener is not None:
                listener.close()
        for serving in running.values():
            serving.stop()
        deadline_s = time.monotonic() + self._settings.stop_grace_s
        for thread in running:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        for thread, serving in running.items():
            if thread.is_alive():
                serving.kill()
                thread.join()

    def _log_listening(self, event: str, listener: _Listener) -> None:
        _LOG.info(event, extra={"host": self._settings.host, "port": listener.port})

    def _admit(self, sock: socket.socket, peer_address: str, serve: _Serve) -> None:
        try:
            place = self._guard.connect(peer_address)
        except TooManyConnectionsError as error:
            sock.close()
            self._refusals.note("", peer_address, str(error))
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        serving = serve(sock, place)
        place.cut = partial(self._cut, serving, peer_address)
        thread = threading.Thread(target=self._run, args=(serving, place), name=f"dicom-{peer_address}")
        with self._lock:
            if self._stopping.is_set():
                sock.close()
                self._guard.disconnect(place)
                return
            self._running[thread] = serving
            try:
                thread.start()
            except RuntimeError:
                del self._running[thread]
                self._guard.disconnect(place)
                raise

    def _cut(self, serving: _Serving, peer_address: str) -> None:
        self._refusals.note("", peer_address, "cut without an association: others needed the connection")
        serving.kill()

    def _run(self, serving: _Serving, place: Place) -> None:
        try:
            serving.run()
        finally:
            self._guard.disconnect(place)
            with self._lock:
                del self._running[threading.current_thread()]
            self._heap.trim()

    def _association(
        self, sock: socket.socket, place: Place, certificate: PeerCertificate | None = None
    ) -> Association:
        caller = Caller(place.address, certificate)
        return Association(
            sock,
            place.address,
            self._settings,
            self._entrance,
            agree=lambda association: self._agree(association, sock, place, caller),
            services=self._services,
            note_refusal=self._refusals.note,
        )

    @contextlib.contextmanager
    def _agree(
        self, association: Association, sock: socket.socket, place: Place, caller: Caller
    ) -> Iterator[Agreed | None]:
        """Make an association; gives None where there is none, or where another process has served it to its end."""
        request = read_associate_rq(sock, timeout_s=self._settings.request_timeout_s)
        if request is None:
            yield None
            return
        agreed = negotiate(
            request,
            self._settings,
            self._services.keys(),
            admit=lambda asking: self._admission.admit(asking, caller),
        )
        self._guard.settle(place)
        try:
            self._guard.associate(place.address)
        except TooManyAssociationsError as error:
            raise RejectedError(
                str(error), LOCAL_LIMIT_EXCEEDED, calling_ae_title=agreed.calling_ae_title
            ) from error
        try:
            stays = caller.certificate is not None or self._has_services(agreed)
            with self._workers.place(here=stays) as worker:  # before the peer knows, and another one asks
                send(sock, agreed.answer, self._settings.stall_timeout_s)
                _LOG.info(
                    "association accepted",
                    extra={
                        "calling_ae_title": agreed.calling_ae_title,
                        "peer_address": place.address,
                        "contexts": len(agreed.contexts),
                    },
                )
                if worker is None:
                    yield agreed
                else:
                    yield self._hand_on(association, worker, sock, agreed, place)
        finally:
            self._guard.leave(place.address)
            self._on_association_end(agreed.calling_ae_title)

    def _has_services(self, agreed: Agreed) -> bool:
        return any(context.abstract_syntax_uid in self._services for context in agreed.contexts.values())

    def _hand_on(
        self, association: Association, worker: Worker, sock: socket.socket, agreed: Agreed, place: Place
    ) -> Agreed | None:
        """None once `worker` has served it; `agreed` if it could not begin to."""
        try:
            seat = worker.seat(
                sock, agreed, place.address, self._settings, self._entrance, self._refusals.note
            )
        except OSError:
            self._workers.lose(worker)
            return agreed
        association.hand_on(seat)
        return None

    def _tls_arrival(self, identity: TlsIdentity) -> _Serve:
        def serve(sock: socket.socket, place: Place) -> TlsArrival:
            return TlsArrival(
                sock,
                place.address,
                identity,
                timeout_s=self._settings.request_timeout_s,
                associate=lambda secured, certificate: self._association(secured, place, certificate),
                note_refusal=self._refusals.note,
            )

        return serve


class _Listener:
    """One listening socket and the thread that accepts on it."""

    def __init__(self, host: str, port: int, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._thread: threading.Thread | None = None
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen(_BACKLOG)
        except OSError as error:
            self._socket.close()
            raise CannotListenError(
                f"cannot listen for DICOM on {host} port {port}: {error.strerror}"
            ) from error
        self.port = int(self._socket.getsockname()[1])

    def start(self, admit: Callable[[socket.socket, str], None]) -> None:
        self._thread = threading.Thread(target=self._accept, args=(admit,), name=f"dicom-accept-{self.port}")
        self._thread.start()

    def close(self) -> None:
        """Accept nobody any more. `stopping` is set before, unless `start` was never called."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept
        if self._thread is not None:
            self._thread.join()
        self._socket.close()

    def _accept(self, admit: Callable[[socket.socket, str], None]) -> None:
        while True:
            try:
                sock, address = self._socket.accept()
            except OSError as error:
                if self._stopping.is_set():
                    return
                # Out of descriptors or memory: the backlog holds the peers until there is room again.
                _LOG.warning("could not accept a connection", extra={"reason": error.strerror})
                self._stopping.wait(_ACCEPT_RETRY_S)
                continue
            try:
                admit(sock, plain_address(str(address[0])))
            except Exception:
                # Whatever one connection brings up, such as no memory for a thread, the next one is still heard.
                _LOG.exception("a connection could not be served")
                sock.close()
