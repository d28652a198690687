"""The upper layer of an association that is agreed on (PS3.8 Table 9-10, Sta6): PDUs, on the one thread that uses it.

Why it exists: pynetdicom has a second thread for each association, hands each message from one to the other through
queues, reads whatever length a PDU declares, and waits on a socket without a clock. Where messages are exchanged there
is nothing but P-DATA, a release and an abort, so whoever serves an association, or asks on one, reads them here.

Always true: what a peer can make central hold here is two PDUs; a peer that is silent, stops or trickles is ended; what
is no PDU of this state ends the association.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import struct
import time
from dataclasses import dataclass
from typing import Final

from central.dimse.associate import PDU_HEAD
from central.dimse.errors import OverLimitError, PeerGoneError

PDV_BYTES: Final = 6  # before a fragment, in a PDU
LEAST_PDU_BYTES: Final = 65_536  # what an A-ASSOCIATE may have, however small our own PDUs are
COMMAND_FRAGMENT: Final = 0x01  # of a message control header (PS3.8 Annex E.2)
LAST_FRAGMENT: Final = 0x02
P_DATA_TF: Final = 0x04  # PDU types
_A_RELEASE_RQ, _A_RELEASE_RP, _A_ABORT = 0x05, 0x06, 0x07
_PDV: Final = struct.Struct(">LBB")
_P_DATA_HEAD: Final = struct.Struct(">BxLLBB")
_MAX_PDUS_TO_RELEASE: Final = 8  # what may still come before the answer to an A-RELEASE-RQ
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one association may cost. Sizes in bytes, times in seconds."""

    max_pdu_bytes: int
    max_object_bytes: int
    stall_timeout_s: float
    min_rate_bytes_per_s: int

    def is_trickle(self, began_s: float, came_bytes: int) -> bool:
        """Whether `came_bytes` since `began_s`, on the monotonic clock, are fewer than a peer has to send."""
        took_s = time.monotonic() - began_s
        return took_s > self.stall_timeout_s and came_bytes < took_s * self.min_rate_bytes_per_s


class Line:
    """An association's connection. Used by one thread.

    Attributes
    ----------
    sock : its timeout is for each step of what is read or sent.
    is_over : nothing can come or be sent any more.
    is_release_asked : the peer wants to release it, and says no more.
    awaits_close : we ended it, and the peer is to close the connection (Sta13).
    """

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        sock.settimeout(limits.stall_timeout_s)
        self.sock = sock
        self.is_over = self.is_release_asked = self.awaits_close = False
        self._limits = limits
        self._come_in = select.poll()  # and not select(), which fails from descriptor 1,024 on
        self._come_in.register(sock, select.POLLIN)
        # What was read and is not used yet lies between `_at` and `_end`: a PDU, and the beginning of the next.
        self._held = bytearray(2 * (PDU_HEAD.size + max(limits.max_pdu_bytes, LEAST_PDU_BYTES)))
        self._at = self._end = 0

    def has_data(self, timeout_s: float) -> bool:
        """Whether something, and be it the end, can be read within so long; False where it is over."""
        if (
            self.is_over
            or self._end > self._at
            or (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending())
        ):
            return not self.is_over
        return bool(self._come_in.poll(timeout_s * 1000))

    def send(self, data: bytes) -> None:
        """Send encoded PDUs. PeerGoneError : it is over, or the other side does not read.

        The timeout is for each step of it; sendall()'s is for all, and who is slow is not gone.
        """
        if self.is_over:
            raise PeerGoneError("the association is over")
        left = memoryview(data)
        try:
            while left:
                left = left[self.sock.send(left) :]
        except OSError as error:
            self.is_over = True
            raise PeerGoneError("the association ended while something was sent") from error

    def p_data(self, silence_s: float) -> memoryview | None:
        """The body of the next P-DATA-TF, valid until the next; None where there is none any more.

        OverLimitError : what comes is longer than was agreed.
        """
        if self.is_over or self.is_release_asked:
            return None
        if not self.has_data(silence_s):
            _log.info("event=association-silent")
            self.abort()
            return None
        try:
            kind, body = self.pdu()
        except OSError:
            self.is_over = True
            return None
        if kind == P_DATA_TF:
            return body
        if kind == _A_RELEASE_RQ:
            self.is_release_asked = True
        elif kind == _A_ABORT:
            self.is_over = True
        else:
            _log.info("event=association-out-of-order pdu_type=%d", kind)
            self.abort()
        return None

    def pdu(self) -> tuple[int, memoryview]:
        """The next PDU's type and body, valid until the next. OSError : none came. OverLimitError as `p_data`."""
        self._have(PDU_HEAD.size)
        kind, length = PDU_HEAD.unpack_from(self._held, self._at)
        whole = PDU_HEAD.size + length
        if whole > len(self._held) // 2:
            raise OverLimitError("a longer PDU than was agreed")
        self._have(whole)
        begins = self._at + PDU_HEAD.size
        self._at += whole
        return kind, memoryview(self._held)[begins : self._at]

    def leave(self, pdu: memoryview, used: int) -> None:
        """Leave what stands behind the first `used` bytes of the P-DATA-TF that was read last, as one of its own."""
        left = len(pdu) - used
        if left:
            self._at -= left + PDU_HEAD.size
            PDU_HEAD.pack_into(self._held, self._at, P_DATA_TF, left)

    def abort(self) -> None:
        """End it with an A-ABORT (PS3.8 Table 9-26), if it is not over."""
        if self.is_over:
            return
        self.is_over = self.awaits_close = True
        with contextlib.suppress(OSError):
            self.sock.settimeout(0)  # there is no room for it where the other side does not read
            self.sock.send(_control(_A_ABORT))

    def released(self) -> None:
        """Release it as the peer asked, if it did."""
        if self.is_release_asked and not self.is_over:
            with contextlib.suppress(PeerGoneError):
                self.send(_control(_A_RELEASE_RP))
            self.is_over = self.awaits_close = True

    def release(self, timeout_s: float) -> None:
        """Release it, also where both sides do so at once (PS3.8 section 7.2.2.7). `timeout_s` : for each answer."""
        with contextlib.suppress(OSError, PeerGoneError, OverLimitError):  # all of it has been answered
            self.sock.settimeout(timeout_s)
            self.send(_control(_A_RELEASE_RQ))
            for _ in range(_MAX_PDUS_TO_RELEASE):
                kind = self.pdu()[0] if self.has_data(timeout_s) else None
                if kind == _A_RELEASE_RQ:
                    self.send(_control(_A_RELEASE_RP))
                elif kind != P_DATA_TF:
                    break
        self.is_over = True

    def _have(self, wanted: int) -> None:
        """Have `wanted` bytes read, and what else has come. OSError : the connection ends before, or trickles."""
        if self._at + wanted > len(self._held):
            self._held[: self._end - self._at] = self._held[self._at : self._end]
            self._at, self._end = 0, self._end - self._at
        if self._end < self._at + wanted:
            self._end = fill(self.sock, self._held, self._end, self._limits, self._at + wanted)
            if self._end < self._at + wanted:
                raise OSError("the connection ended")


def fill(sock: socket.socket, out: bytearray, at: int, limits: Limits, until: int) -> int:
    """Read into `out` from `at` on until `until` at least; up to where it is, less than that where the peer closed.

    Raises
    ------
    OSError : the connection is broken, or nothing or too little comes.
    """
    view, began_s, first = memoryview(out), time.monotonic(), at
    while at < until:
        got = sock.recv_into(view[at:])
        if not got:
            break
        at += got
        if limits.is_trickle(began_s, at - first):
            raise TimeoutError("a PDU trickles in")
    return at


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
        pieces.append(_P_DATA_HEAD.pack(P_DATA_TF, len(piece) + 6, len(piece) + 2, context_id, control))
        pieces.append(piece)
    return b"".join(pieces)


def _control(kind: int) -> bytes:
    return PDU_HEAD.pack(kind, 4) + bytes(4)
