"""Asking for an association with pynetdicom, under limits, and knowing whether the other side refused it.

pynetdicom forgets a refusal when the connection is closed again before the thread that asked goes on: that thread finds
no connection, and calls the association aborted. Somebody would then be told to look at a cable that is well.

It also reads a PDU of any length into memory, and any number of them. Always true: what the other side sends beyond
what was asked for ends the association.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.transport import AssociationSocket

from edge.gateway.addresses import Address
from edge.gateway.tls import TlsRefusedError

_MAX_PDU_BYTES: Final = 1 << 20  # we announce 16 KiB, and some send more than they may
_MAX_RECEIVED_BYTES: Final = 1 << 20  # an answer without a data set has some hundred


def associate(
    ae: AE,
    address: Address,
    called_ae_title: str,
    *,
    handlers: Sequence[evt.EventHandlerType] = (),
    max_received_bytes: int = _MAX_RECEIVED_BYTES,
) -> tuple[Association, bool]:
    """The association, established or not, and whether an A-ASSOCIATE-RJ came (PS3.8 9.3.4).

    Parameters
    ----------
    max_received_bytes : over the whole association; what is beyond ends it as if the line had broken.

    Raises
    ------
    TlsRefusedError : nothing was said in the clear.
    """
    refused = False
    refused_tls: TlsRefusedError | None = None

    def look(event: evt.Event) -> None:
        nonlocal refused
        refused = refused or isinstance(event.pdu, A_ASSOCIATE_RJ)

    def prepare(event: evt.Event) -> None:
        """The other side is there, and nothing was sent: pynetdicom goes on behind this, in the same thread."""
        nonlocal refused_tls
        link = event.assoc.dul.socket
        if link is not None:
            try:
                _secure(link, address, ae.connection_timeout)
            except TlsRefusedError as error:
                refused_tls = error
            bounded = _Bounded(link.recv, max_received_bytes)
            link.recv = bounded  # type: ignore[method-assign,assignment]  # there is no other place for a limit

    association = ae.associate(
        address.host,
        address.port,
        ae_title=called_ae_title,
        evt_handlers=[*handlers, (evt.EVT_CONN_OPEN, prepare), (evt.EVT_PDU_RECV, look)],
    )
    if refused_tls is not None:
        raise refused_tls
    return association, refused


def _secure(link: AssociationSocket, address: Address, timeout_s: float | None) -> None:
    """Put TLS around a connection. Where none comes about the socket is closed, so that nothing leaves in the clear."""
    if address.tls is None or link.socket is None:
        return
    plain = link.socket
    try:
        plain.settimeout(timeout_s)
        link.socket = address.tls.wrap(plain)
        link.socket.settimeout(None)
    except BaseException as error:
        plain.close()
        if isinstance(error, OSError):
            raise TlsRefusedError(
                "the connection broke in the TLS handshake: is this its TLS port?"
            ) from error
        raise


class _Bounded:
    """pynetdicom's `recv`, which is asked for a header, then for a whole PDU; an OSError ends the association."""

    def __init__(self, recv: Callable[[int], bytearray], max_bytes: int) -> None:
        self._recv = recv
        self._left_bytes = max_bytes

    def __call__(self, size: int) -> bytearray:
        self._left_bytes -= size
        if size > _MAX_PDU_BYTES or self._left_bytes < 0:
            raise ConnectionAbortedError("the other side sends more than it was asked for")
        return self._recv(size)
