"""One association from its request to its end, on one thread that blocks on one socket.

Always true: a C-STORE-RSP with success is sent only after the spool's commit; whatever way the association ends
(release, abort, a cut line, a broken peer, the box stopping), an unfinished instance is discarded and a finished
one is kept. States are few enough to be the code: no message, a command set arriving, a data set arriving.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from typing import Protocol

from edge.buffer.records import Origin
from edge.buffer.spool import Spool
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
from edge.gateway.guard import Guard, read_associate_rq
from edge.gateway.negotiation import LOCAL_LIMIT_EXCEEDED, Agreed, Context, negotiate
from edge.gateway.pdu import PduReader, PduType, Pdv, abort, associate_rj, p_data, release_rp, split_pdvs
from edge.gateway.settings import GatewaySettings
from edge.gateway.sop_classes import VERIFICATION
from edge.gateway.storage import SUCCESS, IncomingInstance, StoreStatus

_LOG = logging.getLogger(__name__)
_LINGER_S = 1.0  # for the peer to close first, so that a reset does not overtake our last answer

SOP_CLASS_NOT_SUPPORTED = StoreStatus(0x0122, "This presentation context is not for storage")
UNRECOGNIZED_OPERATION = StoreStatus(0x0211, "This box does C-ECHO and C-STORE")


class _DataSet(Protocol):
    """Where the data set of a request goes."""

    def write(self, data: memoryview) -> None: ...

    def finish(self) -> StoreStatus: ...

    def discard(self) -> None: ...


class _Refused:
    """The data set of a request that is refused whatever it says: taken off the wire and dropped."""

    def __init__(self, status: StoreStatus) -> None:
        self._status = status

    def write(self, data: memoryview) -> None:
        del data

    def finish(self) -> StoreStatus:
        return self._status

    def discard(self) -> None:
        return


class Association:
    """Runs on the thread that calls `run`; `stop` may be called from any other."""

    def __init__(
        self, sock: socket.socket, peer_address: str, settings: GatewaySettings, spool: Spool, guard: Guard
    ) -> None:
        self._socket = sock
        self._peer_address = peer_address
        self._settings = settings
        self._spool = spool
        self._guard = guard
        self._agreed: Agreed | None = None
        self._command = bytearray()
        self._context_id: int | None = None  # of the message in progress
        self._request: Command | None = None  # complete, its data set on the way
        self._data_set: _DataSet | None = None
        self._state = threading.Lock()  # guards the two below, which `stop` reads
        self._busy = False
        self._stopping = False

    def run(self) -> None:
        """Serve the peer to the end and close the socket. Raises nothing a peer could cause."""
        try:
            self._serve()
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
            if not self._busy:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RD)

    def kill(self) -> None:
        """Cut the line now. The instance in progress is discarded."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    @property
    def _calling_ae_title(self) -> str:
        return self._agreed.calling_ae_title if self._agreed else ""

    def _serve(self) -> None:
        request = read_associate_rq(self._socket, timeout_s=self._settings.request_timeout_s)
        if request is None:
            return
        agreed = negotiate(request, self._settings)
        if not self._guard.associate():
            raise RejectedError(
                f"more than {self._settings.max_associations} associations",
                LOCAL_LIMIT_EXCEEDED,
                calling_ae_title=agreed.calling_ae_title,
            )
        try:
            self._agreed = agreed
            self._send(agreed.answer)
            _LOG.info(
                "association accepted",
                extra={
                    "calling_ae_title": agreed.calling_ae_title,
                    "peer_address": self._peer_address,
                    "contexts": len(agreed.contexts),
                },
            )
            self._exchange(agreed)
        finally:
            self._guard.leave()

    def _exchange(self, agreed: Agreed) -> None:
        reader = PduReader(
            self._socket,
            max_pdu_bytes=self._settings.max_pdu_bytes,
            idle_timeout_s=self._settings.idle_timeout_s,
            stall_timeout_s=self._settings.stall_timeout_s,
            min_rate_bytes_per_s=self._settings.min_rate_bytes_per_s,
        )
        while True:
            pdu = None if self._stopping and not self._busy else reader.next_pdu(inside_message=self._busy)
            if pdu is None:
                if self._busy:
                    raise PeerGoneError("the connection ended inside a message")
                if self._stopping:
                    self._send_last(abort(AbortReason.NOT_SPECIFIED))
                return
            kind, body = pdu
            if kind is PduType.P_DATA_TF:
                for pdv in split_pdvs(body):
                    self._take(pdv, agreed)
            elif kind is PduType.A_RELEASE_RQ:
                if self._busy:
                    raise ProtocolError("a release inside a message", AbortReason.UNEXPECTED_PDU)
                self._send_last(release_rp())
                return
            else:  # A-ABORT
                if self._busy:
                    raise PeerGoneError("the peer aborted inside a message")
                return

    def _take(self, pdv: Pdv, agreed: Agreed) -> None:
        context = agreed.contexts.get(pdv.context_id)
        if context is None:
            raise ProtocolError(f"presentation context {pdv.context_id} was not accepted")
        with self._state:
            self._busy = True
        if self._context_id is None:
            self._context_id = pdv.context_id
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
                self._answer(self._request, self._data_set.finish(), agreed)

    def _begin(self, command: Command, context: Context, agreed: Agreed) -> None:
        """Act on a complete command set (PS3.7 section 9.1)."""
        if command.is_response:
            raise ProtocolError("a response to a request this box never made")
        if command.field == CommandField.C_CANCEL_RQ:
            self._end_message()  # nothing here can be cancelled, and a cancel has no answer
        elif not command.has_data_set:
            echo = command.field == CommandField.C_ECHO_RQ
            self._answer(command, SUCCESS if echo else UNRECOGNIZED_OPERATION, agreed)
        else:
            self._request = command
            self._data_set = self._destination(command, context, agreed)

    def _destination(self, command: Command, context: Context, agreed: Agreed) -> _DataSet:
        if command.field != CommandField.C_STORE_RQ:
            return _Refused(UNRECOGNIZED_OPERATION)
        if context.abstract_syntax_uid == VERIFICATION:
            return _Refused(SOP_CLASS_NOT_SUPPORTED)
        origin = Origin(
            calling_ae_title=agreed.calling_ae_title,
            called_ae_title=agreed.called_ae_title,
            peer_address=self._peer_address,
            transfer_syntax_uid=context.transfer_syntax_uid,
        )
        return IncomingInstance(self._spool, origin, command)

    def _answer(self, command: Command, status: StoreStatus, agreed: Agreed) -> None:
        assert self._context_id is not None
        response = encode_response(command, status.code, status.comment)
        self._send(p_data(self._context_id, response, max_pdu_bytes=agreed.peer_max_pdu_bytes))
        self._end_message()

    def _end_message(self) -> None:
        self._command = bytearray()
        self._context_id = None
        self._request = None
        self._data_set = None
        with self._state:
            self._busy = False

    def _send(self, data: bytes) -> None:
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
        self._spool.note_rejection(calling_ae_title, self._peer_address, str(error))
        _LOG.warning(
            "association ended",
            extra={
                "calling_ae_title": calling_ae_title,
                "peer_address": self._peer_address,
                "reason": str(error),
            },
        )
