"""One association from its request to its end, on one thread that blocks on one socket.

Storage streams through; every other service is asked with a complete, bounded request and answers on this thread.
Always true: a C-STORE-RSP with success is sent only after the spool's commit; whatever way the association ends
(release, abort, a cut line, a broken peer, the box stopping), an unfinished instance is discarded and a finished
one is kept. States are few enough to be the code: no message, a command set arriving, a data set arriving, a
request being performed (beside which only a cancel and answers to our own requests may arrive).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from edge.buffer.desk import Intake
from edge.buffer.records import Origin
from edge.gateway.command_set import (
    MAX_COMMAND_BYTES,
    Command,
    CommandField,
    decode_command,
    encode_response,
)
from edge.gateway.errors import (
    AbortReason,
    GatewayError,
    PeerGoneError,
    PeerTooSlowError,
    ProtocolError,
    RejectedError,
)
from edge.gateway.incoming import (
    REQUEST_TOO_LONG,
    RESOURCE_LIMITATION,
    SOP_CLASS_NOT_SUPPORTED,
    UNRECOGNIZED_OPERATION,
    Collected,
    Dropped,
    IncomingDataSet,
    Refused,
)
from edge.gateway.negotiation import Agreed, Context
from edge.gateway.outgoing import encode_message
from edge.gateway.pdu import PduReader, PduType, Pdv, abort, associate_rj, p_data, release_rp, split_pdvs
from edge.gateway.peer import ConnectedPeer
from edge.gateway.service import Reply, Request, Service
from edge.gateway.settings import GatewaySettings
from edge.gateway.sop_classes import VERIFICATION
from edge.gateway.storage import SUCCESS, IncomingInstance, StoreStatus

_LOG = logging.getLogger(__name__)
_LINGER_S = 1.0  # for the peer to close first, so that a reset does not overtake our last answer

PROCESSING_FAILURE = Reply(0x0110, "This box failed unexpectedly; send again later")


class _Due(NamedTuple):
    """A complete request that waits for the rest of its PDU to be looked at."""

    service: Service
    request: Request
    context_id: int


class Seat(Protocol):
    """A place in another process that serves an association."""

    def serve(self) -> None:
        """Answer what that process asks until the association has ended."""

    def stop(self) -> None:
        """End it at the next message boundary."""


Agree = Callable[["Association"], AbstractContextManager[Agreed | None]]


class Association:
    """Runs on the thread that calls `run`; `stop` may be called from any other.

    Parameters
    ----------
    agree : makes the association, and is left when it ends. Gives what was agreed, None where nothing is left to do
        here, or raises a GatewayError.
    services : who answers, by abstract syntax UID.
    note_refusal : takes calling AE title, address and reason; keeps log and list from being flooded.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer_address: str,
        settings: GatewaySettings,
        spool: Intake,
        *,
        agree: Agree,
        services: Mapping[str, Service],
        note_refusal: Callable[[str, str, str], None],
    ) -> None:
        self._socket = sock
        self._peer_address = peer_address
        self._settings = settings
        self._spool = spool
        self._agree = agree
        self._services = services
        self._note_refusal = note_refusal
        self._agreed: Agreed | None = None
        self._peer: ConnectedPeer | None = None  # only where a context of a service was accepted
        self._due: _Due | None = None
        self._performing = False
        self._command = bytearray()
        self._context_id: int | None = None  # of the message in progress
        self._request: Command | None = None  # complete, its data set on the way
        self._data_set: IncomingDataSet | None = None
        self._state = threading.Lock()  # guards the three below, which `stop` reads
        self._busy = False
        self._stopping = False
        self._elsewhere: Seat | None = None

    def run(self) -> None:
        """Serve the peer to the end and close the socket. Raises nothing a peer could cause."""
        try:
            with self._agree(self) as agreed:
                if agreed is not None:
                    self._agreed = agreed
                    self._exchange(agreed)
        except RejectedError as error:
            self._refuse(error, error.calling_ae_title)
            self._send_last(associate_rj(error.result, error.source, error.reason))
        except PeerGoneError as error:
            if self._busy:
                self._refuse(error, self._calling_ae_title)
        except PeerTooSlowError as error:
            if self._busy or self._agreed is None:  # many scanners just leave an association open: no fault
                self._refuse(error, self._calling_ae_title)
            self._send_last(abort(AbortReason.NOT_SPECIFIED))
        except GatewayError as error:
            self._refuse(error, self._calling_ae_title)
            reason = error.abort_reason if isinstance(error, ProtocolError) else AbortReason.NOT_SPECIFIED
            self._send_last(abort(reason))
        except Exception:
            _LOG.exception("an association failed unexpectedly", extra={"peer_address": self._peer_address})
            self._send_last(abort(AbortReason.NOT_SPECIFIED))
        finally:
            if self._data_set is not None:
                self._data_set.discard()
            with contextlib.suppress(OSError):
                self._socket.close()

    def stop(self) -> None:
        """End at the next message boundary: at once if none is in progress."""
        with self._state:
            self._stopping = True
            if self._elsewhere is not None:
                self._elsewhere.stop()
            elif not self._busy:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RD)

    def hand_on(self, seat: Seat) -> None:
        """Let another process serve the peer from here on; returns when it has."""
        with self._state:
            self._elsewhere = seat
            if self._stopping:
                seat.stop()
        seat.serve()

    def kill(self) -> None:
        """Cut the line now. The instance in progress is discarded."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    @property
    def _calling_ae_title(self) -> str:
        return self._agreed.calling_ae_title if self._agreed else ""

    def _exchange(self, agreed: Agreed) -> None:
        self._reader = PduReader(
            self._socket,
            max_pdu_bytes=self._settings.max_pdu_bytes,
            idle_timeout_s=self._settings.idle_timeout_s,
            stall_timeout_s=self._settings.stall_timeout_s,
            min_rate_bytes_per_s=self._settings.min_rate_bytes_per_s,
        )
        if not any(context.abstract_syntax_uid in self._services for context in agreed.contexts.values()):
            while self.step():
                pass
            return
        self._peer = ConnectedPeer(self._socket, self._reader, agreed, self)
        try:
            while True:
                # A stop that came inside the message did not wake anybody: it is seen here.
                waits = not self._busy and not self._stopping
                if waits and not self._peer.wait(self._settings.idle_timeout_s):
                    raise PeerTooSlowError("nothing was sent for too long between messages")
                if not self.step():
                    return
        finally:
            self._peer.close()

    def step(self) -> bool:
        """Read one PDU and act on it; False when the association has ended. For `ConnectedPeer`."""
        assert self._agreed is not None
        pdu = None if self._stopping and not self._busy else self._reader.next_pdu(inside_message=self._busy)
        if pdu is None:
            if self._busy:
                raise PeerGoneError("the connection ended inside a message")
            if self._stopping:
                self._send_last(abort(AbortReason.NOT_SPECIFIED))
            return False
        kind, body = pdu
        if kind is PduType.P_DATA_TF:
            for pdv in split_pdvs(body):
                self._take(pdv, self._agreed)
            if self._due is not None:
                self._perform(self._due, self._agreed)
            return True
        if kind is PduType.A_RELEASE_RQ:
            if self._busy:
                raise ProtocolError("a release inside a message", AbortReason.UNEXPECTED_PDU)
            self._send_last(release_rp())
        elif self._busy:  # A-ABORT
            raise PeerGoneError("the peer aborted inside a message")
        return False

    def _take(self, pdv: Pdv, agreed: Agreed) -> None:
        context = agreed.contexts.get(pdv.context_id)
        if context is None:
            raise ProtocolError(f"presentation context {pdv.context_id} was not accepted")
        if self._context_id is None:
            self._context_id = pdv.context_id
            self._set_busy()
        elif self._context_id != pdv.context_id:
            raise ProtocolError("one message on two presentation contexts")
        if pdv.is_command:
            if self._request is not None:
                raise ProtocolError("a command inside a data set")
            if len(self._command) + len(pdv.data) > MAX_COMMAND_BYTES:
                raise ProtocolError("the command set is too long")
            self._command += pdv.data
            if pdv.is_last:
                self._begin(decode_command(self._command), context, agreed)
        elif self._request is None or self._data_set is None:
            raise ProtocolError("a data set without a command")
        else:
            self._data_set.write(pdv.data)
            if pdv.is_last:
                status = self._data_set.finish()
                if status is None:
                    self._end_message()
                else:
                    data_set = self._data_set
                    self._answer(self._request, status, agreed)
                    data_set.answered()

    def _begin(self, command: Command, context: Context, agreed: Agreed) -> None:
        """Act on a complete command set (PS3.7 section 9.1)."""
        if command.is_response:
            self._take_response(command)
        elif command.field == CommandField.C_CANCEL_RQ:
            if self._peer is not None:
                self._peer.note_cancel(command.message_id)
            self._end_message()  # a cancel has no answer of its own
        elif self._due is not None or self._performing:
            raise ProtocolError("a request before the last one was answered")
        elif command.has_data_set:
            self._request = command
            self._data_set = self._destination(command, context, agreed)
        elif command.field in self._operations(context):
            self._make_due(command, b"", context, agreed)
            self._end_message()
        else:
            echo = command.field == CommandField.C_ECHO_RQ
            self._answer(command, SUCCESS if echo else UNRECOGNIZED_OPERATION, agreed)

    def _take_response(self, command: Command) -> None:
        peer = self._peer
        if peer is None:
            raise ProtocolError("a response to a request this box never made")
        if command.has_data_set:
            self._request = command
            self._data_set = Dropped(lambda: peer.note_answer(command))
        else:
            peer.note_answer(command)
            self._end_message()

    def _operations(self, context: Context) -> frozenset[int]:
        service = self._services.get(context.abstract_syntax_uid)
        return frozenset() if service is None else service.operations[context.abstract_syntax_uid]

    def _destination(self, command: Command, context: Context, agreed: Agreed) -> IncomingDataSet:
        if command.field in self._operations(context):
            return Collected(
                lambda data_set: self._make_due(command, data_set, context, agreed),
                RESOURCE_LIMITATION if command.is_normalized else REQUEST_TOO_LONG,
            )
        if command.field != CommandField.C_STORE_RQ:
            return Refused(UNRECOGNIZED_OPERATION)
        if context.abstract_syntax_uid == VERIFICATION or context.abstract_syntax_uid in self._services:
            return Refused(SOP_CLASS_NOT_SUPPORTED)
        origin = Origin(
            calling_ae_title=agreed.calling_ae_title,
            called_ae_title=agreed.called_ae_title,
            peer_address=self._peer_address,
            transfer_syntax_uid=context.transfer_syntax_uid,
        )
        return IncomingInstance(self._spool, origin, command)

    def _make_due(self, command: Command, data_set: bytes, context: Context, agreed: Agreed) -> None:
        assert self._context_id is not None
        request = Request(
            command=command,
            data_set=data_set,
            context=context,
            calling_ae_title=agreed.calling_ae_title,
            called_ae_title=agreed.called_ae_title,
            peer_address=self._peer_address,
        )
        self._due = _Due(self._services[context.abstract_syntax_uid], request, self._context_id)

    def _perform(self, due: _Due, agreed: Agreed) -> None:
        """Let the service answer. Nothing else of the message is on the wire, so cancels and answers can be read."""
        assert self._peer is not None
        self._due = None
        self._performing = True
        self._set_busy()
        self._peer.begin(due.request.command.message_id)
        try:
            for reply in self._replies(due, self._peer):
                command = encode_response(
                    due.request.command,
                    reply.status,
                    "" if agreed.quirks.omit_error_comment else reply.comment,
                    has_data_set=bool(reply.data_set),
                    more=reply.elements,
                )
                data_set = [reply.data_set] if reply.data_set else None
                for pdu in encode_message(
                    due.context_id, command, data_set, max_pdu_bytes=agreed.peer_max_pdu_bytes
                ):
                    self.send(pdu)
        finally:
            self._peer.end()
            self._performing = False
            self._set_busy()

    def _replies(self, due: _Due, peer: ConnectedPeer) -> Iterator[Reply]:
        """The service's replies up to the first that is final; its failure is one."""
        try:
            for reply in due.service.handle(due.request, peer):
                peer.check()
                yield reply
                if not reply.is_pending:
                    return
            problem = "it gave no final reply"
        except Exception as error:
            if peer.failure is not None:  # the association's end, passed on by the service
                raise peer.failure from error
            # Its text might quote the data set: where it was raised says enough.
            where = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(error).__name__} at {where.filename}:{where.lineno}"
        _LOG.error(
            "a service failed",
            extra={
                "service": type(due.service).__name__,
                "calling_ae_title": self._calling_ae_title,
                "peer_address": self._peer_address,
                "problem": problem,
            },
        )
        yield PROCESSING_FAILURE

    def _answer(self, command: Command, status: StoreStatus, agreed: Agreed) -> None:
        assert self._context_id is not None
        comment = "" if agreed.quirks.omit_error_comment else status.comment
        response = encode_response(command, status.code, comment)
        self.send(p_data(self._context_id, response, max_pdu_bytes=agreed.peer_max_pdu_bytes))
        self._end_message()

    def _end_message(self) -> None:
        self._command = bytearray()
        self._context_id = None
        self._request = None
        self._data_set = None
        self._set_busy()

    def _set_busy(self) -> None:
        with self._state:
            self._busy = self._context_id is not None or self._performing

    def send(self, data: bytes) -> None:
        """All of it, or `PeerGoneError`."""
        self._socket.settimeout(self._settings.stall_timeout_s)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise PeerGoneError("the peer did not take the answer") from error

    def _send_last(self, data: bytes) -> None:
        """Send a final PDU and give the peer a moment to close first (the ARTIM timer of PS3.8 section 9.1.5)."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(_LINGER_S)
            self._socket.sendall(data)
            self._socket.shutdown(socket.SHUT_WR)
            deadline_s = time.monotonic() + _LINGER_S
            while self._socket.recv(65_536) and time.monotonic() < deadline_s:
                pass

    def _refuse(self, error: GatewayError, calling_ae_title: str) -> None:
        """For the technician's list and the log; the text never holds data-set content."""
        self._note_refusal(calling_ae_title, self._peer_address, str(error))
