"""From an A-ASSOCIATE-RQ to what was agreed: pynetdicom reads and writes the PDUs, the choices are made here.

Nothing here touches a socket; the result is a value, or a `RejectedError` that carries the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from contract.identifiers import InvalidIdentifierError, check_ae_title
from edge.gateway.errors import ProtocolError, RejectedError
from edge.gateway.part10 import IMPLEMENTATION_CLASS_UID
from edge.gateway.settings import GatewaySettings
from edge.gateway.sop_classes import is_accepted, prefer

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_IMPLEMENTATION_VERSION_NAME = "DICOMNET"
_LEAST_PEER_PDU_BYTES = 64  # below it even an answer cannot be cut sensibly
_CALLED_AT, _CALLING_AT, _AE_BYTES = 10, 26, 16  # offsets in the PDU, header included (PS3.8 Table 9-11)

# PS3.8 Table 9-21: result, source, reason
_VERSION_NOT_SUPPORTED = (1, 2, 2)
_APPLICATION_CONTEXT_NOT_SUPPORTED = (1, 1, 2)
_CALLING_AE_TITLE_NOT_RECOGNIZED = (1, 1, 3)
_CALLED_AE_TITLE_NOT_RECOGNIZED = (1, 1, 7)
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)


class Context(NamedTuple):
    """An accepted presentation context."""

    abstract_syntax_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Agreed:
    """What both sides hold to from here on.

    Attributes
    ----------
    contexts : accepted presentation contexts by id.
    peer_max_pdu_bytes : largest PDU the peer takes; 0 is no limit.
    answer : the A-ASSOCIATE-AC, encoded.
    """

    calling_ae_title: str
    called_ae_title: str
    contexts: Mapping[int, Context]
    peer_max_pdu_bytes: int
    answer: bytes


def negotiate(request: bytes, settings: GatewaySettings) -> Agreed:
    """Read a whole A-ASSOCIATE-RQ and decide (PS3.8 section 7.1, PS3.7 Annex D).

    Raises
    ------
    RejectedError : to be answered with an A-ASSOCIATE-RJ.
    ProtocolError : the request cannot be read; to be answered with an A-ABORT.
    """
    calling, called = _ae_titles(request)
    asked = _decode(request)
    version = int.from_bytes(request[6:8], "big")
    if not version & 1:
        raise RejectedError("unknown protocol version", _VERSION_NOT_SUPPORTED, calling_ae_title=calling)
    if asked.application_context_name != _APPLICATION_CONTEXT:
        raise RejectedError(
            "not the DICOM application context", _APPLICATION_CONTEXT_NOT_SUPPORTED, calling_ae_title=calling
        )
    if settings.require_called_ae_title and called != settings.ae_title:
        raise RejectedError(
            f"called {called}, but this box is {settings.ae_title}",
            _CALLED_AE_TITLE_NOT_RECOGNIZED,
            calling_ae_title=calling,
        )
    peer_max_pdu_bytes = asked.maximum_length_received or 0
    if 0 < peer_max_pdu_bytes < _LEAST_PEER_PDU_BYTES:
        raise ProtocolError(f"the peer takes PDUs of at most {peer_max_pdu_bytes} bytes")
    results, roles = _answer_contexts(asked)
    return Agreed(
        calling_ae_title=calling,
        called_ae_title=called,
        contexts={
            result.context_id: Context(str(result.abstract_syntax), str(result.transfer_syntax[0]))
            for result in results
            if result.result == 0 and result.context_id is not None
        },
        peer_max_pdu_bytes=peer_max_pdu_bytes,
        answer=_encode_answer(asked, results, roles, settings.max_pdu_bytes),
    )


def _ae_titles(request: bytes) -> tuple[str, str]:
    """Calling and called AE title, checked before pynetdicom sees them, so that a bad one is refused by name."""
    calling = request[_CALLING_AT : _CALLING_AT + _AE_BYTES].decode("latin-1").strip(" \0")
    called = request[_CALLED_AT : _CALLED_AT + _AE_BYTES].decode("latin-1").strip(" \0")
    try:
        calling = check_ae_title(calling, "calling AE title")
    except InvalidIdentifierError as error:
        raise RejectedError(str(error), _CALLING_AE_TITLE_NOT_RECOGNIZED) from error
    try:
        return calling, check_ae_title(called, "called AE title")
    except InvalidIdentifierError as error:
        raise RejectedError(str(error), _CALLED_AE_TITLE_NOT_RECOGNIZED, calling_ae_title=calling) from error


def _decode(request: bytes) -> A_ASSOCIATE:
    try:
        pdu = A_ASSOCIATE_RQ()
        pdu.decode(request)
        asked = pdu.to_primitive()
    except Exception as error:
        # pynetdicom raises whatever its parsing runs into; all of it means one thing here.
        raise ProtocolError(f"the A-ASSOCIATE-RQ cannot be read ({type(error).__name__})") from error
    for context in asked.presentation_context_definition_list:
        if context.context_id is None or not context.abstract_syntax or not context.transfer_syntax:
            raise ProtocolError("a presentation context is not complete")
    return asked


def _answer_contexts(
    asked: A_ASSOCIATE,
) -> tuple[list[PresentationContext], list[SCP_SCU_RoleSelectionNegotiation]]:
    """One context at a time, because the order of preference depends on what that context proposes."""
    wanted_roles = {
        item.sop_class_uid: (item.scu_role, item.scp_role)
        for item in asked.user_information
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation) and item.sop_class_uid is not None
    }
    results: list[PresentationContext] = []
    roles: dict[str, SCP_SCU_RoleSelectionNegotiation] = {}
    for proposed in asked.presentation_context_definition_list:
        supported: list[PresentationContext] = []
        if proposed.abstract_syntax is not None and is_accepted(proposed.abstract_syntax):
            ours = PresentationContext()
            ours.abstract_syntax = proposed.abstract_syntax
            ours.transfer_syntax = prefer(proposed.transfer_syntax)  # type: ignore[assignment]  # takes str too
            # The peer may be SCU of what we take in; we never send on its association.
            ours.scu_role, ours.scp_role = True, False
            supported.append(ours)
        result, answered_roles = negotiate_as_acceptor([proposed], supported, wanted_roles)
        results += result
        roles |= {str(role.sop_class_uid): role for role in answered_roles}
    return results, list(roles.values())


def _encode_answer(
    asked: A_ASSOCIATE,
    results: list[PresentationContext],
    roles: list[SCP_SCU_RoleSelectionNegotiation],
    max_pdu_bytes: int,
) -> bytes:
    answer = A_ASSOCIATE()
    answer.application_context_name = asked.application_context_name
    answer.calling_ae_title = asked.calling_ae_title
    answer.called_ae_title = asked.called_ae_title
    answer.result = 0x00
    answer.result_source = 0x01
    answer.presentation_context_definition_results_list = results
    maximum_length = MaximumLengthNotification()
    maximum_length.maximum_length_received = max_pdu_bytes
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = _IMPLEMENTATION_VERSION_NAME
    answer.user_information = [maximum_length, implementation, version, *roles]
    return A_ASSOCIATE_AC(answer).encode()
