"""An association of our own: C-ECHO and reports to scanners, C-MOVE, and destinations, whose objects must pass neither
memory nor a file whole.

pynetdicom encodes and decodes the negotiation; the messages go through the same reader and peer as on associations
that others open. Used by one thread, from `connect` to the end of the `with` block.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, Final, Self

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext

from contract.part10 import IMPLEMENTATION_CLASS_UID
from edge.gateway.addresses import Address
from edge.gateway.association_items import decodable
from edge.gateway.calling_tls import ended
from edge.gateway.command_set import MAX_COMMAND_BYTES, Command, decode_command
from edge.gateway.errors import (
    AbortReason,
    GatewayError,
    PeerGoneError,
    ProtocolError,
    TransientGatewayError,
)
from edge.gateway.negotiation import Agreed, Context
from edge.gateway.pdu import HEADER, PduReader, PduType, abort, split_pdvs
from edge.gateway.peer import ConnectedPeer
from edge.gateway.tls import TlsRefusedError

MAX_CONTEXTS: Final = 128
_APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
_MAX_ANSWER_BYTES: Final = 65_536
_MAX_PDU_BYTES: Final = 16_384  # only responses come this way
_CONNECT_TIMEOUT_S: Final = 10.0
_ANSWER_TIMEOUT_S: Final = 30.0
_RELEASE_TIMEOUT_S: Final = 2.0
_CALLED_NOT_RECOGNIZED: Final = (1, 7)  # source and reason, PS3.8 Table 9-21
_NO_ROOM: Final = ((3, 1), (3, 2))


class CallFailedError(TransientGatewayError):
    """The other side cannot be reached, or refuses. The text says what to look at."""


class OutgoingAssociation:
    """Made by `connect`. Leaving the `with` block releases it, or aborts it after an error."""

    def __init__(self, sock: socket.socket, agreed: Agreed, timeout_s: float) -> None:
        self._socket = sock
        self._timeout_s = timeout_s
        self._reader = PduReader(
            sock,
            max_pdu_bytes=_MAX_PDU_BYTES,
            idle_timeout_s=timeout_s,
            stall_timeout_s=timeout_s,
            min_rate_bytes_per_s=0,
        )
        self._command = bytearray()
        self._response: Command | None = None  # complete, its data set on the way
        self.peer = ConnectedPeer(sock, self._reader, agreed, self)

    @classmethod
    def connect(
        cls,
        address: Address,
        *,
        called_ae_title: str,
        calling_ae_title: str,
        contexts: Sequence[Context],
        reports: Collection[str] = (),
        timeout_s: float = _ANSWER_TIMEOUT_S,
    ) -> OutgoingAssociation:
        """Associate, proposing each context by itself.

        Parameters
        ----------
        reports : SOP classes of which this box is the SCP, so that it may report (PS3.7 Annex D.3.3.4).
        timeout_s : for each answer, and for each piece that is sent to be taken.

        Raises
        ------
        CallFailedError
        """
        where = f"{called_ae_title} at {address.host} port {address.port}"
        try:
            sock = socket.create_connection(address[:2], min(timeout_s, _CONNECT_TIMEOUT_S))
        except OSError as error:
            raise CallFailedError(f"{where} cannot be reached: check address, port and cable") from error
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if address.tls is not None:
                sock = address.tls.wrap(sock)
            sock.sendall(_request(called_ae_title, calling_ae_title, contexts[:MAX_CONTEXTS], reports))
            kind, answer = _read_answer(sock, timeout_s)
            _check_accepted(kind, answer, where, called_ae_title, calling_ae_title)
            return cls(sock, _agreed(answer, called_ae_title, calling_ae_title, contexts), timeout_s)
        except (OSError, GatewayError) as error:
            sock.close()
            if isinstance(error, CallFailedError):
                raise
            if isinstance(error, TlsRefusedError):
                raise CallFailedError(f"{where}: {error}") from error
            if isinstance(error, ssl.SSLError):  # with TLS 1.3 its refusal comes with the first answer
                raise CallFailedError(f"{where}: {ended(error)}") from error
            raise CallFailedError(f"{where} did not answer as a DICOM node does") from error
        except BaseException:
            sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.settimeout(_RELEASE_TIMEOUT_S)
            if error is None and self.peer.failure is None:
                self._socket.sendall(HEADER.pack(PduType.A_RELEASE_RQ, 4) + bytes(4))
                self._socket.recv(HEADER.size + 4)  # the A-RELEASE-RP
            else:
                self._socket.sendall(abort(AbortReason.NOT_SPECIFIED))
        self.peer.close()
        self._socket.close()

    @property
    def is_quiet(self) -> bool:
        """Whether the other side has said nothing that nobody asked: between messages that can only be its end."""
        return not self.peer.wait(0.0)

    def send(self, data: bytes) -> None:
        self._socket.settimeout(self._timeout_s)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise PeerGoneError("the other side did not take what was sent") from error

    def step(self) -> bool:
        """Take one PDU: part of a response, or the end."""
        pdu = self._reader.next_pdu(inside_message=True)
        if pdu is None or pdu[0] is not PduType.P_DATA_TF:
            return False
        for pdv in split_pdvs(pdu[1]):
            if pdv.is_command == (self._response is not None):
                raise ProtocolError("command and data set of an answer are not in their order")
            if self._response is not None:
                # An Event Reply (PS3.7 section 10.3.1), of which nothing is wanted.
                if pdv.is_last:
                    response, self._response = self._response, None
                    self.peer.note_answer(response)
                continue
            self._command += pdv.data
            if len(self._command) > MAX_COMMAND_BYTES:
                raise ProtocolError("the command set is too long")
            if pdv.is_last:
                self._take(decode_command(self._command))
                self._command = bytearray()
        return True

    def _take(self, command: Command) -> None:
        if not command.is_response:
            raise ProtocolError("a request on an association this box opened")
        if command.has_data_set:
            self._response = command
        else:
            self.peer.note_answer(command)


def _request(
    called_ae_title: str, calling_ae_title: str, contexts: Sequence[Context], reports: Collection[str]
) -> bytes:
    asked = A_ASSOCIATE()
    asked.application_context_name = _APPLICATION_CONTEXT
    asked.calling_ae_title = calling_ae_title
    asked.called_ae_title = called_ae_title
    maximum_length = MaximumLengthNotification()
    maximum_length.maximum_length_received = _MAX_PDU_BYTES
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    asked.user_information = [maximum_length, implementation, *map(_reporting, sorted(reports))]
    asked.presentation_context_definition_list = [
        _proposed(number, context) for number, context in enumerate(contexts)
    ]
    return A_ASSOCIATE_RQ(asked).encode()


def _proposed(number: int, context: Context) -> PresentationContext:
    proposed = PresentationContext()
    proposed.context_id = 2 * number + 1
    proposed.abstract_syntax = context.abstract_syntax_uid
    proposed.transfer_syntax = [context.transfer_syntax_uid]
    return proposed


def _reporting(sop_class_uid: str) -> SCP_SCU_RoleSelectionNegotiation:
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid = sop_class_uid
    role.scu_role, role.scp_role = False, True
    return role


def _check_accepted(
    kind: int, answer: bytes, where: str, called_ae_title: str, calling_ae_title: str
) -> None:
    if kind == PduType.A_ASSOCIATE_AC:
        return
    source_and_reason = tuple(answer[8:10]) if kind == PduType.A_ASSOCIATE_RJ else ()
    if source_and_reason == _CALLED_NOT_RECOGNIZED:
        raise CallFailedError(
            f"{where} refused the association: {called_ae_title} is not how it calls itself; check its AE title"
        )
    if source_and_reason in _NO_ROOM:
        raise CallFailedError(f"{where} takes no further association now")
    raise CallFailedError(f"{where} refused the association: does it know this box as {calling_ae_title}?")


def _read_answer(sock: socket.socket, timeout_s: float) -> tuple[int, bytes]:
    deadline_s = time.monotonic() + timeout_s
    header = _exactly(sock, HEADER.size, deadline_s)
    kind, length = HEADER.unpack(header)
    if length > _MAX_ANSWER_BYTES:
        raise ProtocolError(f"an answer of {length} bytes to an association request")
    return kind, header + _exactly(sock, length, deadline_s)


def _exactly(sock: socket.socket, size: int, deadline_s: float) -> bytes:
    held = bytearray()
    while len(held) < size:
        sock.settimeout(max(0.001, deadline_s - time.monotonic()))
        piece = sock.recv(size - len(held))
        if not piece:
            raise PeerGoneError("the connection ended before the association")
        held += piece
    return bytes(held)


def _agreed(
    answer: bytes, called_ae_title: str, calling_ae_title: str, contexts: Sequence[Context]
) -> Agreed:
    try:
        pdu = A_ASSOCIATE_AC()
        # The names in an answer are not to be looked at (PS3.8 Table 9-17).
        pdu.decode(decodable(answer, called_ae_title=called_ae_title, calling_ae_title=calling_ae_title))
        told: Any = pdu.to_primitive()
        results = [
            (int(one.context_id), int(one.result))
            for one in told.presentation_context_definition_results_list
        ]
        peer_max_pdu_bytes = int(told.maximum_length_received or 0)
    except Exception as error:
        # pynetdicom raises whatever its parsing runs into; all of it means one thing here.
        raise ProtocolError("the A-ASSOCIATE-AC cannot be read") from error
    if 0 < peer_max_pdu_bytes < HEADER.size + 64:
        raise ProtocolError("the other side takes no PDU of a usable size")
    return Agreed(
        calling_ae_title=calling_ae_title,
        called_ae_title=called_ae_title,
        contexts={
            number: contexts[(number - 1) // 2]
            for number, result in results
            if result == 0 and number % 2 and 0 <= (number - 1) // 2 < min(len(contexts), MAX_CONTEXTS)
        },
        peer_max_pdu_bytes=peer_max_pdu_bytes,
        peer_performs=frozenset(context.abstract_syntax_uid for context in contexts),
        answer=answer,
    )
