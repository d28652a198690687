"""From an A-ASSOCIATE-RQ to what was agreed: pynetdicom reads and writes the PDUs, the choices are made here.

Nothing here touches a socket; the result is a value, or a `RejectedError` that carries the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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

from contract.identifiers import InvalidIdentifierError, check_ae_title, is_uid
from contract.part10 import IMPLEMENTATION_CLASS_UID
from edge.gateway.association_items import decodable
from edge.gateway.errors import ProtocolError, RejectedError
from edge.gateway.quirks import NO_QUIRKS, Quirks
from edge.gateway.settings import GatewaySettings
from edge.gateway.sop_classes import (
    C_GET,
    QUERY_RETRIEVE,
    SERVICE_TRANSFER_SYNTAXES,
    VERIFICATION,
    is_accepted,
    prefer,
)

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_IMPLEMENTATION_VERSION_NAME = "DICOMNET"
_LEAST_PEER_PDU_BYTES = 64  # below it even an answer cannot be cut sensibly
_CALLED_AT, _CALLING_AT, _AE_BYTES = 10, 26, 16  # offsets in the PDU, header included (PS3.8 Table 9-11)

# PS3.8 Table 9-21: result, source, reason
_VERSION_NOT_SUPPORTED = (1, 2, 2)
_APPLICATION_CONTEXT_NOT_SUPPORTED = (1, 1, 2)
CALLING_AE_TITLE_NOT_RECOGNIZED = (1, 1, 3)
CALLED_AE_TITLE_NOT_RECOGNIZED = (1, 1, 7)
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
    peer_performs : SOP classes for which the peer is SCP as well (role selection, PS3.7 Annex D.3.3.4).
    answer : the A-ASSOCIATE-AC, encoded.
    quirks : what is done otherwise for this peer.
    may_send : whether what it sends is taken in.
    """

    calling_ae_title: str
    called_ae_title: str
    contexts: Mapping[int, Context]
    peer_max_pdu_bytes: int
    peer_performs: frozenset[str]
    answer: bytes
    quirks: Quirks = NO_QUIRKS
    may_send: bool = True


class Asking(NamedTuple):
    """Who asks for an association, by its own word."""

    calling_ae_title: str
    called_ae_title: str
    implementation_class_uid: str
    implementation_version_name: str


class Admitted(NamedTuple):
    """How a peer that may come in is treated.

    Attributes
    ----------
    may_send : it gets every service; else it may ask for what is here, by query and retrieve, and nothing more.
    """

    quirks: Quirks
    may_send: bool = True


Admit = Callable[[Asking], Admitted]
"""Lets a peer in, and says how to treat it; RejectedError if it may not come in."""


def negotiate(
    request: bytes, settings: GatewaySettings, service_syntaxes: Collection[str] = (), *, admit: Admit
) -> Agreed:
    """Read a whole A-ASSOCIATE-RQ and decide (PS3.8 section 7.1, PS3.7 Annex D).

    Parameters
    ----------
    service_syntaxes : abstract syntaxes of the installed services, accepted beside storage and Verification.

    Raises
    ------
    RejectedError : to be answered with an A-ASSOCIATE-RJ.
    ProtocolError : the request cannot be read; to be answered with an A-ABORT.
    """
    calling, called = ae_titles(request)
    asked = _decode(decodable(request, called_ae_title=called, calling_ae_title=calling))
    version = int.from_bytes(request[6:8], "big")
    if not version & 1:
        raise RejectedError("unknown protocol version", _VERSION_NOT_SUPPORTED, calling_ae_title=calling)
    if asked.application_context_name != _APPLICATION_CONTEXT:
        raise RejectedError(
            "not the DICOM application context", _APPLICATION_CONTEXT_NOT_SUPPORTED, calling_ae_title=calling
        )
    quirks, may_send = admit(Asking(calling, called, *_implementation(asked)))
    peer_max_pdu_bytes = asked.maximum_length_received or 0
    if 0 < peer_max_pdu_bytes < _LEAST_PEER_PDU_BYTES:
        raise ProtocolError(f"the peer takes PDUs of at most {peer_max_pdu_bytes} bytes")
    if not may_send:
        service_syntaxes = QUERY_RETRIEVE.intersection(service_syntaxes)
    results, roles = _answer_contexts(asked, service_syntaxes, quirks, may_send=may_send)
    if quirks.omit_role_selection_answer:
        roles = []
    return Agreed(
        calling_ae_title=calling,
        called_ae_title=called,
        contexts={
            result.context_id: Context(str(result.abstract_syntax), str(result.transfer_syntax[0]))
            for result in results
            if result.result == 0 and result.context_id is not None
        },
        peer_max_pdu_bytes=peer_max_pdu_bytes,
        peer_performs=frozenset(str(role.sop_class_uid) for role in roles if role.scp_role),
        answer=_encode_answer(
            asked,
            results,
            roles,
            min(settings.max_pdu_bytes, quirks.max_pdu_bytes or settings.max_pdu_bytes),
        ),
        quirks=quirks,
        may_send=may_send,
    )


def ae_titles(request: bytes) -> tuple[str, str]:
    """Calling and called AE title, checked before pynetdicom sees them, so that a bad one is refused by name."""
    calling = request[_CALLING_AT : _CALLING_AT + _AE_BYTES].decode("latin-1").strip(" \0")
    called = request[_CALLED_AT : _CALLED_AT + _AE_BYTES].decode("latin-1").strip(" \0")
    try:
        calling = check_ae_title(calling, "calling AE title")
    except InvalidIdentifierError as error:
        raise RejectedError(str(error), CALLING_AE_TITLE_NOT_RECOGNIZED) from error
    try:
        return calling, check_ae_title(called, "called AE title")
    except InvalidIdentifierError as error:
        raise RejectedError(str(error), CALLED_AE_TITLE_NOT_RECOGNIZED, calling_ae_title=calling) from error


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
    asked: A_ASSOCIATE, service_syntaxes: Collection[str], quirks: Quirks, *, may_send: bool
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
        syntax = proposed.abstract_syntax
        is_service = syntax in service_syntaxes
        # Who only asks may be SCU of services and C-ECHO; of storage it may be the SCP that a C-GET sends to.
        may_be_scu = may_send or is_service or syntax == VERIFICATION
        may_be_scp = syntax is not None and bool(wanted_roles.get(syntax, (None, None))[1])
        takes = is_service or (syntax is not None and is_uid(syntax) and is_accepted(syntax))
        if takes and (may_be_scu or may_be_scp):
            ours = PresentationContext()
            ours.abstract_syntax = syntax
            wanted = (
                list(SERVICE_TRANSFER_SYNTAXES)
                if is_service
                else _ordered(proposed.transfer_syntax, quirks.preferred_transfer_syntaxes)
            )
            ours.transfer_syntax = wanted  # type: ignore[assignment]  # takes str too
            ours.scu_role = may_be_scu
            ours.scp_role = not is_service and not C_GET.isdisjoint(service_syntaxes)
            supported.append(ours)
        result, answered_roles = negotiate_as_acceptor([proposed], supported, wanted_roles)
        results += result
        roles |= {str(role.sop_class_uid): role for role in answered_roles}
    return results, list(roles.values())


def _ordered(proposed: Sequence[str], preferred: Sequence[str]) -> list[str]:
    """What is proposed in the order this box wants it; a profile's preference goes first.

    What is no UID is left out: it would stand in File Meta Information, and in headers of central's.
    """
    first = [uid for uid in preferred if uid in proposed]
    return first + [uid for uid in prefer(proposed) if uid not in first and is_uid(uid)]


def _implementation(asked: A_ASSOCIATE) -> tuple[str, str]:
    """Implementation Class UID and Version Name, each empty where it is missing (PS3.7 Annex D.3.3.2)."""
    class_uid = version_name = ""
    for item in asked.user_information:
        if isinstance(item, ImplementationClassUIDNotification):
            class_uid = str(item.implementation_class_uid or "")
        elif isinstance(item, ImplementationVersionNameNotification):
            version_name = str(item.implementation_version_name or "").strip()
    return class_uid, version_name


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
