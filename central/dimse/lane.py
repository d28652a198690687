"""An association's socket in our own hands for as long as sub-operations run on it.

Why it exists: pynetdicom hands each message from thread to thread, and from queue to queue, several times; that costs
more than the image does on the wire. Between two messages there is no state of the upper layer to keep (PS3.8 Table
9-10, Sta6), so the thread that serves may send and read P-DATA by itself.

Always true of an association that pynetdicom has (a C-GET's): its thread rests while a lane is open, and finds the
socket between two PDUs when it goes on; what is not for us, such as an A-ABORT, it is given back whole. A C-MOVE's
destination is called by our own hand (`destination.py`), and has no such thread.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from pynetdicom import pdu as pdus
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_CANCEL
from pynetdicom.pdu_primitives import P_DATA

from central.dimse import command_set
from central.dimse.errors import OverLimitError, PeerGoneError
from central.dimse.transport import (
    COMMAND_FRAGMENT,
    LAST_FRAGMENT,
    MAX_COMMAND_BYTES,
    PDV_BYTES,
    GuardedSocket,
)

_HEAD: Final = struct.Struct(">BxL")
_PDV: Final = struct.Struct(">LBB")
_PDU_HEAD: Final = struct.Struct(">BxLLBB")
P_DATA_TF: Final = 0x04  # PDU type
_NO_LIMIT_PDU_BYTES: Final = 131_072  # what is sent to a peer that names no maximum
_MAX_CANCELS: Final = 10  # as many as pynetdicom keeps


class Wire(Protocol):
    """A socket between two PDUs, as `GuardedSocket` describes each method. OSError : it is over."""

    def send_all(self, data: bytes) -> None: ...

    def has_data(self, timeout_s: float) -> bool: ...

    def recv(self, nr_bytes: int) -> bytearray: ...

    def put_back(self, data: bytes | bytearray) -> None: ...


class Lane:
    """Messages of sub-operations on one association, on the thread that serves.

    Parameters
    ----------
    max_pdu_bytes : what the other side takes; 0 is no limit (PS3.8 Annex D.1).
    timeout_s : silence of the other side that is borne, while it answers.

    Every method raises PeerGoneError when the association is over, or should be.
    """

    def __init__(self, wire: Wire, max_pdu_bytes: int, timeout_s: float) -> None:
        self._wire = wire
        self._timeout_s = timeout_s
        self.room = max(1, (max_pdu_bytes or _NO_LIMIT_PDU_BYTES) - PDV_BYTES)
        """Bytes of a message that a PDU takes."""

    def send(self, data: bytes) -> None:
        """Send encoded PDUs."""
        try:
            self._wire.send_all(data)
        except OSError as error:
            raise PeerGoneError("the association ended while an instance was sent") from error

    def take_in(self) -> None:
        """Read what has come already: a C-CANCEL-RQ counts from now on."""
        for _ in range(_MAX_CANCELS):
            if not self._has_data(0):
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
        """What came and is no answer."""
        raise PeerGoneError("another message came where the answer to a sub-operation belongs")

    def _has_data(self, timeout_s: float) -> bool:
        try:
            return self._wire.has_data(timeout_s)
        except OSError as error:
            raise PeerGoneError("the association is over") from error

    def _command(self) -> dict[int, bytes]:
        try:
            return self._message()
        except OverLimitError as error:
            raise PeerGoneError(f"the other side cannot be understood: {error}") from error

    def _message(self) -> dict[int, bytes]:
        """The next message, which has no data set."""
        whole = bytearray()
        while True:
            for _, control, data in fragments(self._pdu()):
                if not control & COMMAND_FRAGMENT or len(whole) + len(data) > MAX_COMMAND_BYTES:
                    raise OverLimitError(
                        "a data set where an answer belongs, or a longer command than any has"
                    )
                whole += data
                if control & LAST_FRAGMENT:
                    return command_set.elements(bytes(whole))

    def _pdu(self) -> memoryview:
        """The body of the next P-DATA-TF."""
        with contextlib.suppress(OSError):
            if self._wire.has_data(self._timeout_s):
                head = self._wire.recv(_HEAD.size)
                if len(head) == _HEAD.size:
                    kind, length = _HEAD.unpack(head)
                    body = self._wire.recv(length)
                    if kind == P_DATA_TF and len(body) == length:
                        return memoryview(body)
                    self._wire.put_back(head + body)
        raise PeerGoneError("the association ended while an instance was sent, or its other side is silent")


class AssociationLane(Lane):
    """A lane on an association that pynetdicom has, and whose other side may cancel what it asked for there."""

    def __init__(self, association: Association, transport: GuardedSocket, timeout_s: float) -> None:
        super().__init__(transport, association.dimse.maximum_pdu_size or 0, timeout_s)
        self._association = association

    def send_waiting(self) -> None:
        """Send the messages that pynetdicom has been given meanwhile."""
        waiting = self._association.dul.to_provider_queue
        while waiting.queue and isinstance(message := waiting.queue[0], P_DATA):
            waiting.get(block=False)
            pdu = pdus.P_DATA_TF()
            pdu.from_primitive(message)
            self.send(pdu.encode())

    def _take(self, found: dict[int, bytes]) -> None:
        cancelled = command_set.number(found, command_set.MESSAGE_ID_RESPONDED_TO)
        if (
            command_set.number(found, command_set.COMMAND_FIELD) != command_set.C_CANCEL_RQ
            or cancelled is None
        ):
            super()._take(found)
        elif len(self._association.dimse.cancel_req) < _MAX_CANCELS:
            self._association.dimse.cancel_req[cancelled] = C_CANCEL()


@contextmanager
def lane_on(association: Association, timeout_s: float) -> Iterator[AssociationLane]:
    """Take the socket from pynetdicom for the block. `timeout_s` as in `Lane`, and while sending.

    Raises
    ------
    PeerGoneError : the association is over.
    """
    transport = association.dul.socket
    if not isinstance(transport, GuardedSocket) or not transport.take(association.dul.is_alive):
        raise PeerGoneError("the association ended before an instance was sent")
    before_s = transport.set_timeout(timeout_s)
    try:
        yield AssociationLane(association, transport, timeout_s)
    finally:
        transport.set_timeout(before_s)
        transport.give_back()


def fragments(pdu: memoryview) -> list[tuple[int, int, memoryview]]:
    """Presentation context, control header and bytes of each PDV (PS3.8 section 9.3.5.1).

    Raises
    ------
    OverLimitError : for lengths that are none.
    """
    found, at = [], 0
    while at < len(pdu):
        if len(pdu) - at < _PDV.size:
            raise OverLimitError("a PDV that is cut short")
        length, context_id, control = _PDV.unpack_from(pdu, at)
        end = at + 4 + length
        if length < 2 or end > len(pdu):
            raise OverLimitError("a PDV of a length that is none")
        found.append((context_id, control, pdu[at + _PDV.size : end]))
        at = end
    return found


def packed(
    context_id: int, data: bytes | memoryview, room: int, *, is_last: bool, is_command: bool = False
) -> bytes:
    """A piece of a message as P-DATA-TF PDUs (PS3.8 Table 9-22 and Annex E.2), so that many leave in one write."""
    pieces: list[bytes | memoryview] = []
    for at in range(0, len(data), room):
        piece = data[at : at + room]
        ends = LAST_FRAGMENT if is_last and at + room >= len(data) else 0
        control = ends | (COMMAND_FRAGMENT if is_command else 0)
        pieces.append(_PDU_HEAD.pack(P_DATA_TF, len(piece) + 6, len(piece) + 2, context_id, control))
        pieces.append(piece)
    return b"".join(pieces)
