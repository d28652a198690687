"""HL7 orders over MLLP: a connection's messages one after the other, each acknowledged when it is durable.

Frame: 0x0B, the message, 0x1C 0x0D (HL7 v2 Minimal Lower Layer Protocol, release 1). Always true: only configured
senders are listened to; a message is bounded in size and time; AA is said after the worklist has it, and a message that
was not acknowledged may be sent again: every change is by the order's own id. What a crash leaves: whole items.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import peewee

from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, AuditEvent
from central.audit.record import Audit
from central.workflow.data_sets import scheduled_item
from central.workflow.errors import UnusableItemError, WorklistFullError
from central.workflow.hl7_message import (
    DATA_TYPE_ERROR,
    INTERNAL_ERROR,
    Hl7Error,
    Message,
    acknowledgement,
    header_of,
    read_message,
)
from central.workflow.hl7_orders import changes_of
from central.workflow.hl7_settings import Hl7Settings
from central.workflow.ordering import Ordering
from central.workflow.worklist import Entry, WorklistStore

OWN_NAME: Final = "DICOMNET"
_BEGIN, _END = b"\x0b", b"\x1c\x0d"
_READ_BYTES: Final = 65_536
_STOP_TIMEOUT_S: Final = 5.0
_log = logging.getLogger(__name__)


class OrderDesk:
    """Takes one message and says what it is answered."""

    def __init__(
        self, worklist: WorklistStore, audit: Audit, ordering: Ordering, settings: Hl7Settings
    ) -> None:
        self._worklist = worklist
        self._audit = audit
        self._ordering = ordering
        self._settings = settings

    def answer(self, raw: bytes, address: str) -> bytes:
        """Do what the message wants; its acknowledgement."""
        now = datetime.now().astimezone()
        message: Message | None = None
        try:
            message = read_message(raw, self._settings.character_set)
            self._do(message, address, now)
        except Hl7Error as error:
            _log.warning("event=hl7-refused peer=%s code=%s reason=%s", address, error.code, error)
            refused = message or header_of(raw)
            return acknowledgement(refused, error.code, str(error), error.condition, now, OWN_NAME)
        except (AuditUnavailableError, WorklistFullError, peewee.PeeweeException) as error:
            _log.warning("event=hl7-put-off peer=%s error=%s", address, type(error).__name__)
            why = (
                str(error)
                if isinstance(error, WorklistFullError)
                else "central cannot keep it now: send it again"
            )
            return acknowledgement(message, "AE", why, INTERNAL_ERROR, now, OWN_NAME)
        return acknowledgement(message, "AA", "", "", now, OWN_NAME)

    def _do(self, message: Message, address: str, now: datetime) -> None:
        changes = changes_of(message)
        try:
            encoded = [(one, scheduled_item(one.item) if one.item is not None else None) for one in changes]
        except UnusableItemError as error:
            raise Hl7Error("AE", DATA_TYPE_ERROR, str(error)) from error
        institution = self._settings.institution_of(address)
        for change, scheduled in encoded:
            study = scheduled.study_instance_uid if scheduled else None
            verb = "delete" if change.item is None else "put"
            others = " and all others of the order" if change.of_whole_order else ""
            done = f"{message.kind} {message.control_id}: {verb} {change.item_id}{others}"
            self._record(message, Action.WORKLIST_CHANGE, done, address, study)
            if scheduled is None or change.item is None:
                self._worklist.remove(change.item_id, institution)
                if change.of_whole_order:
                    self._worklist.remove_order(change.order_id, institution)
                continue
            entry = Entry(change.item_id, (), change.item, institution, change.order_id)
            self._worklist.put(entry, scheduled, now.date())

            def announce(usernames: Sequence[str], study: str | None = study) -> None:
                detail = f"assigned by order to {', '.join(usernames)}"
                self._record(message, Action.ACCESS_CHANGE, detail, address, study)

            self._ordering.heed(
                scheduled, institution=institution, made_by=_name_of(message), announce=announce
            )
        _log.info("event=hl7-order peer=%s kind=%s changes=%d", address, message.kind, len(changes))

    def _record(self, message: Message, action: Action, detail: str, address: str, study: str | None) -> None:
        event = AuditEvent(
            _name_of(message),
            "service",
            action,
            "success",
            address,
            study_instance_uid=study,
            detail=detail,
            institutions=frozenset({self._settings.institution_of(address)}),
        )
        if not event.is_whole:
            self._audit.record(replace(event, outcome="refused"))
            raise Hl7Error("AE", DATA_TYPE_ERROR, "this is more than the audit record can hold")
        self._audit.record(event)


def _name_of(message: Message) -> str:
    return f"hl7:{message.header.get(3)}"


class MllpServer:
    """Listens as `settings` say, from `start` to `stop`."""

    def __init__(self, settings: Hl7Settings, desk: OrderDesk) -> None:
        self._settings = settings
        self._desk = desk
        self._stopping = threading.Event()
        self._places = threading.BoundedSemaphore(settings.max_connections)
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._tls: ssl.SSLContext | None = None

    @property
    def port(self) -> int:
        assert self._listener is not None, "not started"
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        """Listen. OSError if the address, the port or a certificate cannot be used."""
        settings = self._settings
        if settings.tls_certificate is not None and settings.tls_key is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
            self._tls.load_cert_chain(settings.tls_certificate, settings.tls_key, password=lambda: "")
            if settings.tls_client_ca is not None:
                self._tls.verify_mode = ssl.CERT_REQUIRED
                self._tls.load_verify_locations(cafile=settings.tls_client_ca)
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self._listener = socket.create_server((settings.host, settings.port), family=family)
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), name="mllp", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; a message that is being worked on is answered."""
        self._stopping.set()
        if self._listener is not None and self._thread is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._thread.join(_STOP_TIMEOUT_S)
        with self._lock:
            serving = dict(self._open)
        for thread, sock in serving.items():
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RD)  # an SSLSocket's own would drop its TLS layer
            thread.join(_STOP_TIMEOUT_S)

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                sock, address = listener.accept()
            except OSError:
                self._stopping.wait(0.1)
                continue
            if not self._is_sender(address[0]) or not self._places.acquire(blocking=False):
                _log.warning("event=hl7-connection-refused peer=%s", address[0])
                sock.close()
                continue
            thread = threading.Thread(
                target=self._connection, args=(sock, address[0]), name="mllp-connection"
            )
            thread.daemon = True
            with self._lock:
                self._open[thread] = sock
            thread.start()

    def _is_sender(self, address: str) -> bool:
        return self._settings.is_sender(address)

    def _connection(self, sock: socket.socket, address: str) -> None:
        try:
            sock.settimeout(self._settings.message_timeout_s)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._open[threading.current_thread()] = sock
            self._converse(sock, address)
        except (OSError, ValueError) as error:
            _log.info("event=hl7-connection-ended peer=%s reason=%s", address, error)
        finally:
            with contextlib.suppress(OSError):
                sock.close()
            with self._lock:
                self._open.pop(threading.current_thread(), None)
            self._places.release()

    def _converse(self, sock: socket.socket, address: str) -> None:
        held = bytearray()
        while not self._stopping.is_set():
            raw = self._next(sock, held)
            if raw is None:
                return
            sock.sendall(_BEGIN + self._desk.answer(raw, address) + _END)

    def _next(self, sock: socket.socket, held: bytearray) -> bytes | None:
        """The next message; None when the sender has left. ValueError or TimeoutError for what is no message."""
        deadline_s: float | None = None
        looked_at = 0
        while True:
            if held and not held.startswith(_BEGIN):
                raise ValueError("what came is not in an MLLP frame")
            end = held.find(_END, max(0, looked_at - 1))
            looked_at = len(held)
            if end > 0:
                raw = bytes(held[1:end])
                del held[: end + len(_END)]
                return raw
            if len(held) > self._settings.max_message_bytes:
                raise ValueError("a longer message than hl7.max_message_bytes")
            if held and deadline_s is None:
                deadline_s = time.monotonic() + self._settings.message_timeout_s
            left_s = self._settings.idle_timeout_s if deadline_s is None else deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("a message did not end in time")
            sock.settimeout(left_s)
            piece = sock.recv(_READ_BYTES)
            if not piece:
                return None
            held += piece
