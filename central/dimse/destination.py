"""An association to a C-MOVE's destination, from A-ASSOCIATE to A-RELEASE by our own hand (PS3.8 sections 9.2 and 9.3).

Why it exists: pynetdicom takes a thread, a queue and a few clocks for each step of it, which is longer than ten images
take. Nothing runs on such an association but C-STORE, so the thread that serves the C-MOVE asks, sends and reads by
itself, one step after the other, and no state of the upper layer is kept but where in this module it is.

Always true: only configured destinations are called; over TLS the destination shows a certificate in the name it is
called by; each wait has a bound; what the other side sends is bounded before it is held.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from central.dimse.associate import (
    ABSTRACT_SYNTAX,
    ANSWERED_CONTEXT,
    APPLICATION_CONTEXT,
    APPLICATION_CONTEXT_NAME,
    ITEMS_AT,
    MAXIMUM_LENGTH,
    PDU_HEAD,
    PRESENTATION_CONTEXT,
    PROTOCOL_VERSION,
    TRANSFER_SYNTAX,
    USER_INFORMATION,
    item,
    items_of,
    of_ourselves,
    read_uid,
)
from central.dimse.errors import CallFailedError, CannotListenError
from central.dimse.lane import Lane
from central.dimse.settings import DimseSettings, PeerSettings
from central.dimse.tls import client_context
from central.dimse.transport import LEAST_PDU_BYTES, Limits, fill

Taken = Mapping[str, Mapping[str, int]]
"""SOP class → transfer syntax → id of the presentation context that was accepted for both."""

_CONNECT_TIMEOUT_S: Final = 10.0  # also for each answer of the upper layer
_A_ASSOCIATE_RQ, _A_ASSOCIATE_AC, _A_ASSOCIATE_RJ = 0x01, 0x02, 0x03
_A_RELEASE_RQ: Final = struct.pack(">BxL4x", 0x05, 4)
_A_RELEASE_RP: Final = struct.pack(">BxL4x", 0x06, 4)
_A_ABORT: Final = struct.pack(">BxL4x", 0x07, 4)  # by the service user (PS3.8 Table 9-26)
_P_DATA_TF: Final = 0x04
_MAX_PDUS_TO_RELEASE: Final = 8  # what may still come before the answer to an A-RELEASE-RQ


class _Wire:
    """A connection that nobody else reads, as a `Lane` wants it."""

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        self._sock = sock
        self._limits = limits
        self._come_in = select.poll()
        self._come_in.register(sock, select.POLLIN)

    def send_all(self, data: bytes) -> None:
        """The timeout is for each step of it; sendall()'s is for all, and who is slow is not gone."""
        left = memoryview(data)
        while left:
            left = left[self._sock.send(left) :]

    def has_data(self, timeout_s: float) -> bool:
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return True
        return bool(self._come_in.poll(timeout_s * 1000))

    def recv(self, nr_bytes: int) -> bytearray:
        if nr_bytes > max(self._limits.max_pdu_bytes, LEAST_PDU_BYTES):
            raise OSError("a longer PDU than was agreed")
        out = bytearray(nr_bytes)
        return out[: fill(self._sock, out, 0, self._limits)]

    def put_back(self, data: bytes | bytearray) -> None:
        """What is neither an answer nor ours ends this association: nobody reads it again."""

    def pdu(self) -> tuple[int, bytearray]:
        """The next PDU's type and body. OSError : none came."""
        if self.has_data(_CONNECT_TIMEOUT_S):
            head = self.recv(PDU_HEAD.size)
            if len(head) == PDU_HEAD.size:
                kind, length = PDU_HEAD.unpack(head)
                body = self.recv(length)
                if len(body) == length:
                    return kind, body
        raise OSError("the connection ended, or its other side is silent")


@contextmanager
def destination_called(
    settings: DimseSettings, peer: PeerSettings, contexts: Sequence[tuple[str, Sequence[str]]]
) -> Iterator[tuple[Lane, Taken]]:
    """An association with `peer`, released when the block ends well and aborted when not.

    Parameters
    ----------
    contexts : abstract syntax and transfer syntaxes of each, at most 128.

    Raises
    ------
    CallFailedError : the peer is not there, or takes none of it.
    """
    name = f"{peer.ae_title} at {peer.host} port {peer.port}"
    limits = Limits(settings.max_pdu_bytes, 0, settings.stall_timeout_s, settings.min_rate_bytes_per_s)
    try:
        sock = _connected(settings, peer)
    except (CannotListenError, OSError, ValueError) as error:
        raise CallFailedError(f"{name} cannot be called") from error
    with sock:
        wire = _Wire(sock, limits)
        try:
            max_pdu_bytes, taken = _asked(wire, settings, peer, contexts, name)
            sock.settimeout(settings.idle_timeout_s)
            yield Lane(wire, max_pdu_bytes, settings.idle_timeout_s), taken
        except BaseException:
            _abort(sock)
            raise
        sock.settimeout(_CONNECT_TIMEOUT_S)
        with contextlib.suppress(OSError):  # all of it has been answered
            _release(wire)


def _asked(
    wire: _Wire,
    settings: DimseSettings,
    peer: PeerSettings,
    contexts: Sequence[tuple[str, Sequence[str]]],
    name: str,
) -> tuple[int, Taken]:
    """What an A-ASSOCIATE-RQ is answered with, as `read_associate_ac` reads it."""
    try:
        wire.send_all(associate_rq(settings, peer.ae_title, contexts))
        kind, body = wire.pdu()
        if kind != _A_ASSOCIATE_AC:
            does = (
                "rejects the association" if kind == _A_ASSOCIATE_RJ else "answers a call with something else"
            )
            raise CallFailedError(f"{name} {does}")
        max_pdu_bytes, taken = read_associate_ac(bytes(body), contexts)
    except (OSError, ValueError, struct.error) as error:
        raise CallFailedError(f"{name} cannot be reached") from error
    if not taken:
        raise CallFailedError(f"{name} takes none of what there is to send")
    return max_pdu_bytes, taken


def _connected(settings: DimseSettings, peer: PeerSettings) -> socket.socket:
    sock = socket.create_connection((peer.host, peer.port), _CONNECT_TIMEOUT_S)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if peer.tls:
            return client_context(settings.tls).wrap_socket(sock, server_hostname=peer.host)
    except BaseException:
        sock.close()
        raise
    return sock


def _abort(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.settimeout(0)  # there is no room for it where the other side does not read
        sock.send(_A_ABORT)


def _release(wire: _Wire) -> None:
    """Release in order, also where both sides do it at once (PS3.8 section 7.2.2.7)."""
    wire.send_all(_A_RELEASE_RQ)
    for _ in range(_MAX_PDUS_TO_RELEASE):
        kind, _ = wire.pdu()
        if kind == _A_RELEASE_RQ[0]:
            wire.send_all(_A_RELEASE_RP)
        elif kind != _P_DATA_TF:
            return


def associate_rq(
    settings: DimseSettings, called_ae_title: str, contexts: Sequence[tuple[str, Sequence[str]]]
) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 Table 9-11); the contexts' ids are 1, 3, 5 and so on."""
    body = struct.pack(
        ">H2x16s16s32x",
        PROTOCOL_VERSION,
        called_ae_title.encode("ascii").ljust(16),
        settings.ae_title.encode("ascii").ljust(16),
    )
    body += item(APPLICATION_CONTEXT, APPLICATION_CONTEXT_NAME)
    for number, (abstract_syntax, transfer_syntaxes) in enumerate(contexts):
        named = item(ABSTRACT_SYNTAX, abstract_syntax.encode("ascii"))
        for syntax in transfer_syntaxes:
            named += item(TRANSFER_SYNTAX, syntax.encode("ascii"))
        body += item(PRESENTATION_CONTEXT, struct.pack(">B3x", 2 * number + 1) + named)
    body += item(USER_INFORMATION, of_ourselves(settings.max_pdu_bytes))
    return PDU_HEAD.pack(_A_ASSOCIATE_RQ, len(body)) + body


def read_associate_ac(
    body: bytes, contexts: Sequence[tuple[str, Sequence[str]]]
) -> tuple[int, dict[str, dict[str, int]]]:
    """The largest PDU that the other side takes (0: any), and what it takes of the `contexts` that were proposed.

    Raises
    ------
    ValueError, struct.error : it cannot be read.
    """
    max_pdu_bytes, taken = 0, dict[str, dict[str, int]]()
    for kind, value in items_of(body[ITEMS_AT - PDU_HEAD.size :]):
        if kind == ANSWERED_CONTEXT:
            context_id, result = struct.unpack_from(">BxB", value)
            if result or not context_id % 2 or context_id // 2 >= len(contexts):
                continue
            abstract_syntax, proposed = contexts[context_id // 2]
            for sub_kind, raw in items_of(value[4:]):
                syntax = str(read_uid(raw)) if sub_kind == TRANSFER_SYNTAX else ""
                if syntax in proposed:
                    taken.setdefault(abstract_syntax, {}).setdefault(syntax, context_id)
        elif kind == USER_INFORMATION:
            for sub_kind, raw in items_of(value):
                if sub_kind == MAXIMUM_LENGTH:
                    (max_pdu_bytes,) = struct.unpack(">L", raw)
    return max_pdu_bytes, taken
