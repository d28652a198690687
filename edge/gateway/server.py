"""Listens, admits, and runs one thread a connection.

Always true: a connection that the guard did not admit costs no thread. `stop` lets instances in progress finish
within the grace, then cuts what is left; a crash at any point leaves nothing a scanner was told is safe.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time

from edge.buffer.spool import Spool
from edge.gateway.association import Association
from edge.gateway.errors import CannotListenError
from edge.gateway.guard import Guard
from edge.gateway.settings import GatewaySettings

_LOG = logging.getLogger(__name__)
_BACKLOG = 128
_ACCEPT_RETRY_S = 1.0


class GatewayServer:
    """The DICOM port of the box.

    Parameters
    ----------
    spool : where instances go, and where refusals are noted.
    """

    def __init__(self, settings: GatewaySettings, spool: Spool) -> None:
        self._settings = settings
        self._spool = spool
        self._guard = Guard(
            max_connections=settings.max_connections,
            max_connections_per_address=settings.max_connections_per_address,
            max_associations=settings.max_associations,
        )
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._lock = threading.Lock()
        self._running: dict[threading.Thread, Association] = {}
        self._stopping = threading.Event()

    @property
    def port(self) -> int:
        """The port it listens on; differs from the setting where that is 0."""
        if self._listener is None:
            raise RuntimeError("the server is not started")
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        """Listen. CannotListenError, with a sentence for a person, if the address cannot be had."""
        host, port = self._settings.host, self._settings.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise CannotListenError(
                f"cannot listen for DICOM on {host} port {port}: {error.strerror}"
            ) from error
        self._listener = listener
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), name="dicom-accept")
        self._acceptor.start()
        _LOG.info("listening for DICOM", extra={"host": host, "port": self.port})

    def stop(self) -> None:
        """Stop listening, let instances in progress finish, end every association. Idempotent."""
        with self._lock:
            self._stopping.set()
            running = dict(self._running)
        if self._listener is not None and self._acceptor is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
            self._acceptor.join()
            self._listener.close()
        for association in running.values():
            association.stop()
        deadline_s = time.monotonic() + self._settings.stop_grace_s
        for thread in running:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        for thread, association in running.items():
            if thread.is_alive():
                association.kill()
                thread.join()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, address = listener.accept()
            except OSError as error:
                if self._stopping.is_set():
                    return
                # Out of descriptors or memory: the backlog holds the peers until there is room again.
                _LOG.warning("could not accept a connection", extra={"reason": error.strerror})
                self._stopping.wait(_ACCEPT_RETRY_S)
                continue
            self._admit(sock, str(address[0]))

    def _admit(self, sock: socket.socket, peer_address: str) -> None:
        refusal = self._guard.connect(peer_address)
        if refusal is not None:
            sock.close()
            self._spool.note_rejection("", peer_address, refusal)
            _LOG.warning("connection refused", extra={"peer_address": peer_address, "reason": refusal})
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        association = Association(sock, peer_address, self._settings, self._spool, self._guard)
        thread = threading.Thread(
            target=self._run, args=(association, peer_address), name=f"dicom-{peer_address}"
        )
        with self._lock:
            if self._stopping.is_set():
                sock.close()
                self._guard.disconnect(peer_address)
                return
            self._running[thread] = association
            thread.start()

    def _run(self, association: Association, peer_address: str) -> None:
        try:
            association.run()
        finally:
            self._guard.disconnect(peer_address)
            with self._lock:
                del self._running[threading.current_thread()]
