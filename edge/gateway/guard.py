"""What a connection must pass before it costs anything: counts, one deadline, one bounded request.

Twelve connections that each send half an A-ASSOCIATE-RQ lock out a naive acceptor, and a socket timeout does
not cure a byte every few seconds: the deadline here is by the wall, over the whole request.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter

from edge.gateway.errors import AbortReason, PeerGoneError, PeerTooSlowError, ProtocolError
from edge.gateway.pdu import HEADER, PduType

MAX_REQUEST_BYTES = 65_536
"""128 presentation contexts with a dozen transfer syntaxes each are about 45 KB."""

_LEAST_REQUEST_BYTES = 68  # the fixed fields of an A-ASSOCIATE-RQ


class Guard:
    """Counts connections and associations. Safe from any thread."""

    def __init__(
        self, *, max_connections: int, max_connections_per_address: int, max_associations: int
    ) -> None:
        self._max_connections = max_connections
        self._max_connections_per_address = max_connections_per_address
        self._max_associations = max_associations
        self._lock = threading.Lock()
        self._by_address: Counter[str] = Counter()
        self._associations = 0

    def connect(self, address: str) -> str | None:
        """Let a connection in (None), or say why not. Whoever is let in calls `disconnect` at the end."""
        with self._lock:
            if self._by_address[address] >= self._max_connections_per_address:
                return f"more than {self._max_connections_per_address} connections from this address"
            if self._by_address.total() >= self._max_connections:
                return f"more than {self._max_connections} connections to this box"
            self._by_address[address] += 1
            return None

    def disconnect(self, address: str) -> None:
        with self._lock:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def associate(self) -> bool:
        """Take a place among the associations; False if there is none. Give it back with `leave`."""
        with self._lock:
            if self._associations >= self._max_associations:
                return False
            self._associations += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self._associations -= 1


def read_associate_rq(sock: socket.socket, *, timeout_s: float) -> bytes | None:
    """The whole first PDU, header included; None if the peer closed without a byte (a port check).

    Raises
    ------
    ProtocolError : not an A-ASSOCIATE-RQ, or of a length no real one has.
    PeerTooSlowError : not complete within `timeout_s` of the call.
    PeerGoneError : the peer left in the middle of it.
    """
    deadline_s = time.monotonic() + timeout_s
    header = _read_exactly(sock, HEADER.size, deadline_s, empty_allowed=True)
    if not header:
        return None
    kind, length = HEADER.unpack(header)
    if kind != PduType.A_ASSOCIATE_RQ:
        raise ProtocolError("the first PDU is not an A-ASSOCIATE-RQ", AbortReason.UNEXPECTED_PDU)
    if not _LEAST_REQUEST_BYTES <= length <= MAX_REQUEST_BYTES:
        raise ProtocolError(f"an A-ASSOCIATE-RQ of {length} bytes")
    return header + _read_exactly(sock, length, deadline_s)


def _read_exactly(sock: socket.socket, size: int, deadline_s: float, *, empty_allowed: bool = False) -> bytes:
    held = bytearray()
    while len(held) < size:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise PeerTooSlowError("the A-ASSOCIATE-RQ did not arrive in time")
        sock.settimeout(left_s)
        try:
            piece = sock.recv(size - len(held))
        except TimeoutError as error:
            raise PeerTooSlowError("the A-ASSOCIATE-RQ did not arrive in time") from error
        except OSError as error:
            raise PeerGoneError("the connection broke before the association") from error
        if not piece:
            if empty_allowed and not held:
                return b""
            raise PeerGoneError("the connection ended inside the A-ASSOCIATE-RQ")
        held += piece
    return bytes(held)
