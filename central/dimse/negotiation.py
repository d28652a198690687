"""Which presentation contexts a peer gets: those of the services it may use, each in the best transfer syntax.

pynetdicom chooses by the acceptor's list, so the list is made for each request from what that request proposes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from central.dimse.association import Routes
from central.dimse.errors import RefusedError
from central.dimse.peers import Peer
from central.dimse.settings import Service

_SERVICE_SYNTAXES: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
NATIVE_SYNTAXES: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
_STORAGE_ROOT: Final = "1.2.840.10008.5.1.4.1.1."
_MEDIA_DIRECTORY: Final = "1.2.840.10008.1.3.10"  # a DICOMDIR is a file on a disc, not an object to send
_JPIP: Final = frozenset(
    f"1.2.840.10008.1.2.4.{last}" for last in (94, 95, 204, 205)
)  # pixels stay elsewhere


def read_request(request: bytes) -> A_ASSOCIATE:
    """A whole A-ASSOCIATE-RQ decoded. RefusedError if it cannot be."""
    try:
        pdu = A_ASSOCIATE_RQ()
        pdu.decode(request)
        asked = pdu.to_primitive()
    except (
        Exception
    ) as error:  # pynetdicom raises whatever its parsing runs into; all of it means one thing here
        raise RefusedError(f"the A-ASSOCIATE-RQ cannot be read ({type(error).__name__})") from error
    for context in asked.presentation_context_definition_list:
        if context.context_id is None or not context.abstract_syntax or not context.transfer_syntax:
            raise RefusedError("a presentation context is not complete")
    return asked


def is_storage(sop_class_uid: str) -> bool:
    """Whether a SOP class is, or may be, of instances in a study: known, retired, private and new ones."""
    service = uid_to_service_class(sop_class_uid)
    if service is StorageServiceClass:
        return True
    if service is not ServiceClass or sop_class_uid == _MEDIA_DIRECTORY:
        return False
    name = UID(sop_class_uid).name
    return name == sop_class_uid or sop_class_uid.startswith(_STORAGE_ROOT) or "Storage" in name


def contexts_for(asked: A_ASSOCIATE, peer: Peer, routes: Routes) -> list[PresentationContext]:
    """What this peer may have of what it asks for."""
    proposed: dict[str, dict[str, None]] = {}
    for context in asked.presentation_context_definition_list:
        syntaxes = proposed.setdefault(str(context.abstract_syntax), {})
        syntaxes.update(dict.fromkeys(map(str, context.transfer_syntax)))
    receives = {
        str(item.sop_class_uid)
        for item in asked.user_information
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation) and item.scp_role
    }
    contexts = []
    for sop_class, syntaxes in proposed.items():
        services = routes.services_of(sop_class)
        if services:
            if any(service is None or peer.may(service) for service in services):
                contexts.append(_context(sop_class, _SERVICE_SYNTAXES))
        elif is_storage(sop_class):
            gets = peer.may(Service.RETRIEVE) and sop_class in receives
            if gets or peer.may(Service.STORE):
                context = _context(sop_class, native_first(syntaxes) if gets else compressed_first(syntaxes))
                context.scu_role, context.scp_role = peer.may(Service.STORE), gets
                contexts.append(context)
    return contexts


def compressed_first(syntaxes: Iterable[str]) -> list[str]:
    """For what is sent to central: as the sender holds it. Explicit VR where JPEG was offered is ten times the size."""
    return sorted(_taken(syntaxes), key=lambda uid: (uid in NATIVE_SYNTAXES, uid != ExplicitVRLittleEndian))


def native_first(syntaxes: Iterable[str]) -> list[str]:
    """For what central sends by C-GET: everything that is archived can be put into Explicit VR Little Endian."""
    return sorted(
        _taken(syntaxes), key=lambda uid: (uid not in NATIVE_SYNTAXES, uid != ExplicitVRLittleEndian)
    )


def _taken(syntaxes: Iterable[str]) -> list[str]:
    return [uid for uid in syntaxes if uid not in _JPIP]


def _context(sop_class: str, syntaxes: Sequence[str]) -> PresentationContext:
    context = PresentationContext()
    context.abstract_syntax = UID(sop_class)
    context.transfer_syntax = list(map(UID, syntaxes))
    return context
