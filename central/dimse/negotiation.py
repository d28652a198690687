"""What a peer gets of what it asks for: the services that it may use, each in the best transfer syntax.

Each presentation context is answered by itself (PS3.8 section 9.3.3.2), and each role by what the peer may do with that
SOP class (PS3.7 Annex D.3.3.4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Final

from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from central.dimse.associate import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    ACCEPTED,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    USER_REJECTION,
    Agreed,
    Answered,
    Proposal,
    Proposed,
)
from central.dimse.association import RELATIONAL, Routes
from central.dimse.peers import Peer
from central.dimse.settings import Service

_SERVICE_SYNTAXES: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
NATIVE_SYNTAXES: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
_STORAGE_ROOT: Final = "1.2.840.10008.5.1.4.1.1."
_MEDIA_DIRECTORY: Final = "1.2.840.10008.1.3.10"  # a DICOMDIR is a file on a disc, not an object to send
_JPIP: Final = frozenset(
    f"1.2.840.10008.1.2.4.{last}" for last in (94, 95, 204, 205)
)  # pixels stay elsewhere


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


def agreement(proposal: Proposal, peer: Peer, routes: Routes) -> Agreed:
    """How `proposal` is answered."""
    return _agreement(proposal, frozenset(filter(peer.may, Service)), routes)


@lru_cache(16)
def _agreement(proposal: Proposal, may: frozenset[Service], routes: Routes) -> Agreed:
    """`may` : what the peer may do, on which all depends."""
    may_store, may_retrieve = Service.STORE in may, Service.RETRIEVE in may
    answered, roles = list[Answered](), dict[UID, tuple[bool, bool]]()
    for proposed in proposal.contexts:
        uid = proposed.abstract_syntax_uid
        services = routes.services_of(uid)
        if services:
            is_open = not may.isdisjoint(services) or None in services
            answered.append(_answered(proposed, _explicit_first if is_open else None))
            continue
        named = proposal.said.roles.get(uid)
        wants_scu, wants_scp = named or (True, False)
        scu, scp = wants_scu and may_store, wants_scp and may_retrieve
        if not (may_store or (wants_scp and may_retrieve)) or not is_storage(uid):
            answered.append(_answered(proposed, None))
            continue
        one = _answered(proposed, native_first if scp else compressed_first, peer_is_scp=scp)
        if one.result == ACCEPTED and not (scu or scp):
            one = replace(one, result=USER_REJECTION)
        elif one.result == ACCEPTED and named:
            roles[uid] = scu, scp
        answered.append(one)
    accepted = {one.abstract_syntax_uid for one in answered if one.result == ACCEPTED}
    # Relational, and nothing more of what the later bytes name.
    relational = {
        uid for uid, said in proposal.said.extended.items() if uid in accepted and said[:1] == b"\x01"
    }
    return Agreed(answered, roles, RELATIONAL & relational)


def _answered(
    proposed: Proposed, best: Callable[[tuple[UID, ...]], UID | None] | None, *, peer_is_scp: bool = False
) -> Answered:
    """`best` chooses among the transfer syntaxes; without one this SOP class is not for this peer."""
    uid, syntaxes = proposed.abstract_syntax_uid, proposed.transfer_syntax_uids
    if best is None:
        return Answered(proposed.context_id, ABSTRACT_SYNTAX_NOT_SUPPORTED, uid, syntaxes[0])
    chosen = best(syntaxes)
    if chosen is None:
        return Answered(proposed.context_id, TRANSFER_SYNTAXES_NOT_SUPPORTED, uid, syntaxes[0])
    return Answered(proposed.context_id, ACCEPTED, uid, chosen, peer_is_scp)


@lru_cache(256)  # most contexts of a request have the same
def compressed_first(syntaxes: tuple[UID, ...]) -> UID | None:
    """For what is sent to central: as the sender holds it. Explicit VR where JPEG was offered is ten times the size."""
    return _best(syntaxes, lambda uid: (uid in NATIVE_SYNTAXES, uid != ExplicitVRLittleEndian))


@lru_cache(256)
def native_first(syntaxes: tuple[UID, ...]) -> UID | None:
    """For what central sends by C-GET: everything that is archived can be put into Explicit VR Little Endian."""
    return _best(syntaxes, lambda uid: (uid not in NATIVE_SYNTAXES, uid != ExplicitVRLittleEndian))


def _explicit_first(syntaxes: tuple[UID, ...]) -> UID | None:
    """For the messages of the other services."""
    return next((uid for uid in _SERVICE_SYNTAXES if uid in syntaxes), None)


def _best(syntaxes: tuple[UID, ...], order: Callable[[UID], tuple[bool, bool]]) -> UID | None:
    return min((uid for uid in syntaxes if uid not in _JPIP), key=order, default=None)
