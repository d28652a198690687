"""Associations that central asks for by pynetdicom: to whoever waits for a commitment report, and to an archive that
it imports from. (A C-MOVE's destination: `destination.py`.)

Only configured peers are ever called (`Peers.destination`); over TLS a peer shows a certificate in the name it is
called by.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_context

from central.dimse.errors import CallFailedError, CannotListenError
from central.dimse.settings import DimseSettings, PeerSettings
from central.dimse.tls import client_context
from central.dimse.transport import EndingStateMachine, GuardedSocket, Limits
from contract.part10 import IMPLEMENTATION_CLASS_UID

MAX_CONTEXTS: Final = 128  # their ids are odd numbers of one byte
_CONNECT_TIMEOUT_S: Final = 10.0
_PAUSE_TIMEOUT_S: Final = 5.0
_PAUSE_STEP_S: Final = 0.0005


@contextmanager
def called(
    settings: DimseSettings,
    peer: PeerSettings,
    contexts: Sequence[tuple[str, Sequence[str]]],
    *,
    as_scp_of: Sequence[str] = (),
) -> Iterator[Association]:
    """An association with `peer`, released when the block ends well and aborted when not.

    Parameters
    ----------
    contexts : abstract syntax and transfer syntaxes of each, at most `MAX_CONTEXTS`.
    as_scp_of : SOP classes that central is the SCP of on this association as well (PS3.7 Annex D.3.3.4).

    Raises
    ------
    CallFailedError : the peer is not there, or takes none of it.
    """
    ae = AE(settings.ae_title)
    ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    ae.implementation_version_name = "DICOMNET"
    ae.connection_timeout = ae.acse_timeout = _CONNECT_TIMEOUT_S
    ae.dimse_timeout = ae.network_timeout = settings.idle_timeout_s
    name = f"{peer.ae_title} at {peer.host} port {peer.port}"
    rejections: list[A_ASSOCIATE_RJ] = []

    def look(event: evt.Event) -> None:
        # pynetdicom forgets a rejection when the connection is closed before the thread that asks goes on.
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu)

    try:
        association = ae.associate(
            peer.host,
            peer.port,
            contexts=[_context(abstract, syntaxes) for abstract, syntaxes in contexts],
            ae_title=peer.ae_title,
            max_pdu=settings.max_pdu_bytes,
            ext_neg=[_role(uid) for uid in as_scp_of],
            tls_args=(client_context(settings.tls), peer.host) if peer.tls else None,
            evt_handlers=[(evt.EVT_PDU_RECV, look)],
        )
    except (CannotListenError, OSError, RuntimeError, ValueError) as error:
        raise CallFailedError(f"{name} cannot be called") from error
    if not association.is_established:
        why = "rejects the association" if rejections else "cannot be reached"
        raise CallFailedError(f"{name} {why}")
    try:
        _take_over(association, _limits(settings))
        yield association
    except BaseException:
        association.abort()
        _end(association)
        raise
    association.release()
    _end(association)


def _limits(settings: DimseSettings) -> Limits:
    return Limits(settings.max_pdu_bytes, 0, settings.stall_timeout_s, settings.min_rate_bytes_per_s)


def _end(association: Association) -> None:
    association.dul.join(_PAUSE_TIMEOUT_S)
    transport = association.dul.socket
    if isinstance(transport, GuardedSocket):
        transport.end()


def _take_over(association: Association, limits: Limits) -> None:
    """Stop pynetdicom's thread from answering, so that messages are ours to read; and put a guard on its socket."""
    association._reactor_checkpoint.clear()
    deadline_s = time.monotonic() + _PAUSE_TIMEOUT_S
    while not association._is_paused and time.monotonic() < deadline_s:
        time.sleep(_PAUSE_STEP_S)  # pynetdicom offers nothing to wait on
    EndingStateMachine.take_over(association.dul)
    transport = association.dul.socket
    if transport is not None and transport.socket is not None:
        with contextlib.suppress(OSError):
            transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            GuardedSocket.take_over(association, limits)


def _context(abstract_syntax: str, transfer_syntaxes: Sequence[str]) -> PresentationContext:
    return build_context(abstract_syntax, list(transfer_syntaxes))


def _role(sop_class_uid: str) -> SCP_SCU_RoleSelectionNegotiation:
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid = UID(sop_class_uid)
    role.scu_role, role.scp_role = False, True
    return role
