"""What a connection must pass before it costs anything: counts, one deadline, one bounded request.

Twelve connections that each send half an A-ASSOCIATE-RQ lock out a naive acceptor, and a socket timeout does
not cure a byte every few seconds: the deadline here is by the wall, over the whole request.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from edge.gateway.errors import (
    AbortReason,
    PeerGoneError,
    PeerTooSlowError,
    ProtocolError,
    TooManyAssociationsError,
    TooManyConnectionsError,
)
from edge.gateway.pdu import HEADER, PduType

MAX_REQUEST_BYTES = 65_536
"""128 presentation contexts with a dozen transfer syntaxes each are about 45 KB."""

_TOO_SLOW = "the A-ASSOCIATE-RQ did not arrive in time: a bad line, a port scanner, or an attack"
_HTTP_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"OPTION", b"CONNEC", b"PRI * ")
_LEAST_REQUEST_BYTES = 68  # the fixed fields of an A-ASSOCIATE-RQ


@dataclass(eq=False)
class Place:
    """One connection's place among those that are let in.

    Attributes
    ----------
    cut : ends the connection at once, from any thread; set by who serves it.
    """

    address: str
    cut: Callable[[], None] | None = None


class Guard:
    """Counts connections and associations. Safe from any thread.

    When every place is taken, a connection that has no association yet has to go for a newcomer whose address holds
    fewer: half-open connections from many addresses must not keep the scanners out. An association goes for nobody, so
    an address gets one more of them only while it holds fewer than are left: two machines that never release theirs
    must not keep the scanners out either.
    """

    def __init__(
        self, *, max_connections: int, max_connections_per_address: int, max_associations: int
    ) -> None:
        self._max_connections = max_connections
        self._max_connections_per_address = max_connections_per_address
        self._max_associations = max_associations
        self._lock = threading.Lock()
        self._by_address: Counter[str] = Counter()
        self._arriving: dict[Place, None] = {}  # without an association, the oldest first
        self._settled: set[Place] = set()
        self._associated: Counter[str] = Counter()

    def connect(self, address: str) -> Place:
        """Let a connection in. Whoever is let in calls `disconnect` at the end.

        Raises
        ------
        TooManyConnectionsError : no place for it, or none for its address.
        """
        victim = None
        with self._lock:
            if self._by_address[address] >= self._max_connections_per_address:
                raise TooManyConnectionsError(
                    f"more than {self._max_connections_per_address} connections from this address: does the "
                    "scanner leave its associations open? gateway.max_connections_per_address sets the limit"
                )
            if len(self._arriving) + len(self._settled) >= self._max_connections:
                victim = self._make_room(address)
            self._by_address[address] += 1
            place = Place(address)
            self._arriving[place] = None
        if victim is not None and victim.cut is not None:
            victim.cut()
        return place

    def settle(self, place: Place) -> None:
        """This connection has its association: it does not go for a newcomer any more."""
        with self._lock:
            if place in self._arriving:
                del self._arriving[place]
                self._settled.add(place)

    def disconnect(self, place: Place) -> None:
        """Give the place back. Harmless where it was taken away."""
        with self._lock:
            self._forget(place)

    def associate(self, address: str) -> None:
        """Take a place among the associations. Give it back with `leave`.

        Raises
        ------
        TooManyAssociationsError : no place for it, or none for its address.
        """
        with self._lock:
            held, left = self._associated[address], self._max_associations - self._associated.total()
            if held >= left:
                raise TooManyAssociationsError(
                    f"{self._max_associations - left} associations are open, {held} of this address, and what is left "
                    "is for others: does a scanner leave them open? gateway.max_associations sets the limit"
                )
            self._associated[address] += 1

    def leave(self, address: str) -> None:
        with self._lock:
            self._associated[address] -= 1
            if not self._associated[address]:
                del self._associated[address]

    def _make_room(self, address: str) -> Place:
        candidates = [place for place in self._arriving if place.cut is not None]
        greediest = max(candidates, key=lambda place: self._by_address[place.address], default=None)
        if greediest is None or self._by_address[greediest.address] <= self._by_address[address]:
            raise TooManyConnectionsError(
                f"more than {self._max_connections} connections to this box: "
                "gateway.max_connections sets the limit"
            )
        self._forget(greediest)
        return greediest

    def _forget(self, place: Place) -> None:
        if place in self._arriving:
            del self._arriving[place]
        elif place in self._settled:
            self._settled.remove(place)
        else:
            return
        self._by_address[place.address] -= 1
        if not self._by_address[place.address]:
            del self._by_address[place.address]


def read_associate_rq(sock: socket.socket, *, timeout_s: float) -> bytes | None:
    """The whole first PDU, header included; None if the peer closed without a byte (a port check).

    Raises
    ------
    ProtocolError : not an A-ASSOCIATE-RQ, or of a length no real one has.
    PeerTooSlowError : not complete within `timeout_s` of the call.
    PeerGoneError : the peer left in the middle of it.
    """
    deadline_s = time.monotonic() + timeout_s
    header = read_exactly(sock, HEADER.size, deadline_s, empty_allowed=True)
    if not header:
        return None
    kind, length = HEADER.unpack(header)
    if kind != PduType.A_ASSOCIATE_RQ:
        raise ProtocolError(
            explain_foreign(header) or "the first PDU is not an A-ASSOCIATE-RQ", AbortReason.UNEXPECTED_PDU
        )
    if not _LEAST_REQUEST_BYTES <= length <= MAX_REQUEST_BYTES:
        raise ProtocolError(f"an A-ASSOCIATE-RQ of {length} bytes")
    return header + read_exactly(sock, length, deadline_s)


def explain_foreign(head: bytes) -> str | None:
    """What speaks here that is not DICOM, by its first six bytes, and what to do; None if nobody knows it."""
    if head[:1] == b"\x16" and head[1:2] == b"\x03":
        return "TLS on the plain port: set the scanner to the TLS port of this box, or switch TLS off in it"
    if head.startswith(_HTTP_METHODS):
        return (
            "this is not DICOM: an HTTP request; a monitoring or a security scanner, or somebody's browser?"
        )
    if head.startswith(b"SSH-"):
        return "this is not DICOM: an SSH client; is a security scanner at work, or the port a wrong one?"
    if head.startswith(b"\x0b"):
        return "this is not DICOM: an HL7 message; somebody's RIS or interface engine has the wrong port"
    return None


def read_exactly(sock: socket.socket, size: int, deadline_s: float, *, empty_allowed: bool = False) -> bytes:
    """`size` bytes by `deadline_s` of the monotonic clock; PeerTooSlowError or PeerGoneError without them."""
    held = bytearray()
    while len(held) < size:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise PeerTooSlowError(_TOO_SLOW)
        sock.settimeout(left_s)
        try:
            piece = sock.recv(size - len(held))
        except TimeoutError as error:
            raise PeerTooSlowError(_TOO_SLOW) from error
        except OSError as error:
            raise PeerGoneError("the connection broke before the association") from error
        if not piece:
            if empty_allowed and not held:
                return b""
            raise PeerGoneError("the connection ended inside the A-ASSOCIATE-RQ")
        held += piece
    return bytes(held)
