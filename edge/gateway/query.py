"""C-FIND over what is still on the box (PS3.4 Annex C): patient, study, series and image level.

Always true: only a configured destination, calling from its own address, is answered; nothing is opened but the
sealed attribute records of what the query can still match. A query names the UIDs of the levels above its own
(C.4.1.2.2.1), except that a patient need not be named.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from edge.buffer.catalogue import Catalogue, Group
from edge.gateway.command_set import CommandField
from edge.gateway.data_set import (
    MAX_KEYS,
    DataSet,
    Element,
    UnreadableDataSetError,
    ascii_value,
    read_data_set,
    text_element,
    vr_of,
    write_data_set,
)
from edge.gateway.matching import QUERY_CONTROL, SPECIFIC_CHARACTER_SET, matches
from edge.gateway.query_attributes import WANTED
from edge.gateway.service import Peer, Reply, Request
from edge.gateway.service_settings import DestinationSettings
from edge.gateway.settings import plain_address
from edge.gateway.sop_classes import EXPLICIT_VR_LITTLE_ENDIAN

_LOG = logging.getLogger(__name__)

PATIENT_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"

QUERY_RETRIEVE_LEVEL: Final = 0x00080052
STUDY_UID, SERIES_UID, SOP_UID = 0x0020000D, 0x0020000E, 0x00080018
COLUMNS: Final = {
    STUDY_UID: "study_instance_uid",
    SERIES_UID: "series_instance_uid",
    SOP_UID: "sop_instance_uid",
}
UNIQUE_KEYS: Final = {"STUDY": STUDY_UID, "SERIES": SERIES_UID, "IMAGE": SOP_UID}
ABOVE: Final = {"PATIENT": (), "STUDY": (), "SERIES": (STUDY_UID,), "IMAGE": (STUDY_UID, SERIES_UID)}

_PATIENT_KEYS: Final = (0x00100010, 0x00100020, 0x00100021, 0x00100030)
_RETRIEVE_AE_TITLE, _INSTANCE_AVAILABILITY = 0x00080054, 0x00080056
_STUDY_RELATED_SERIES, _STUDY_RELATED_INSTANCES = 0x00201206, 0x00201208
_SERIES_RELATED_INSTANCES = 0x00201209
_MODALITY, _MODALITIES_IN_STUDY = 0x00080060, 0x00080061
_CONDITIONS: Final = WANTED | {
    _RETRIEVE_AE_TITLE,
    _INSTANCE_AVAILABILITY,
    _STUDY_RELATED_SERIES,
    _STUDY_RELATED_INSTANCES,
    _SERIES_RELATED_INSTANCES,
    _MODALITIES_IN_STUDY,
}
"""What is known here. A key on anything else, which all are optional, is no condition (C.2.2.1.3)."""

PENDING: Final = 0xFF00
SUCCESS: Final = Reply(0x0000)
CANCELLED: Final = Reply(0xFE00)
NOT_AUTHORIZED: Final = Reply(0x0124, "Not a configured destination, or not from its address")


class IdentifierError(Exception):
    """The identifier cannot be acted on; the text, for an Error Comment, says why."""


class Doorkeeper:
    """Knows the configured destinations, and who is one of them."""

    def __init__(self, destinations: Sequence[DestinationSettings]) -> None:
        self._destinations = {one.ae_title: one for one in destinations}

    def find(self, ae_title: str) -> DestinationSettings | None:
        return self._destinations.get(ae_title)

    def knows(self, ae_title: str, address: str) -> bool:
        """True for a destination that calls from where it is configured to be. May wait for a name server."""
        known = self.find(ae_title)
        return known is not None and plain_address(address) in _addresses(known.host)

    def lets_in(self, request: Request) -> bool:
        """The same, for a request; who is not let in is logged."""
        allowed = self.knows(request.calling_ae_title, request.peer_address)
        if not allowed:
            _LOG.warning(
                "query refused: not a configured destination, or not from its address",
                extra={"calling_ae_title": request.calling_ae_title, "peer_address": request.peer_address},
            )
        return allowed


class QueryService:
    """A `Service` for C-FIND of both information models."""

    operations: Mapping[str, frozenset[int]] = dict.fromkeys(
        (PATIENT_ROOT_FIND, STUDY_ROOT_FIND), frozenset((CommandField.C_FIND_RQ,))
    )

    def __init__(self, catalogue: Catalogue, doorkeeper: Doorkeeper) -> None:
        self._catalogue = catalogue
        self._doorkeeper = doorkeeper

    def handle(self, request: Request, peer: Peer) -> Iterator[Reply]:
        if not self._doorkeeper.lets_in(request):
            yield NOT_AUTHORIZED
            return
        try:
            level, query = read_identifier(request, with_patient=(PATIENT_ROOT_FIND,))
            groups = self._groups(level, query)
        except IdentifierError as error:
            yield Reply(0xA900, str(error))
            return
        conditions = {tag: key for tag, key in query.items() if tag in _CONDITIONS}
        answers = 0
        seen: set[tuple[bytes, ...]] = set()
        for group in groups:
            if peer.cancelled:
                yield CANCELLED
                return
            item = _item(group, level, request.called_ae_title)
            if level == "STUDY" and _MODALITIES_IN_STUDY in query:
                item[_MODALITIES_IN_STUDY] = self._modalities(group.study_instance_uid)
            if not matches(conditions, item):
                continue
            if level == "PATIENT":
                patient = tuple(item[tag].value if tag in item else b"" for tag in _PATIENT_KEYS)
                if patient in seen:
                    continue
                seen.add(patient)
            answers += 1
            answer = write_data_set(_answer(query, item), request.context.transfer_syntax_uid)
            yield Reply(PENDING, data_set=answer)
        _LOG.info(
            "query answered",
            extra={"calling_ae_title": request.calling_ae_title, "level": level, "answers": answers},
        )
        yield SUCCESS

    def _groups(self, level: str, query: DataSet) -> Iterator[Group]:
        named: dict[str, Collection[str]] = {
            COLUMNS[tag]: uids for tag in UNIQUE_KEYS.values() if (uids := uid_list(query, tag))
        }
        for tag in ABOVE[level]:
            if len(named.get(COLUMNS[tag], ())) != 1:
                raise IdentifierError(f"At level {level} one UID of each level above is needed")
        return self._catalogue.groups(COLUMNS[UNIQUE_KEYS.get(level, STUDY_UID)], **named)

    def _modalities(self, study_instance_uid: str) -> Element:
        """Those of the study's series, each once."""
        series = self._catalogue.groups("series_instance_uid", study_instance_uid=[study_instance_uid])
        records = (read_data_set(one.record, EXPLICIT_VR_LITTLE_ENDIAN) for one in series)
        found = {record[_MODALITY].value.strip(b" \0") for record in records if _MODALITY in record}
        return Element("CS", b"\\".join(sorted(found - {b""})))


def read_identifier(request: Request, *, with_patient: Collection[str]) -> tuple[str, DataSet]:
    """Level and keys of an identifier. IdentifierError if it is none.

    Parameters
    ----------
    with_patient : the SOP classes whose model has a patient level.
    """
    try:
        identifier = read_data_set(
            request.data_set, request.context.transfer_syntax_uid, max_elements=MAX_KEYS
        )
    except UnreadableDataSetError as error:
        raise IdentifierError("The identifier cannot be read") from error
    level = ascii_value(identifier, QUERY_RETRIEVE_LEVEL)
    if level not in ABOVE or (level == "PATIENT" and request.context.abstract_syntax_uid not in with_patient):
        raise IdentifierError("The Query/Retrieve Level is not one of this SOP class")
    return level, identifier


def uid_list(identifier: DataSet, tag: int) -> list[str]:
    """The UIDs a key names; empty for none (universal matching)."""
    value = ascii_value(identifier, tag)
    return [uid for uid in (part.strip(" \0") for part in value.split("\\")) if uid]


def _item(group: Group, level: str, ae_title: str) -> dict[int, Element]:
    """What a query at `level` sees of a group."""
    item = dict(read_data_set(group.record, EXPLICIT_VR_LITTLE_ENDIAN))
    item[_RETRIEVE_AE_TITLE] = text_element("AE", ae_title)
    item[_INSTANCE_AVAILABILITY] = text_element("CS", "ONLINE")
    if level == "STUDY":
        item[_STUDY_RELATED_SERIES] = text_element("IS", str(group.series))
        item[_STUDY_RELATED_INSTANCES] = text_element("IS", str(group.instances))
    elif level == "SERIES":
        item[_SERIES_RELATED_INSTANCES] = text_element("IS", str(group.instances))
    return item


def _answer(query: DataSet, item: DataSet) -> DataSet:
    """The keys of the query as the item has them, empty where it has not (C.4.1.1.3.2)."""
    answer: dict[int, Element] = {
        QUERY_RETRIEVE_LEVEL: query[QUERY_RETRIEVE_LEVEL],
        _RETRIEVE_AE_TITLE: item[_RETRIEVE_AE_TITLE],
        _INSTANCE_AVAILABILITY: item[_INSTANCE_AVAILABILITY],
    }
    if SPECIFIC_CHARACTER_SET in item:
        answer[SPECIFIC_CHARACTER_SET] = item[SPECIFIC_CHARACTER_SET]
    for tag, key in query.items():
        if tag not in QUERY_CONTROL and tag not in answer:
            answer[tag] = item.get(tag, Element(vr_of(tag) if key.vr == "UN" else key.vr))
    return answer


def _addresses(host: str) -> set[str]:
    """The addresses of a host name; a name that cannot be resolved now has none."""
    try:
        return {str(ipaddress.ip_address(host))}
    except ValueError:
        pass
    try:
        return {plain_address(str(found[4][0])) for found in socket.getaddrinfo(host, None)}
    except OSError:
        return set()
