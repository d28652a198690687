"""Central's DICOM port: accepts, guards, finds out who calls, and answers what that peer may have.

What is always true
-------------------
- A connection passes the guard, TLS where it came to the TLS port, and the question who it is, within one deadline, in
  a thread of its own: nobody waits for somebody else's handshake.
- Who is not configured may send a C-ECHO and nothing else; whoever asks for more is rejected, logged and recorded.
- Associations, connections, PDUs, messages and silence are limited.

What a crash leaves: nothing; the calling side sees the association end.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import A_ASSOCIATE

from central.access.policy import Agreement, Role
from central.archive.objects import ObjectSink
from central.audit.events import Action
from central.audit.record import Audit
from central.audit.refusals import OF_A_STRANGER, Refusals
from central.dimse.associate import AssociateRequest, associate_ac
from central.dimse.association import CentralAssociation, Routes
from central.dimse.calling import limits_of
from central.dimse.errors import DimseError, RefusedError
from central.dimse.guard import Guard, Place, read_associate_rq
from central.dimse.kept_threads import KeptThreads
from central.dimse.negotiation import agreement
from central.dimse.peers import Peers, nothing_agreed
from central.dimse.settings import DimseSettings, Service
from central.dimse.tls import certificate_sha256, server_context
from central.dimse.transport import Line

VERIFICATION: Final = "1.2.840.10008.1.1"
_CALLED_AE_TITLE_NOT_RECOGNIZED: Final = (1, 1, 7)
_LOCAL_LIMIT_EXCEEDED: Final = (2, 3, 2)
_STOP_TIMEOUT_S: Final = 5.0
_BACKLOG: Final = 64
_KEPT_THREADS: Final = 4
_GOODBYE_S: Final = 1.0
_log = logging.getLogger(__name__)


class DimseServer:
    """The application entity as `settings` say, answering by `routes`. `start` it once; `stop` ends its associations.

    Parameters
    ----------
    new_object : where the bytes of what is stored go; `max_object_bytes` of them at most.
    """

    def __init__(
        self,
        settings: DimseSettings,
        routes: Routes,
        audit: Audit,
        new_object: Callable[[], ObjectSink],
        *,
        max_object_bytes: int = 8 << 30,
        agreements_of: Callable[[str], frozenset[Agreement]] = nothing_agreed,
    ) -> None:
        self._settings = settings
        self._routes = routes
        self._refusals = Refusals(audit, role=Role.PEER.value, of_an_address=OF_A_STRANGER)
        self._new_object = new_object
        self._peers = Peers(settings.peers, agreements_of)
        self._guard = Guard(settings.max_connections, settings.max_connections_per_address)
        self._limits = limits_of(settings, max_object_bytes)
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._serving: set[CentralAssociation] = set()
        self._threads = KeptThreads("dicom-connection", _KEPT_THREADS)
        self._listening: list[tuple[socket.socket, threading.Thread]] = []
        self._stopping = threading.Event()

    @property
    def port(self) -> int:
        """The TCP port that is listened on."""
        assert self._listening, "not started"
        return int(self._listening[0][0].getsockname()[1])

    @property
    def tls_port(self) -> int | None:
        """The TCP port of the TLS listener, if there is one."""
        return int(self._listening[1][0].getsockname()[1]) if len(self._listening) > 1 else None

    def start(self) -> None:
        """Listen.

        Raises
        ------
        OSError : the address or a port cannot be used.
        CannotListenError : a file of `dicom.tls` cannot be used.
        """
        settings = self._settings
        tls = server_context(settings.tls) if settings.tls.enabled else None
        try:
            self._listen(settings.port, None)
            if tls is not None:
                self._listen(settings.tls.port, tls)
        except OSError:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop listening and end the associations."""
        self._stopping.set()
        for listener, thread in self._listening:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()
            thread.join(_STOP_TIMEOUT_S)
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # an SSLSocket's own would drop its TLS layer
        self._threads.end(_STOP_TIMEOUT_S)

    def _listen(self, port: int, tls: ssl.SSLContext | None) -> None:
        family = socket.AF_INET6 if ":" in self._settings.host else socket.AF_INET
        listener = socket.create_server((self._settings.host, port), family=family, backlog=_BACKLOG)
        thread = threading.Thread(target=self._accept, args=(listener, tls), name="dicom-accept", daemon=True)
        self._listening.append((listener, thread))
        thread.start()

    def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        while not self._stopping.is_set():
            try:
                sock, address = listener.accept()
            except OSError as error:
                if self._stopping.is_set():
                    return
                _log.warning("event=accept-failed error=%s", error)  # such as no descriptors left
                self._stopping.wait(0.1)
                continue
            with self._lock:
                self._sockets.add(sock)
            self._threads.run(partial(self._connection, sock, address, tls))

    def _connection(self, sock: socket.socket, address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
        """The life of one connection."""
        try:
            with self._guard.place(address[0], sock) as place:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    self._converse(place, address, tls)
                finally:
                    self._close(place.sock)  # TLS has taken the descriptor over
        except (DimseError, OSError) as error:
            # Of an OSError the text is OpenSSL's or the kernel's; neither quotes what the peer sent.
            _log.warning("event=connection-refused peer=%s reason=%s", address[0], error)
        finally:
            self._close(sock)

    def _close(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.close()
        with self._lock:
            self._sockets.discard(sock)

    def _converse(self, place: Place, address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
        sock = place.sock
        deadline_s = time.monotonic() + self._settings.request_timeout_s
        certificate = None
        if tls is not None:
            sock.settimeout(self._settings.request_timeout_s)
            sock = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            with self._lock:
                self._sockets.add(sock)
            place.sock = sock
            sock.do_handshake()
            certificate = certificate_sha256(sock)
        try:
            request = read_associate_rq(sock, deadline_s)
            if not request:
                return
            association, answer = self._admitted(place, request, address, certificate)
        except RefusedError as error:
            self._refusals.record(Action.ASSOCIATION_REFUSED, error.ae_title, address[0], str(error))
            if error.result is not None:
                sock.sendall(_rejection(*error.result))
                _wait_for_goodbye(sock)
            raise
        try:
            sock.sendall(answer)
            association.serve()
        finally:
            with self._lock:
                self._serving.discard(association)
        if association.line.awaits_close:
            _wait_for_goodbye(sock)

    def _admitted(
        self, place: Place, request: bytes, address: tuple[str, int], certificate: str | None
    ) -> tuple[CentralAssociation, bytes]:
        """The association that `request` asks for, and the A-ASSOCIATE-AC. RefusedError if there is none for it."""
        asked = AssociateRequest.read(request)
        calling, called = asked.calling_ae_title, asked.called_ae_title
        if called != self._settings.ae_title:
            raise RefusedError(f"it calls {called!r}", _CALLED_AE_TITLE_NOT_RECOGNIZED, calling)
        peer = self._peers.caller(calling, address[0], certificate)
        agreed = agreement(asked.proposal, peer, self._routes)
        if peer.settings is None and not agreed.accepted:
            raise self._peers.refuse(peer, certificate)
        association = CentralAssociation(
            Line(place.sock, self._limits),
            self._routes,
            peer,
            agreed,
            peer_max_pdu_bytes=asked.proposal.said.max_pdu_bytes,
            limits=self._limits,
            silence_s=self._settings.idle_timeout_s,
            new_object=self._new_object if peer.may(Service.STORE) else None,
            certificate_sha256=certificate,
        )
        with self._lock:
            if len(self._serving) >= self._settings.max_associations:
                raise RefusedError(
                    "too many associations (dicom.max_associations)", _LOCAL_LIMIT_EXCEEDED, calling
                )
            self._serving.add(association)
        self._guard.settle(place)
        return association, associate_ac(asked, agreed, self._settings.max_pdu_bytes)


def _rejection(result: int, source: int, reason: int) -> bytes:
    answer = A_ASSOCIATE()
    answer.result, answer.result_source, answer.diagnostic = result, source, reason
    return bytes(A_ASSOCIATE_RJ(answer).encode())


def _wait_for_goodbye(sock: socket.socket) -> None:
    """The peer closes after our last PDU (PS3.8 Table 9-10, Sta13), and reads it before it does."""
    sock.settimeout(_GOODBYE_S)
    deadline_s = time.monotonic() + _GOODBYE_S
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline_s and sock.recv(65_536):
            pass
