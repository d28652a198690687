"""C-STORE from peers that send straight to central (PS3.4 Annex B): archived as received, then success.

What is always true: the file that was archived is the bytes of the C-STORE behind the same header that a box would put
there, so an instance that comes both ways is one; success is answered after the file and its index row are durable; a
second content under one SOP Instance UID is kept beside the first and flagged, as with every other way in; that a peer
stores a study is on record before the first image of it is answered (`central.dimse.store_record`).
What a crash leaves: nothing, or an archived instance that was not answered, which the resend finds as a duplicate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import peewee

from central.archive.errors import NotDicomError, StorageError, StudyErasedError
from central.archive.indexing import ObjectOrigin
from central.archive.receiving import Receiving
from central.audit.errors import AuditUnavailableError
from central.audit.record import Audit
from central.dimse.association import NOT_AUTHORIZED, SUCCESS, Request
from central.dimse.incoming import OUT_OF_RESOURCES, Incoming
from central.dimse.peers import Peer
from central.dimse.store_record import StoreRecord
from central.dimse.storing import StoringLane

CANNOT_UNDERSTAND: Final = 0xC000
_COMMENTS: Final = {
    OUT_OF_RESOURCES: "central cannot keep this now: send it again later",
    NOT_AUTHORIZED: "this study was erased here and is not taken in",
    0x0117: "the SOP Class or SOP Instance UID is none",
}
_log = logging.getLogger(__name__)


class StoreService:
    """Serves C-STORE, and all C-STOREs that follow on the association until something else comes."""

    def __init__(self, store: Store, audit: Audit) -> None:
        self._store = store
        self._audit = audit

    def serve(self, request: Request) -> None:
        record = self._record_of(request)
        status, comment = self._archived(request.take_incoming(), request.peer, record)
        request.respond(status, comment)
        if not request.association.messages.is_at_rest:
            return
        lane = StoringLane(request.association)
        while (arrived := lane.next()) is not None:
            status, comment = self._archived(arrived.incoming, request.peer, record)
            lane.answer(arrived.context_id, arrived.request, status, comment)

    def _archived(self, incoming: Incoming, peer: Peer, record: StoreRecord) -> tuple[int, str]:
        """Status and comment of the answer, on record as `StoreRecord` has it."""
        record.arrived()
        try:
            origin = ObjectOrigin(peer.source, "", datetime.now(UTC), peer.institution)
            status, comment = self._store.archived(incoming, peer.address, origin, record.begins)
        finally:
            incoming.discard()
        if status == SUCCESS:
            record.stored()
        else:
            record.refused(status)
        return status, comment

    def _record_of(self, request: Request) -> StoreRecord:
        association = request.association
        if association.store_record is None:
            association.store_record = StoreRecord(self._audit, request.peer, association.certificate_sha256)
        return association.store_record


class Store:
    """Archives what came by C-STORE. `has_room` says whether the archive may take more."""

    def __init__(self, archive: Receiving, has_room: Callable[[], bool]) -> None:
        self._archive = archive
        self._has_room = has_room

    def archived(
        self,
        incoming: Incoming,
        peer: str,
        origin: ObjectOrigin,
        begins: Callable[[str], None] = lambda _study_instance_uid: None,
    ) -> tuple[int, str]:
        """Archive what came; status and comment of the answer.

        Parameters
        ----------
        peer : for the log.
        begins : called with its Study Instance UID before it is in the archive; raises AuditUnavailableError if it must
            not be.
        """
        if not incoming.refusal and not self._has_room():
            incoming.refuse(OUT_OF_RESOURCES)
        if incoming.refusal or incoming.sink is None:
            return incoming.refusal, _COMMENTS.get(incoming.refusal, "")
        try:
            kept = self._archive.keep(
                incoming.sink, origin, lambda attributes: begins(attributes.study_instance_uid)
            )
            (outcome,) = self._archive.index_together([kept])
            if isinstance(outcome, Exception):
                raise outcome
        except NotDicomError as error:
            return CANNOT_UNDERSTAND, error.reason
        except StudyErasedError:
            self._archive.forget(kept.stored)
            return NOT_AUTHORIZED, _COMMENTS[NOT_AUTHORIZED]
        except AuditUnavailableError:
            return OUT_OF_RESOURCES, _COMMENTS[OUT_OF_RESOURCES]
        except (StorageError, OSError, peewee.OperationalError) as error:
            _log.warning("event=not-stored peer=%s error=%s", peer, type(error).__name__)
            return OUT_OF_RESOURCES, _COMMENTS[OUT_OF_RESOURCES]
        _log.info(
            "event=stored from=%s outcome=%s size_bytes=%d",
            origin.gateway_id, outcome.value, kept.stored.size_bytes,
        )  # fmt: skip
        return SUCCESS, ""
