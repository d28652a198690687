"""An association's socket in our own hands for as long as sub-operations run on it.

Why it exists: pynetdicom hands each message from thread to thread, and from queue to queue, several times; that costs
more than the image does on the wire. Between two messages there is no state of the upper layer to keep (PS3.8 Table
9-10, Sta6), so the thread that serves may send and read P-DATA by itself.

Always true: pynetdicom's thread rests while a lane is open, and finds the socket between two PDUs when it goes on; what
is not for us, such as an A-ABORT, it is given back whole.
"""

from __future__ import annotations

import contextlib
import struct
from types import TracebackType
from typing import Final, Self

from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_CANCEL
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

from central.dimse import command_set
from central.dimse.errors import OverLimitError, PeerGoneError
from central.dimse.transport import MAX_COMMAND_BYTES, PDV_BYTES, GuardedSocket

_HEAD: Final = struct.Struct(">BxL")
_PDV: Final = struct.Struct(">LBB")
_PDU_HEAD: Final = struct.Struct(">BxLLBB")
_P_DATA_TF: Final = 0x04
_COMMAND: Final = 0x01
_LAST: Final = 0x02
_NO_LIMIT_PDU_BYTES: Final = 131_072  # what is sent to a peer that names no maximum
_MAX_CANCELS: Final = 10  # as many as pynetdicom keeps


class Lane:
    """Use as a context manager, on the thread that serves the association.

    Parameters
    ----------
    timeout_s : silence of the other side that is borne, while sending and while it answers.

    Every method raises PeerGoneError when the association is over, or should be.
    """

    def __init__(self, association: Association, timeout_s: float) -> None:
        self._association = association
        self._timeout_s = timeout_s
        self.room = max(1, (association.dimse.maximum_pdu_size or _NO_LIMIT_PDU_BYTES) - PDV_BYTES)
        """Bytes of a message that a PDU takes."""

    def __enter__(self) -> Self:
        transport = self._association.dul.socket
        if not isinstance(transport, GuardedSocket) or not transport.take(self._association.dul.is_alive):
            raise PeerGoneError("the association ended before an instance was sent")
        self._transport = transport
        self._before_s = transport.set_timeout(self._timeout_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.set_timeout(self._before_s)
        self._transport.give_back()

    def send(self, data: bytes) -> None:
        """Send encoded PDUs."""
        try:
            self._transport.send_all(data)
        except OSError as error:
            raise PeerGoneError("the association ended while an instance was sent") from error

    def send_waiting(self) -> None:
        """Send the messages that pynetdicom has been given meanwhile."""
        waiting = self._association.dul.to_provider_queue
        while waiting.queue and isinstance(message := waiting.queue[0], P_DATA):
            waiting.get(block=False)
            pdu = P_DATA_TF()
            pdu.from_primitive(message)
            self.send(pdu.encode())

    def take_in(self) -> None:
        """Read what has come already: a C-CANCEL-RQ counts from now on."""
        for _ in range(_MAX_CANCELS):
            if not self._transport.has_data(0):
                return
            self._take(self._command())

    def answer(self, message_id: int) -> int:
        """Wait for the C-STORE-RSP to `message_id`; its status."""
        while True:
            found = self._command()
            if command_set.number(found, command_set.COMMAND_FIELD) != command_set.C_STORE_RSP:
                self._take(found)
                continue
            status = command_set.number(found, command_set.STATUS)
            answered = command_set.number(found, command_set.MESSAGE_ID_RESPONDED_TO)
            if answered != message_id or status is None:
                raise PeerGoneError("no answer came to a C-STORE sub-operation")
            return status

    def _take(self, found: dict[int, bytes]) -> None:
        cancelled = command_set.number(found, command_set.MESSAGE_ID_RESPONDED_TO)
        field = command_set.number(found, command_set.COMMAND_FIELD)
        if field != command_set.C_CANCEL_RQ or cancelled is None:
            raise PeerGoneError("another message came where the answer to a sub-operation belongs")
        if len(self._association.dimse.cancel_req) < _MAX_CANCELS:
            self._association.dimse.cancel_req[cancelled] = C_CANCEL()

    def _command(self) -> dict[int, bytes]:
        try:
            return self._message()
        except OverLimitError as error:
            raise PeerGoneError(f"the other side cannot be understood: {error}") from error

    def _message(self) -> dict[int, bytes]:
        """The next message, which has no data set."""
        whole = bytearray()
        while True:
            for control, data in _fragments(self._pdu()):
                if not control & _COMMAND or len(whole) + len(data) > MAX_COMMAND_BYTES:
                    raise OverLimitError(
                        "a data set where an answer belongs, or a longer command than any has"
                    )
                whole += data
                if control & _LAST:
                    return command_set.elements(bytes(whole))

    def _pdu(self) -> memoryview:
        """The body of the next P-DATA-TF."""
        with contextlib.suppress(OSError):
            if self._transport.has_data(self._timeout_s):
                head = self._transport.recv(_HEAD.size)
                if len(head) == _HEAD.size:
                    kind, length = _HEAD.unpack(head)
                    body = self._transport.recv(length)
                    if kind == _P_DATA_TF and len(body) == length:
                        return memoryview(body)
                    self._transport.put_back(head + body)
        raise PeerGoneError("the association ended while an instance was sent, or its other side is silent")


def _fragments(pdu: memoryview) -> list[tuple[int, memoryview]]:
    """Control header and bytes of each PDV (PS3.8 section 9.3.5.1). OverLimitError for lengths that are none."""
    found, at = [], 0
    while at < len(pdu):
        if len(pdu) - at < _PDV.size:
            raise OverLimitError("a PDV that is cut short")
        length, _, control = _PDV.unpack_from(pdu, at)
        end = at + 4 + length
        if length < 2 or end > len(pdu):
            raise OverLimitError("a PDV of a length that is none")
        found.append((control, pdu[at + _PDV.size : end]))
        at = end
    return found


def packed(
    context_id: int, data: bytes | memoryview, room: int, *, is_last: bool, is_command: bool = False
) -> bytes:
    """A piece of a message as P-DATA-TF PDUs (PS3.8 Table 9-22 and Annex E.2), so that many leave in one write."""
    pieces: list[bytes | memoryview] = []
    for at in range(0, len(data), room):
        piece = data[at : at + room]
        ends = _LAST if is_last and at + room >= len(data) else 0
        control = ends | (_COMMAND if is_command else 0)
        pieces.append(_PDU_HEAD.pack(_P_DATA_TF, len(piece) + 6, len(piece) + 2, context_id, control))
        pieces.append(piece)
    return b"".join(pieces)
