"""What a connection must pass before pynetdicom sees it: counts, a deadline by the wall, one bounded request.

Always true: a connection holds a place among all and among its address's; one that has not brought its whole
A-ASSOCIATE-RQ within the deadline is closed; the request has a length that a real one can have before it is read.
The box beside a scanner has a guard with other concerns (`edge.gateway.guard`: half-open scanners make room for each
other); the two programs share no code, and this is what central needs of it.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
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


class Guard:
    """Places for connections. Safe from any thread."""

    def __init__(self, max_connections: int, max_connections_per_address: int) -> None:
        self._max_connections = max_connections
        self._max_connections_per_address = max_connections_per_address
        self._lock = threading.Lock()
        self._by_address: Counter[str] = Counter()

    @contextmanager
    def place(self, address: str) -> Iterator[None]:
        """Hold a place for the time of the block.

        Raises
        ------
        RefusedError : there is none, or none for this address.
        """
        with self._lock:
            if self._by_address[address] >= self._max_connections_per_address:
                raise RefusedError(
                    "too many connections from this address (dicom.max_connections_per_address)"
                )
            if self._by_address.total() >= self._max_connections:
                raise RefusedError("too many connections (dicom.max_connections)")
            self._by_address[address] += 1
        try:
            yield
        finally:
            with self._lock:
                self._by_address[address] -= 1
                if not self._by_address[address]:
                    del self._by_address[address]


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
