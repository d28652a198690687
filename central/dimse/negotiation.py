"""Which presentation contexts a peer gets: those of the services it may use, each in the best transfer syntax.

pynetdicom chooses by the acceptor's list, so the list is made for each request from what that request proposes. Who
retrieves proposes a hundred contexts and more, each with several transfer syntaxes: they are read here, and once, for
pynetdicom takes as long over them as over twenty images. The same goes for the roles that it selects.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
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

ITEMS_AT: Final = 74  # in an A-ASSOCIATE-RQ with its header
ITEM_HEAD: Final = struct.Struct(">BxH")
PRESENTATION_CONTEXT: Final = 0x20
_LENGTH: Final = struct.Struct(">H")
ABSTRACT_SYNTAX: Final = 0x30
TRANSFER_SYNTAX: Final = 0x40
USER_INFORMATION: Final = 0x50
_ROLE_SELECTION: Final = 0x54
_UID_CHARACTERS: Final = 64
_SERVICE_SYNTAXES: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
NATIVE_SYNTAXES: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
_STORAGE_ROOT: Final = "1.2.840.10008.5.1.4.1.1."
_MEDIA_DIRECTORY: Final = "1.2.840.10008.1.3.10"  # a DICOMDIR is a file on a disc, not an object to send
_JPIP: Final = frozenset(
    f"1.2.840.10008.1.2.4.{last}" for last in (94, 95, 204, 205)
)  # pixels stay elsewhere


class AssociateRequest(A_ASSOCIATE_RQ):
    """A whole A-ASSOCIATE-RQ PDU (PS3.8 Table 9-11) that was decoded once, into `asked`.

    Raises
    ------
    RefusedError : it cannot be decoded.
    """

    def __init__(self, request: bytes) -> None:
        super().__init__()
        try:
            contexts, others = list[PresentationContext](), request[:ITEMS_AT]
            roles = list[SCP_SCU_RoleSelectionNegotiation]()
            for kind, item in items_of(request[ITEMS_AT:]):
                if kind == PRESENTATION_CONTEXT:
                    contexts.append(_read_context(item[ITEM_HEAD.size :]))
                elif kind == USER_INFORMATION:
                    of_others, selected = _read_user_information(item[ITEM_HEAD.size :])
                    roles += selected
                    others += ITEM_HEAD.pack(USER_INFORMATION, len(of_others)) + of_others
                else:
                    others += item
            self.decode(others)
            self.asked: A_ASSOCIATE = super().to_primitive()
            self.asked.presentation_context_definition_list = contexts
            self.asked.user_information.extend(roles)
        except (
            Exception
        ) as error:  # pynetdicom raises whatever its parsing runs into; all of it means one thing here
            raise RefusedError(f"the A-ASSOCIATE-RQ cannot be read ({type(error).__name__})") from error
        if not all(context.abstract_syntax and context.transfer_syntax for context in contexts):
            raise RefusedError("a presentation context is not complete")

    def to_primitive(self) -> A_ASSOCIATE:
        return self.asked


def items_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type of each item or sub-item, and all of its bytes. ValueError for one that is cut short."""
    at = 0
    while at < len(data):
        kind, length = ITEM_HEAD.unpack_from(data, at)
        end = at + ITEM_HEAD.size + length
        if end > len(data):
            raise ValueError("an item that is cut short")
        yield kind, data[at:end]
        at = end


def _read_context(body: bytes) -> PresentationContext:
    """A Presentation Context Item (PS3.8 Table 9-13), from its id on."""
    abstract, transfer = list[UID](), list[UID]()
    for kind, item in items_of(body[4:]):
        if kind in (ABSTRACT_SYNTAX, TRANSFER_SYNTAX):
            (abstract if kind == ABSTRACT_SYNTAX else transfer).append(read_uid(item[ITEM_HEAD.size :]))
    if len(abstract) != 1:
        raise ValueError("a presentation context has one abstract syntax")
    context = _context(abstract[0], list(dict.fromkeys(transfer)))
    context.context_id = body[0]  # ValueError for an even one
    return context


def _read_user_information(body: bytes) -> tuple[bytes, list[SCP_SCU_RoleSelectionNegotiation]]:
    """The sub-items that pynetdicom decodes, and what the SCP/SCU Role Selections say (PS3.7 Table D.3-9)."""
    others, roles = b"", list[SCP_SCU_RoleSelectionNegotiation]()
    for kind, item in items_of(body):
        if kind != _ROLE_SELECTION:
            others += item
            continue
        (length,) = _LENGTH.unpack_from(item, ITEM_HEAD.size)
        at = ITEM_HEAD.size + _LENGTH.size
        if at + length + 2 != len(item):
            raise ValueError("a role selection of a length that is none")
        role = SCP_SCU_RoleSelectionNegotiation()
        role._sop_class_uid = read_uid(item[at : at + length])  # looked at, as for a context
        role.scu_role, role.scp_role = (bool(flag) for flag in item[at + length :])
        roles.append(role)
    return others, roles


@lru_cache(4096)  # they are the same few hundred in every request
def read_uid(raw: bytes) -> UID:
    """ValueError for what is none by its length or its characters."""
    text = raw.decode("ascii").rstrip("\0 ")
    if not 0 < len(text) <= _UID_CHARACTERS:
        raise ValueError("a UID of a length that is none")
    return UID(text)


@lru_cache(4096)
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
    proposed: dict[UID, dict[UID, None]] = {}
    for context in asked.presentation_context_definition_list:
        assert context.abstract_syntax is not None, "a request with another one was refused"
        proposed.setdefault(context.abstract_syntax, {}).update(dict.fromkeys(context.transfer_syntax))
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
                in_order = native_first if gets else compressed_first
                context = _context(sop_class, in_order(tuple(syntaxes)))
                context.scu_role, context.scp_role = peer.may(Service.STORE), gets
                contexts.append(context)
    return contexts


@lru_cache(256)  # most contexts of a request have the same
def compressed_first(syntaxes: tuple[UID, ...]) -> tuple[UID, ...]:
    """For what is sent to central: as the sender holds it. Explicit VR where JPEG was offered is ten times the size."""
    order = sorted(_taken(syntaxes), key=lambda uid: (uid in NATIVE_SYNTAXES, uid != ExplicitVRLittleEndian))
    return tuple(order)


@lru_cache(256)
def native_first(syntaxes: tuple[UID, ...]) -> tuple[UID, ...]:
    """For what central sends by C-GET: everything that is archived can be put into Explicit VR Little Endian."""
    order = sorted(
        _taken(syntaxes), key=lambda uid: (uid not in NATIVE_SYNTAXES, uid != ExplicitVRLittleEndian)
    )
    return tuple(order)


def _taken(syntaxes: Iterable[UID]) -> list[UID]:
    return [uid for uid in syntaxes if uid not in _JPIP]


def _context(sop_class: UID, syntaxes: Sequence[UID]) -> PresentationContext:
    context = PresentationContext()
    # Its setters look at each UID several times; these were looked at when they were read.
    context._abstract_syntax, context._transfer_syntax = sop_class, list(syntaxes)
    return context
