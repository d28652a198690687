"""C-STORE from peers that send straight to central (PS3.4 Annex B): archived as received, then success.

What is always true: the file that was archived is the bytes of the C-STORE behind the same header that a box would put
there, so an instance that comes both ways is one; success is answered after the file and its index row are durable; a
second content under one SOP Instance UID is kept beside the first and flagged, as with every other way in.
What a crash leaves: nothing, or an archived instance that was not answered, which the resend finds as a duplicate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import peewee

from central.archive.archive import Archive
from central.archive.errors import NotDicomError, StorageError, StudyErasedError
from central.archive.indexing import ObjectOrigin
from central.dimse.association import NOT_AUTHORIZED, SUCCESS, Request
from central.dimse.transport import OUT_OF_RESOURCES, Incoming

CANNOT_UNDERSTAND: Final = 0xC000
_COMMENTS: Final = {
    OUT_OF_RESOURCES: "central cannot keep this now: send it again later",
    NOT_AUTHORIZED: "this study was erased here and is not taken in",
    0x0117: "the SOP Class or SOP Instance UID is none",
}
_log = logging.getLogger(__name__)


class Store:
    """Serves C-STORE. `has_room` says whether the archive may take more."""

    def __init__(self, archive: Archive, has_room: Callable[[], bool]) -> None:
        self._archive = archive
        self._has_room = has_room

    def serve(self, request: Request) -> None:
        incoming = request.take_incoming()
        try:
            peer = request.peer
            origin = ObjectOrigin(peer.source, "", datetime.now(UTC), peer.institution)
            status, comment = self.archived(incoming, peer.address, origin)
        finally:
            incoming.discard()
        request.respond(status, comment)

    def archived(self, incoming: Incoming, peer: str, origin: ObjectOrigin) -> tuple[int, str]:
        """Archive what came; status and comment of the answer. `peer` is for the log."""
        if not incoming.refusal and not self._has_room():
            incoming.refuse(OUT_OF_RESOURCES)
        if incoming.refusal or incoming.sink is None:
            return incoming.refusal, _COMMENTS.get(incoming.refusal, "")
        try:
            kept = self._archive.keep(incoming.sink, origin)
            (outcome,) = self._archive.index_together([kept])
            if isinstance(outcome, Exception):
                raise outcome
        except NotDicomError as error:
            return CANNOT_UNDERSTAND, error.reason
        except StudyErasedError:
            self._archive.forget(kept.stored)
            return NOT_AUTHORIZED, _COMMENTS[NOT_AUTHORIZED]
        except (StorageError, OSError, peewee.OperationalError) as error:
            _log.warning("event=not-stored peer=%s error=%s", peer, type(error).__name__)
            return OUT_OF_RESOURCES, _COMMENTS[OUT_OF_RESOURCES]
        _log.info(
            "event=stored from=%s outcome=%s size_bytes=%d",
            origin.gateway_id, outcome.value, kept.stored.size_bytes,
        )  # fmt: skip
        return SUCCESS, ""
