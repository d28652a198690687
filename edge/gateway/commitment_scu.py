"""N-EVENT-REPORT, on any association with the scanner and on one of our own (PS3.4 Annex J.3.3)."""

from __future__ import annotations

from collections.abc import Callable

from edge.buffer.commitments import Asker
from edge.gateway.addresses import Address
from edge.gateway.calling import CallFailedError, OutgoingAssociation
from edge.gateway.command_set import CommandField, Element, us
from edge.gateway.commitment_messages import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from edge.gateway.errors import GatewayError, TransientGatewayError
from edge.gateway.negotiation import Context
from edge.gateway.service import Call
from edge.gateway.sop_classes import SERVICE_TRANSFER_SYNTAXES

_ANSWER_TIMEOUT_S = 15.0


class NotToldError(TransientGatewayError):
    """The scanner did not take the report. The text says why, for a technician."""


def event_report(context_id: int, event_type: int, event_information: bytes) -> Call:
    """The request. `event_information` is in the context's transfer syntax."""
    elements = {
        int(Element.AFFECTED_SOP_CLASS_UID): STORAGE_COMMITMENT.encode(),
        int(Element.AFFECTED_SOP_INSTANCE_UID): STORAGE_COMMITMENT_INSTANCE.encode(),
        int(Element.EVENT_TYPE_ID): us(event_type),
    }
    return Call(context_id, CommandField.N_EVENT_REPORT_RQ, elements, [event_information])


def report_anew(address: Address, asker: Asker, event_type: int, encode: Callable[[str], bytes]) -> None:
    """Tell the scanner at `address`. We call under the AE title it had called, and are SCP by role selection.

    Parameters
    ----------
    encode : the Event Information in a transfer syntax.

    Raises
    ------
    NotToldError
    """
    where = f"{asker.calling_ae_title} at {address.host} port {address.port}"
    try:
        association = OutgoingAssociation.connect(
            address,
            called_ae_title=asker.calling_ae_title,
            calling_ae_title=asker.called_ae_title,
            contexts=[Context(STORAGE_COMMITMENT, syntax) for syntax in SERVICE_TRANSFER_SYNTAXES],
            reports=(STORAGE_COMMITMENT,),
            timeout_s=_ANSWER_TIMEOUT_S,
        )
    except CallFailedError as error:
        raise NotToldError(str(error)) from error
    try:
        with association:
            status = _tell(association, where, event_type, encode)
    except NotToldError:
        raise
    except GatewayError as error:
        raise NotToldError(f"{where} did not answer the report") from error
    if status != 0x0000:
        raise NotToldError(f"{where} answered with status 0x{status:04X}")


def _tell(
    association: OutgoingAssociation, where: str, event_type: int, encode: Callable[[str], bytes]
) -> int:
    """The status it is answered with."""
    contexts = association.peer.contexts
    if not contexts:
        raise NotToldError(f"{where} does not take storage commitment reports")
    context_id, context = next(iter(contexts.items()))
    call = event_report(context_id, event_type, encode(context.transfer_syntax_uid))
    return association.peer.call(call, timeout_s=_ANSWER_TIMEOUT_S).status
