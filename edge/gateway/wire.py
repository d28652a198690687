"""PDUs onto an association's socket."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Final

from edge.gateway.errors import PeerGoneError

_LINGER_S: Final = 1.0  # for the peer to close first, so that a reset does not overtake our last answer


def send(sock: socket.socket, data: bytes, timeout_s: float) -> None:
    """All of it, or `PeerGoneError`."""
    sock.settimeout(timeout_s)
    try:
        sock.sendall(data)
    except OSError as error:
        raise PeerGoneError("the peer did not take the answer") from error


def send_last(sock: socket.socket, data: bytes) -> None:
    """Send a final PDU and give the peer a moment to close first (the ARTIM timer of PS3.8 section 9.1.5)."""
    with contextlib.suppress(OSError):
        sock.settimeout(_LINGER_S)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        deadline_s = time.monotonic() + _LINGER_S
        while sock.recv(65_536) and time.monotonic() < deadline_s:
            pass
