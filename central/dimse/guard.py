"""What a connection must pass before pynetdicom sees it: counts, a deadline by the wall, one bounded request.

Always true: a connection holds a place among all and among its address's; one that has not brought its whole
A-ASSOCIATE-RQ within the deadline is closed; the request has a length that a real one can have before it is read.
The box beside a scanner has a guard too (`edge.gateway.guard`); the two programs share no code (decision 32).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from central.dimse.errors import PeerTooSlowError, RefusedError

MAX_REQUEST_BYTES: Final = 65_536  # 128 contexts with a dozen transfer syntaxes each are about 45 KB
_LEAST_REQUEST_BYTES: Final = 68  # the fixed fields of PS3.8 Table 9-11
_HEADER: Final = struct.Struct(">BxI")
_A_ASSOCIATE_RQ: Final = 0x01
_FOREIGN: Final = (
    (b"\x16\x03", "TLS on the plain port: let the peer call the TLS port, or switch TLS off in it"),
    (b"GET ", "an HTTP request on the DICOM port"),
    (b"POST", "an HTTP request on the DICOM port"),
    (b"SSH-", "an SSH client on the DICOM port"),
    (b"\x0b", "an HL7 message on the DICOM port: messages go to the port of [hl7]"),
)


@dataclass(eq=False)
class Place:
    """One connection's place. `sock` is what is cut when the place must go to a newcomer."""

    address: str
    sock: socket.socket


class Guard:
    """Places for connections. Safe from any thread.

    When all are taken, the oldest connection without an association goes for a newcomer, of the address that holds most
    and more than the newcomer's does: half-open connections must not keep everybody out.
    """

    def __init__(self, max_connections: int, max_connections_per_address: int) -> None:
        self._max_connections = max_connections
        self._max_connections_per_address = max_connections_per_address
        self._lock = threading.Lock()
        self._arriving: dict[Place, None] = {}  # the oldest first
        self._settled: set[Place] = set()

    @contextmanager
    def place(self, address: str, sock: socket.socket) -> Iterator[Place]:
        """Hold a place for the time of the block.

        Raises
        ------
        RefusedError : there is none, or none for this address.
        """
        place = Place(address, sock)
        with self._lock:
            held = Counter(one.address for one in (*self._arriving, *self._settled))
            if held[address] >= self._max_connections_per_address:
                raise RefusedError(
                    "too many connections from this address (dicom.max_connections_per_address)"
                )
            if held.total() >= self._max_connections:
                self._make_room(address, held)
            self._arriving[place] = None
        try:
            yield place
        finally:
            with self._lock:
                self._arriving.pop(place, None)
                self._settled.discard(place)

    def settle(self, place: Place) -> None:
        """This connection has its association: it goes for nobody any more."""
        with self._lock:
            if place in self._arriving:
                del self._arriving[place]
                self._settled.add(place)

    def _make_room(self, address: str, held: Counter[str]) -> None:
        victim = max(self._arriving, key=lambda place: held[place.address], default=None)
        if victim is None or held[victim.address] <= held[address]:
            raise RefusedError("too many connections (dicom.max_connections)")
        del self._arriving[victim]
        with contextlib.suppress(OSError):
            socket.socket.shutdown(victim.sock, socket.SHUT_RDWR)


def read_associate_rq(sock: socket.socket, deadline_s: float) -> bytes:
    """The whole first PDU with its header; b"" if the peer left without a byte, as a port check does.

    Parameters
    ----------
    deadline_s : of the monotonic clock.

    Raises
    ------
    RefusedError : not an A-ASSOCIATE-RQ, or of a length that none has.
    PeerTooSlowError : not complete by the deadline.
    """
    header = _exactly(sock, _HEADER.size, deadline_s)
    if not header:
        return b""
    kind, length = _HEADER.unpack(header)
    if kind != _A_ASSOCIATE_RQ:
        for head, sentence in _FOREIGN:
            if header.startswith(head):
                raise RefusedError(sentence)
        raise RefusedError("the first PDU is not an A-ASSOCIATE-RQ")
    if not _LEAST_REQUEST_BYTES <= length <= MAX_REQUEST_BYTES:
        raise RefusedError(f"an A-ASSOCIATE-RQ of {length} bytes")
    return header + _exactly(sock, length, deadline_s)


def _exactly(sock: socket.socket, size: int, deadline_s: float) -> bytes:
    held = bytearray()
    while len(held) < size:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise PeerTooSlowError("the A-ASSOCIATE-RQ did not arrive in time")
        sock.settimeout(left_s)
        try:
            piece = sock.recv(size - len(held))
        except (TimeoutError, ssl.SSLWantReadError) as error:
            raise PeerTooSlowError("the A-ASSOCIATE-RQ did not arrive in time") from error
        if not piece:
            if not held:
                return b""
            raise RefusedError("the connection ended inside the A-ASSOCIATE-RQ")
        held += piece
    return bytes(held)
