"""The DIMSE messages of one association, on the thread that runs it, over one socket.

Storage streams through; every other service is asked with a complete, bounded request and answers on this thread.
Always true: a C-STORE-RSP with success is sent only after the spool's commit. States are few enough to be the code: no
message, a command set arriving, a data set arriving, a request being performed (beside which only a cancel and answers
to our own requests may arrive).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from edge.buffer.desk import Intake
from edge.buffer.records import Origin
from edge.gateway.command_set import (
    MAX_COMMAND_BYTES,
    Command,
    CommandField,
    decode_command,
    encode_response,
)
from edge.gateway.errors import AbortReason, PeerGoneError, PeerTooSlowError, ProtocolError
from edge.gateway.incoming import (
    NOT_A_SENDER,
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
from edge.gateway.pdu import PduReader, PduType, Pdv, abort, p_data, release_rp, split_pdvs
from edge.gateway.peer import ConnectedPeer
from edge.gateway.service import Reply, Request, Service
from edge.gateway.settings import GatewaySettings
from edge.gateway.sop_classes import VERIFICATION
from edge.gateway.storage import SUCCESS, IncomingInstance, StoreStatus
from edge.gateway.wire import send, send_last

_LOG = logging.getLogger(__name__)

PROCESSING_FAILURE = Reply(0x0110, "This box failed unexpectedly; send again later")


class _Due(NamedTuple):
    """A complete request that waits for the rest of its PDU to be looked at."""

    service: Service
    request: Request
    context_id: int


class Exchange:
    """`run` on the association's thread; `stop` may be called from any other.

    Parameters
    ----------
    services : who answers, by abstract syntax UID.
    """

    def __init__(
        self,
        sock: socket.socket,
        agreed: Agreed,
        peer_address: str,
        settings: GatewaySettings,
        spool: Intake,
        services: Mapping[str, Service],
    ) -> None:
        self._socket = sock
        self._agreed = agreed
        self._peer_address = peer_address
        self._settings = settings
        self._spool = spool
        self._services = services
        self._reader = PduReader(
            sock,
            max_pdu_bytes=settings.max_pdu_bytes,
            idle_timeout_s=settings.idle_timeout_s,
            stall_timeout_s=settings.stall_timeout_s,
            min_rate_bytes_per_s=settings.min_rate_bytes_per_s,
        )
        self._peer: ConnectedPeer | None = None  # only where a context of a service was accepted
        self._due: _Due | None = None
        self._performing = False
        self._command = bytearray()
        self._context_id: int | None = None  # of the message in progress
        self._request: Command | None = None  # complete, its data set on the way
        self._data_set: IncomingDataSet | None = None
        self._state = threading.Lock()  # guards the two below, which `stop` reads
        self._busy = False
        self._stopping = False

    @property
    def busy(self) -> bool:
        """Whether a message is in progress."""
        return self._busy

    def run(self) -> None:
        """Until the peer releases or aborts between two messages, or `stop`.

        An instance that is not finished then is discarded, whatever way this ends.

        Raises
        ------
        GatewayError : what else ends the association.
        """
        try:
            self._run()
        finally:
            if self._data_set is not None:
                self._data_set.discard()

    def stop(self) -> None:
        """End at the next message boundary: at once if none is in progress."""
        with self._state:
            self._stopping = True
            if not self._busy:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RD)

    def _run(self) -> None:
        if not any(
            context.abstract_syntax_uid in self._services for context in self._agreed.contexts.values()
        ):
            while self.step():
                pass
            return
        self._peer = ConnectedPeer(self._socket, self._reader, self._agreed, self)
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
        pdu = None if self._stopping and not self._busy else self._reader.next_pdu(inside_message=self._busy)
        if pdu is None:
            if self._busy:
                raise PeerGoneError("the connection ended inside a message")
            if self._stopping:
                send_last(self._socket, abort(AbortReason.NOT_SPECIFIED))
            return False
        kind, body = pdu
        if kind is PduType.P_DATA_TF:
            for pdv in split_pdvs(body):
                self._take(pdv)
            if self._due is not None:
                self._perform(self._due)
            return True
        if kind is PduType.A_RELEASE_RQ:
            if self._busy:
                raise ProtocolError("a release inside a message", AbortReason.UNEXPECTED_PDU)
            send_last(self._socket, release_rp())
        elif self._busy:  # A-ABORT
            raise PeerGoneError("the peer aborted inside a message")
        return False

    def _take(self, pdv: Pdv) -> None:
        context = self._agreed.contexts.get(pdv.context_id)
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
                self._begin(decode_command(self._command), context)
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
                    self._answer(self._request, status)
                    data_set.answered()

    def _begin(self, command: Command, context: Context) -> None:
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
            self._data_set = self._destination(command, context)
        elif command.field in self._operations(context):
            self._make_due(command, b"", context)
            self._end_message()
        else:
            echo = command.field == CommandField.C_ECHO_RQ
            self._answer(command, SUCCESS if echo else UNRECOGNIZED_OPERATION)

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

    def _destination(self, command: Command, context: Context) -> IncomingDataSet:
        if command.field in self._operations(context):
            return Collected(
                lambda data_set: self._make_due(command, data_set, context),
                RESOURCE_LIMITATION if command.is_normalized else REQUEST_TOO_LONG,
            )
        if command.field != CommandField.C_STORE_RQ:
            return Refused(UNRECOGNIZED_OPERATION)
        if context.abstract_syntax_uid == VERIFICATION or context.abstract_syntax_uid in self._services:
            return Refused(SOP_CLASS_NOT_SUPPORTED)
        if not self._agreed.may_send:
            return Refused(NOT_A_SENDER)
        origin = Origin(
            calling_ae_title=self._agreed.calling_ae_title,
            called_ae_title=self._agreed.called_ae_title,
            peer_address=self._peer_address,
            transfer_syntax_uid=context.transfer_syntax_uid,
        )
        return IncomingInstance(self._spool, origin, command)

    def _make_due(self, command: Command, data_set: bytes, context: Context) -> None:
        assert self._context_id is not None
        request = Request(
            command=command,
            data_set=data_set,
            context=context,
            calling_ae_title=self._agreed.calling_ae_title,
            called_ae_title=self._agreed.called_ae_title,
            peer_address=self._peer_address,
        )
        self._due = _Due(self._services[context.abstract_syntax_uid], request, self._context_id)

    def _perform(self, due: _Due) -> None:
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
                    "" if self._agreed.quirks.omit_error_comment else reply.comment,
                    has_data_set=bool(reply.data_set),
                    more=reply.elements,
                )
                data_set = [reply.data_set] if reply.data_set else None
                for pdu in encode_message(
                    due.context_id, command, data_set, max_pdu_bytes=self._agreed.peer_max_pdu_bytes
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
                "calling_ae_title": self._agreed.calling_ae_title,
                "peer_address": self._peer_address,
                "problem": problem,
            },
        )
        yield PROCESSING_FAILURE

    def _answer(self, command: Command, status: StoreStatus) -> None:
        assert self._context_id is not None
        comment = "" if self._agreed.quirks.omit_error_comment else status.comment
        response = encode_response(command, status.code, comment)
        self.send(p_data(self._context_id, response, max_pdu_bytes=self._agreed.peer_max_pdu_bytes))
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
        send(self._socket, data, self._settings.stall_timeout_s)
