"""Cuts the TCP stream into PDUs (PS3.8 section 9.3) in one buffer, and refuses before it allocates.

One buffer an association, filled by `recv_into`; P-DATA fragments are views into it, handed on without a copy.
Nothing a peer declares makes this allocate: a length is checked against the cap before a byte of it is read.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from edge.gateway.errors import AbortReason, PeerGoneError, PeerTooSlowError, ProtocolError

HEADER = struct.Struct(">BxI")
_PDV = struct.Struct(">IBB")
_CONTROL_PDU_BYTES = 4  # A-RELEASE-RQ, A-RELEASE-RP and A-ABORT have a fixed body
_COMMAND_BIT = 0x01
_LAST_BIT = 0x02


class PduType(IntEnum):
    A_ASSOCIATE_RQ = 0x01
    A_ASSOCIATE_AC = 0x02
    A_ASSOCIATE_RJ = 0x03
    P_DATA_TF = 0x04
    A_RELEASE_RQ = 0x05
    A_RELEASE_RP = 0x06
    A_ABORT = 0x07


class Pdv(NamedTuple):
    """One presentation data value (PS3.8 section 9.3.5.1); `data` is valid until the next PDU is read."""

    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview


class PduReader:
    """Reads the PDUs of an established association.

    Parameters
    ----------
    idle_timeout_s : silence allowed between messages.
    stall_timeout_s : silence allowed inside a message, and the time over which its rate is averaged.
    min_rate_bytes_per_s : counted over the time spent waiting for the peer, never over our own disk's time.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        max_pdu_bytes: int,
        idle_timeout_s: float,
        stall_timeout_s: float,
        min_rate_bytes_per_s: int,
    ) -> None:
        self._socket = sock
        self._max_pdu_bytes = max_pdu_bytes
        self._idle_timeout_s = idle_timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._min_rate_bytes_per_s = min_rate_bytes_per_s
        self._buffer = bytearray(HEADER.size + max_pdu_bytes)  # of the usual ones, which are half of it, two
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._waited_s = 0.0
        self._waited_bytes = 0

    @property
    def holds_bytes(self) -> bool:
        """True if something was read from the socket that `next_pdu` has not given out yet."""
        return self._end > self._start

    def next_pdu(self, *, inside_message: bool) -> tuple[PduType, memoryview] | None:
        """The next PDU's type and body (valid until the next call); None when the peer closed between PDUs.

        Raises
        ------
        ProtocolError : a type or length outside the protocol.
        PeerGoneError : the stream ended inside a PDU.
        PeerTooSlowError : silence or a trickle.
        """
        while True:
            held = self._end - self._start
            need = HEADER.size
            if held >= HEADER.size:
                kind, length = self._check(*HEADER.unpack_from(self._buffer, self._start))
                need += length
                if held >= need:
                    body = self._view[self._start + HEADER.size : self._start + need]
                    self._start += need
                    return kind, body
            self._make_room(need)
            if not self._fill(waiting=not inside_message and held == 0):
                if held:
                    raise PeerGoneError("the connection ended inside a PDU")
                return None

    def _check(self, kind: int, length: int) -> tuple[PduType, int]:
        if kind == PduType.P_DATA_TF:
            if length > self._max_pdu_bytes:
                raise ProtocolError(f"a PDU of {length} bytes; {self._max_pdu_bytes} were agreed")
        elif kind in (PduType.A_RELEASE_RQ, PduType.A_ABORT):
            if length != _CONTROL_PDU_BYTES:
                raise ProtocolError(f"a PDU of type {kind} with {length} bytes")
        elif kind in tuple(PduType):
            raise ProtocolError(f"PDU type {kind} inside an association", AbortReason.UNEXPECTED_PDU)
        else:
            raise ProtocolError(f"PDU type {kind} does not exist", AbortReason.UNRECOGNIZED_PDU)
        return PduType(kind), length

    def _make_room(self, need: int) -> None:
        """Bring what is held to the front when the buffer's end is too near; at most one PDU is moved."""
        held = self._end - self._start
        if held == 0:
            self._start = self._end = 0
        elif self._start + need > len(self._buffer):
            self._buffer[:held] = self._buffer[self._start : self._end]
            self._start, self._end = 0, held

    def _fill(self, *, waiting: bool) -> bool:
        """Take what has arrived; False when the peer has closed its side."""
        self._socket.settimeout(self._idle_timeout_s if waiting else self._stall_timeout_s)
        began_s = time.monotonic()
        try:
            taken = self._socket.recv_into(self._view[self._end :])
        except TimeoutError as error:
            state = "between messages" if waiting else "inside a message"
            raise PeerTooSlowError(f"nothing was sent for too long {state}") from error
        except OSError as error:
            raise PeerGoneError("the connection broke") from error
        self._end += taken
        if waiting:
            self._waited_s, self._waited_bytes = 0.0, 0
        elif taken:
            self._check_rate(time.monotonic() - began_s, taken)
        return taken > 0

    def _check_rate(self, waited_s: float, taken: int) -> None:
        self._waited_s += waited_s
        self._waited_bytes += taken
        if self._waited_s < self._stall_timeout_s:
            return
        if self._waited_bytes < self._min_rate_bytes_per_s * self._waited_s:
            raise PeerTooSlowError(f"{self._waited_bytes} bytes in {self._waited_s:.0f} s inside a message")
        self._waited_s, self._waited_bytes = 0.0, 0


def split_pdvs(body: memoryview) -> Iterator[Pdv]:
    """The presentation data values of one P-DATA-TF body. ProtocolError where their lengths do not add up."""
    at = 0
    while at < len(body):
        if len(body) - at < _PDV.size:
            raise ProtocolError("a presentation data value is cut short")
        length, context_id, control = _PDV.unpack_from(body, at)
        end = at + 4 + length  # the length counts context id and control header too
        if length < 2 or end > len(body):
            raise ProtocolError("a presentation data value is longer than its PDU")
        yield Pdv(
            context_id, bool(control & _COMMAND_BIT), bool(control & _LAST_BIT), body[at + _PDV.size : end]
        )
        at = end


def p_data(context_id: int, command: bytes, *, max_pdu_bytes: int) -> bytes:
    """P-DATA-TF PDUs that carry a whole command set, cut to what the peer takes (0: no limit)."""
    room = (max_pdu_bytes or len(command) + _PDV.size) - _PDV.size
    out = bytearray()
    for at in range(0, len(command), room):
        piece = command[at : at + room]
        control = _COMMAND_BIT | (_LAST_BIT if at + room >= len(command) else 0)
        out += HEADER.pack(PduType.P_DATA_TF, _PDV.size + len(piece))
        out += _PDV.pack(2 + len(piece), context_id, control) + piece
    return bytes(out)


def release_rp() -> bytes:
    return HEADER.pack(PduType.A_RELEASE_RP, 4) + bytes(4)


def abort(reason: AbortReason) -> bytes:
    """A-ABORT by the service provider (PS3.8 section 9.3.8)."""
    return HEADER.pack(PduType.A_ABORT, 4) + bytes((0, 0, 2, reason))


def associate_rj(result: int, source: int, reason: int) -> bytes:
    """A-ASSOCIATE-RJ (PS3.8 section 9.3.4)."""
    return HEADER.pack(PduType.A_ASSOCIATE_RJ, 4) + bytes((0, result, source, reason))
