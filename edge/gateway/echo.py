"""C-ECHO to a scanner or any other AE: is it there, and does it speak DICOM with us? (PS3.4 Annex A)"""

from __future__ import annotations

import time
from dataclasses import dataclass

from edge.gateway.addresses import Address
from edge.gateway.calling import CallFailedError, OutgoingAssociation
from edge.gateway.command_set import CommandField, Element
from edge.gateway.errors import GatewayError
from edge.gateway.negotiation import Context
from edge.gateway.service import Call
from edge.gateway.sop_classes import IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION


@dataclass(frozen=True)
class EchoResult:
    """Outcome of a C-ECHO.

    Attributes
    ----------
    round_trip_ms : from the request to its response, association set-up not counted; None unless it answered.
    detail : a sentence for a person that says what to do when it is not well.
    """

    ok: bool
    round_trip_ms: float | None
    detail: str


def echo(
    address: Address, called_ae_title: str, calling_ae_title: str, timeout_s: float = 10.0
) -> EchoResult:
    """Ask `called_ae_title` at `address` for a C-ECHO. Never raises for what the other side does.

    Parameters
    ----------
    timeout_s : for connecting, for the association and for the answer, each.
    """
    try:
        association = OutgoingAssociation.connect(
            address,
            called_ae_title=called_ae_title,
            calling_ae_title=calling_ae_title,
            contexts=[Context(VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN)],
            timeout_s=timeout_s,
        )
    except CallFailedError as error:
        return EchoResult(False, None, str(error))
    try:
        with association:
            if not association.peer.contexts:
                return EchoResult(False, None, f"{called_ae_title} does not offer the Verification service")
            (context_id,) = association.peer.contexts
            asked = Call(
                context_id, CommandField.C_ECHO_RQ, {Element.AFFECTED_SOP_CLASS_UID: VERIFICATION.encode()}
            )
            began_s = time.perf_counter()
            status = association.peer.call(asked, timeout_s=timeout_s).status
            round_trip_ms = (time.perf_counter() - began_s) * 1000
    except GatewayError:
        return EchoResult(False, None, f"{called_ae_title} accepted the association but did not answer")
    if status != 0x0000:
        return EchoResult(False, round_trip_ms, f"{called_ae_title} answered with status 0x{status:04X}")
    return EchoResult(True, round_trip_ms, f"{called_ae_title} answered")
