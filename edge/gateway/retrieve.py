"""C-GET and C-MOVE over what is still on the box (PS3.4 Annex C): each instance as it is stored, or not at all.

Always true: only a configured destination is served, and a C-MOVE sends to no other; an object is opened piece by
piece as it is sent, so its size costs nothing; nothing is transcoded, so where the other side does not take the
stored transfer syntax that sub-operation fails. An object that turns out damaged on the way ends the association:
half an instance must not look like a whole one.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from edge.buffer.catalogue import Catalogue
from edge.buffer.errors import SpoolError
from edge.buffer.local_recipient import CannotOpenError, LocalRecipient
from edge.buffer.records import Present
from edge.gateway.addresses import address_of
from edge.gateway.calling import CallFailedError, OutgoingAssociation
from edge.gateway.command_set import CommandField, Element, us
from edge.gateway.data_set import DataSet, ascii_value, read_data_set, write_data_set
from edge.gateway.data_set import Element as DataElement
from edge.gateway.errors import CannotCallError, GatewayError, NoAnswerError
from edge.gateway.matching import matches
from edge.gateway.negotiation import Context
from edge.gateway.query import (
    ABOVE,
    CANCELLED,
    COLUMNS,
    NOT_AUTHORIZED,
    UNIQUE_KEYS,
    Doorkeeper,
    IdentifierError,
    read_identifier,
    uid_list,
)
from edge.gateway.query_attributes import after_meta
from edge.gateway.query_index import Cache
from edge.gateway.service import Call, Peer, Reply, Request
from edge.gateway.settings import TlsSettings
from edge.gateway.sop_classes import EXPLICIT_VR_LITTLE_ENDIAN

_LOG = logging.getLogger(__name__)

PATIENT_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.1.2"
STUDY_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
PATIENT_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"

_WITH_PATIENT: Final = frozenset({PATIENT_ROOT_GET, PATIENT_ROOT_MOVE})
PATIENT_ID, ISSUER_OF_PATIENT_ID = 0x00100020, 0x00100021

_ANSWER_TIMEOUT_S: Final = 60.0
_FAILED_SOP_INSTANCE_UID_LIST: Final = 0x00080058
_PENDING: Final = 0xFF00
_SOME_FAILED: Final = 0xB000
_ALL_FAILED: Final = 0xA702
_IDENTIFIER_DOES_NOT_MATCH: Final = 0xA900
UNKNOWN_DESTINATION: Final = Reply(0xA801, "The move destination is not configured on this box")


@dataclass
class _Counts:
    """How the sub-operations went so far."""

    remaining: int
    completed: int = 0
    warnings: int = 0
    failed: list[str] = field(default_factory=list)

    def elements(self, *, final: bool) -> dict[int, bytes]:
        counted: dict[int, bytes] = {
            Element.COMPLETED_SUB_OPERATIONS: us(min(self.completed, 0xFFFF)),
            Element.FAILED_SUB_OPERATIONS: us(min(len(self.failed), 0xFFFF)),
            Element.WARNING_SUB_OPERATIONS: us(min(self.warnings, 0xFFFF)),
        }
        if not final:
            counted[Element.REMAINING_SUB_OPERATIONS] = us(min(self.remaining, 0xFFFF))
        return counted


class RetrieveService:
    """A `Service` for C-GET and C-MOVE of both information models.

    Parameters
    ----------
    tls : what is shown to destinations that are called over TLS.
    """

    operations: Mapping[str, frozenset[int]] = {
        PATIENT_ROOT_MOVE: frozenset((CommandField.C_MOVE_RQ,)),
        STUDY_ROOT_MOVE: frozenset((CommandField.C_MOVE_RQ,)),
        PATIENT_ROOT_GET: frozenset((CommandField.C_GET_RQ,)),
        STUDY_ROOT_GET: frozenset((CommandField.C_GET_RQ,)),
    }

    def __init__(
        self,
        catalogue: Catalogue,
        cache: Cache,
        recipient: LocalRecipient,
        doorkeeper: Doorkeeper,
        tls: TlsSettings,
    ) -> None:
        self._catalogue = catalogue
        self._cache = cache
        self._recipient = recipient
        self._doorkeeper = doorkeeper
        self._tls = tls

    def handle(self, request: Request, peer: Peer) -> Iterator[Reply]:
        if not self._doorkeeper.lets_in(request):
            yield NOT_AUTHORIZED
            return
        try:
            objects = self._named(request)
        except IdentifierError as error:
            yield Reply(_IDENTIFIER_DOES_NOT_MATCH, str(error))
            return
        if request.command.field == CommandField.C_GET_RQ:
            yield from self._send_all(objects, peer, peer, request, {})
        else:
            yield from self._move(objects, request, peer)

    def _move(self, objects: list[Present], request: Request, peer: Peer) -> Iterator[Reply]:
        ae_title = request.command.elements.get(Element.MOVE_DESTINATION, b"").decode("latin-1").strip(" \0")
        destination = self._doorkeeper.find(ae_title)
        if destination is None:
            yield UNKNOWN_DESTINATION
            return
        if not objects:
            yield self._last(_Counts(0), request)
            return
        wanted = dict.fromkeys(Context(one.sop_class_uid, one.transfer_syntax_uid) for one in objects)
        originator: dict[int, bytes] = {
            Element.MOVE_ORIGINATOR_AE_TITLE: request.calling_ae_title.encode(),
            Element.MOVE_ORIGINATOR_MESSAGE_ID: us(request.command.message_id),
        }
        try:
            association = OutgoingAssociation.connect(
                address_of(destination.host, destination.port, self._tls, over_tls=destination.tls),
                called_ae_title=ae_title,
                calling_ae_title=request.called_ae_title,
                contexts=list(wanted),
            )
        except (CallFailedError, CannotCallError) as error:
            _LOG.warning("could not move", extra={"destination": ae_title, "reason": str(error)})
            counts = _Counts(0, failed=[one.sop_instance_uid for one in objects])
            yield self._last(counts, request)
            return
        with association:
            yield from self._send_all(objects, association.peer, peer, request, originator)

    def _send_all(
        self,
        objects: list[Present],
        to: Peer,
        asker: Peer,
        request: Request,
        originator: Mapping[int, bytes],
    ) -> Iterator[Reply]:
        """One C-STORE sub-operation for each object, and what PS3.4 C.4.2.1 wants told about them."""
        counts = _Counts(len(objects))
        contexts = {context: number for number, context in to.contexts.items()}
        for one in objects:
            if asker.cancelled:
                yield Reply(CANCELLED.status, elements=counts.elements(final=False))
                return
            context_id = contexts.get(Context(one.sop_class_uid, one.transfer_syntax_uid))
            status = None
            if context_id is not None and one.sop_class_uid in to.performs:
                try:
                    status = self._send(one, context_id, to, originator)
                except GatewayError as error:
                    if to is asker:
                        raise
                    _LOG.warning("the destination is gone", extra={"reason": str(error)})
                    contexts.clear()  # what is left fails like this one
            counts.remaining -= 1
            if status == 0x0000:
                counts.completed += 1
            elif status is not None and status >> 12 == 0xB:
                counts.warnings += 1
            else:
                counts.failed.append(one.sop_instance_uid)
            if counts.remaining:
                yield Reply(_PENDING, elements=counts.elements(final=False))
        yield self._last(counts, request)

    def _send(self, one: Present, context_id: int, to: Peer, originator: Mapping[int, bytes]) -> int | None:
        """The status of one sub-operation; None if it could not be begun or was not answered."""
        try:
            sealed = self._cache.open_object(one.object_id)
        except SpoolError:
            return None  # freed since it was found
        elements: dict[int, bytes] = {
            Element.AFFECTED_SOP_CLASS_UID: one.sop_class_uid.encode(),
            Element.AFFECTED_SOP_INSTANCE_UID: one.sop_instance_uid.encode(),
            Element.PRIORITY: us(0),
            **originator,
        }
        with self._recipient.open(sealed, one.object_id) as pieces:
            try:
                data_set = after_meta(pieces)
            except CannotOpenError as error:
                _LOG.warning("cannot be retrieved", extra={"object_id": one.object_id, "reason": str(error)})
                return None
            call = Call(context_id, CommandField.C_STORE_RQ, elements, data_set)
            try:
                return to.call(call, timeout_s=_ANSWER_TIMEOUT_S).status
            except NoAnswerError:
                return None

    def _named(self, request: Request) -> list[Present]:
        """The objects the identifier names by the unique keys of its level and those above (C.4.2.2.1)."""
        level, identifier = read_identifier(request, with_patient=_WITH_PATIENT)
        if level == "PATIENT":
            return self._catalogue.objects(study_instance_uid=self._studies_of(identifier))
        named: dict[str, Collection[str]] = {}
        for tag in (*ABOVE[level], UNIQUE_KEYS[level]):
            uids = uid_list(identifier, tag)
            if not uids:
                raise IdentifierError(f"At level {level} its UID and those above are needed")
            named[COLUMNS[tag]] = uids
        return self._catalogue.objects(**named)

    def _studies_of(self, identifier: DataSet) -> list[str]:
        """The studies of the patient an identifier names."""
        keys = {tag: identifier[tag] for tag in (PATIENT_ID, ISSUER_OF_PATIENT_ID) if tag in identifier}
        patient_id = ascii_value(identifier, PATIENT_ID)
        if not patient_id or any(sign in patient_id for sign in "*?\\"):
            raise IdentifierError("At level PATIENT one Patient ID is needed")
        return [
            group.study_instance_uid
            for group in self._catalogue.groups("study_instance_uid")
            if matches(keys, read_data_set(group.record, EXPLICIT_VR_LITTLE_ENDIAN))
        ]

    def _last(self, counts: _Counts, request: Request) -> Reply:
        done = counts.completed + counts.warnings
        status = 0x0000
        if counts.failed:
            status = _SOME_FAILED if done else _ALL_FAILED
        _LOG.info(
            "retrieved",
            extra={
                "calling_ae_title": request.calling_ae_title,
                "peer_address": request.peer_address,
                "sent": done,
                "failed": len(counts.failed),
            },
        )
        failed = "\\".join(counts.failed).encode()
        data_set = b""
        if counts.failed:
            data_set = write_data_set(
                {_FAILED_SOP_INSTANCE_UID_LIST: DataElement("UI", failed)},
                request.context.transfer_syntax_uid,
            )
        return Reply(status, data_set=data_set, elements=counts.elements(final=True))
