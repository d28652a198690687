"""C-MOVE and C-GET over the archive, in both information models (PS3.4 Annex C.4.2, C.4.3).

What is always true
-------------------
- Every study is authorized for the peer that asks and is on record before a byte of it leaves; what it may not have
  is, from outside, not there. A retrieval can take hours: the policy is asked again while it runs, and what was taken
  away meanwhile fails from there on.
- A C-MOVE goes to configured destinations only.
- An instance goes out as it is stored where the receiver takes that, else converted by a worker process; it is
  streamed either way. Where neither works that sub-operation fails and its UID is listed.
- While the receiver answers for one instance the next is made ready, and no other.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import BinaryIO, Final

from pynetdicom.dimse_primitives import C_GET

from central.access.policy import Action, Grant, Principal, authorize, renew, scope_of
from central.archive.errors import ArchiveError, QueryError
from central.archive.query import InstanceQuery
from central.archive.reading import Reading
from central.archive.rows import InstanceRow, StoredInstance
from central.audit.errors import AuditUnavailableError
from central.audit.events import Outcome
from central.audit.record import Audit, Recording
from central.dimse.associate import Agreed
from central.dimse.association import CANCELLED, PENDING, UNABLE_TO_PROCESS, Request
from central.dimse.calling import line_to
from central.dimse.errors import (
    CallFailedError,
    IdentifierError,
    NotConvertibleError,
    PeerGoneError,
    TooManyMatchesError,
)
from central.dimse.identifiers import selection
from central.dimse.lane import Lane, Taken, taken_of
from central.dimse.negotiation import NATIVE_SYNTAXES
from central.dimse.peers import Peers
from central.dimse.sending import Originator, ReadyStore
from central.dimse.settings import DimseSettings, PeerSettings
from central.dimse.suboperations import Counts, Granted, Opening, Standing, batches, once_each

Convert = Callable[[StoredInstance, str], AbstractContextManager[BinaryIO]]
"""An instance in another transfer syntax, as a Part 10 file; NotConvertibleError if it cannot be had."""

MAX_INSTANCES: Final = 65_535  # counts of sub-operations are 16 bits
_TOLD_EVERY_S: Final = 0.5  # how things stand; the standard leaves it to us (PS3.4 C.4.2.3, C.4.3.3)
_NO_MATCHES_COUNTED: Final = 0xA701
_DESTINATION_UNKNOWN: Final = 0xA801
_IDENTIFIER_DOES_NOT_MATCH: Final = 0xA900
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Receiver:
    """Where instances go, and what is taken there."""

    lane: Lane
    taken: Taken
    originator: Originator | None


class Retrieve:
    """Serves C-MOVE and C-GET."""

    def __init__(
        self, settings: DimseSettings, peers: Peers, archive: Reading, audit: Audit, convert: Convert
    ) -> None:
        self._settings = settings
        self._peers = peers
        self._archive = archive
        self._audit = audit
        self._convert = convert

    def serve(self, request: Request) -> None:
        message = request.message
        is_get = isinstance(message, C_GET)
        title = request.peer.ae_title if is_get else str(message.MoveDestination or "").strip()
        verb = "C-GET" if is_get else f"C-MOVE to {title}"
        destination = None if is_get else self._peers.destination(title, request.peer.institution)
        try:
            if not is_get and destination is None:
                self._record(request, "refused", f"{verb}: not a configured destination")
                request.respond(_DESTINATION_UNKNOWN, "the move destination is not configured here")
                return
            instances = self._granted(request, verb)
            counts = Counts(len(instances))
            if destination is None and instances:
                try:
                    self._send_all(request, instances, counts, self._who_asked(request))
                finally:
                    request.association.line.sock.settimeout(self._settings.stall_timeout_s)
            elif destination is not None:
                self._move(request, instances, counts, destination)
            for one in instances:
                one.recording.wait()
        except (IdentifierError, QueryError) as error:
            request.respond(_IDENTIFIER_DOES_NOT_MATCH, str(error))
            return
        except TooManyMatchesError as error:
            request.respond(_NO_MATCHES_COUNTED, str(error))
            return
        except AuditUnavailableError:
            request.respond(UNABLE_TO_PROCESS, "the audit record cannot be written")
            return
        self._finish(request, counts)

    def _who_asked(self, request: Request) -> _Receiver:
        """Of a C-GET."""
        association = request.association
        lane = Lane(
            association.line,
            association.peer_max_pdu_bytes,
            self._settings.idle_timeout_s,
            association.messages.cancel,
        )
        return _Receiver(lane, _taken_by(association.agreed), None)

    def _move(
        self, request: Request, instances: Sequence[Granted], counts: Counts, destination: PeerSettings
    ) -> None:
        originator = Originator(request.peer.ae_title, request.message.MessageID)
        for batch, contexts in batches(instances):
            if request.is_cancelled:
                return
            try:
                with line_to(self._settings, destination, contexts) as (line, accepted):
                    lane = Lane(line, accepted.max_pdu_bytes, self._settings.idle_timeout_s)
                    taken = taken_of(accepted.answered)
                    self._send_all(request, batch, counts, _Receiver(lane, taken, originator))
            except (CallFailedError, PeerGoneError) as error:
                _log.warning("event=move-failed destination=%s reason=%s", destination.ae_title, error)
                if request.association.line.is_over:
                    raise
                done = counts.completed + counts.warnings + len(counts.failed)
                for one in instances[done:]:
                    counts.take(one.row.sop_instance_uid, None)
                return

    def _send_all(
        self, request: Request, instances: Sequence[Granted], counts: Counts, to: _Receiver
    ) -> None:
        told_s = -math.inf
        with ExitStack() as opened:
            ready = self._made_ready(instances[0], 1, to, opened)
            for number, one in enumerate(instances, 1):
                to.lane.take_in()
                if request.is_cancelled:
                    return
                if request.association.line.is_over:
                    raise PeerGoneError("who asked for the images has left")
                sent = ready
                if sent is not None:
                    one.recording.wait()
                    sent.send(to.lane)
                opened.close()
                if number < len(instances):
                    ready = self._made_ready(instances[number], number + 1, to, opened)
                status = to.lane.answer(sent.message_id) if sent is not None else None
                counts.take(one.row.sop_instance_uid, status)
                if counts.remaining and time.monotonic() - told_s >= _TOLD_EVERY_S:
                    told_s = time.monotonic()
                    request.respond(PENDING, fields=counts.fields(is_last=False))

    def _made_ready(self, one: Granted, number: int, to: _Receiver, opened: ExitStack) -> ReadyStore | None:
        """One sub-operation, its file in `opened`; None if the receiver takes it in no form that it can be had in."""
        try:
            context_id, part10 = self._in_a_form_taken(one, to.taken.get(one.sop_class_uid, {}), opened)
            return ReadyStore(
                to.lane.room,
                context_id,
                one.sop_class_uid,
                one.row.sop_instance_uid,
                part10,
                message_id=number % 65_535 + 1,
                originator=to.originator,
            )
        except (ArchiveError, NotConvertibleError, OSError, ValueError) as error:
            _log.warning(
                "event=not-retrieved sop_instance_uid=%s reason=%s",
                one.row.sop_instance_uid,
                error if isinstance(error, (ArchiveError, NotConvertibleError)) else type(error).__name__,
            )
            return None

    def _in_a_form_taken(
        self, one: Granted, contexts: Mapping[str, int], opened: ExitStack
    ) -> tuple[int, BinaryIO]:
        stored = one.opened()
        if stored.transfer_syntax_uid in contexts:
            return contexts[stored.transfer_syntax_uid], opened.enter_context(stored.path.open("rb"))
        syntax = next((uid for uid in NATIVE_SYNTAXES[:2] if uid in contexts), None)
        if syntax is None:
            raise NotConvertibleError(
                "the receiver takes neither the stored transfer syntax nor an uncompressed one"
            )
        return contexts[syntax], opened.enter_context(self._convert(stored, syntax))

    def _granted(self, request: Request, verb: str) -> list[Granted]:
        """What the identifier names and the peer may have, each study of it on its way into the record."""
        identifier = request.identifier()
        relational = request.abstract_syntax_uid in request.association.agreed.relational
        query = selection(identifier, request.abstract_syntax_uid, relational=relational)
        principal = request.peer.principal  # as it is now, for all that is granted here
        rows = self._named(principal, query)
        standing = Standing(partial(self._stands, request, verb))
        grants: dict[str, tuple[Grant, Recording]] = {}
        counted: dict[str, int] = {}
        for row in rows:
            study = row.series.study.study_instance_uid
            counted[study] = counted.get(study, 0) + 1
        for study, instances in counted.items():
            facts = self._archive.facts(study)
            decision = authorize(principal, Action.EXPORT, facts) if facts else None
            detail = f"{verb}: {instances} instances"
            if isinstance(decision, Grant):
                event = request.peer.event(Action.EXPORT, "success", detail, study, decision.institutions)
                grants[study] = decision, self._audit.begin(event)
                standing.granted(decision)
            else:
                self._record(request, "refused", detail, study)
        if not rows:
            self._record(request, "success", f"{verb}: nothing found")
        opening = Opening(self._archive, standing)
        granted = (
            (*grants[study], row) for row in rows if (study := row.series.study.study_instance_uid) in grants
        )
        return once_each(
            [
                Granted(grant, recording, row, partial(opening.instance, grant, row))
                for grant, recording, row in granted
                if row.series.study.institution in grant.institutions
            ]
        )

    def _stands(self, request: Request, verb: str, grant: Grant) -> bool:
        """Whether the policy says the same now; that it does not is on record."""
        facts = self._archive.facts(grant.study_instance_uid)
        decision = renew(grant, request.peer.principal, facts) if facts else None
        if isinstance(decision, Grant):
            return True
        why = decision.reason.value if decision else "not here"
        self._record(request, "refused", f"{verb}: ended while it ran: {why}", grant.study_instance_uid)
        return False

    def _named(self, principal: Principal, query: InstanceQuery) -> list[InstanceRow]:
        scope = scope_of(principal, Action.EXPORT)
        rows = self._archive.find_instances(scope, query)
        if len(rows) > MAX_INSTANCES:
            raise TooManyMatchesError(f"more than {MAX_INSTANCES} instances in one request")
        return rows

    def _finish(self, request: Request, counts: Counts) -> None:
        _log.info(
            "event=retrieved ae_title=%s peer=%s sent=%d failed=%d not_tried=%d",
            request.peer.ae_title, request.peer.address, counts.completed + counts.warnings,
            len(counts.failed), counts.remaining,
        )  # fmt: skip
        cancelled = counts.remaining > 0
        request.respond(
            CANCELLED if cancelled else counts.status,
            data_set=counts.failed_list,
            fields=counts.fields(is_last=not cancelled),
        )

    def _record(
        self,
        request: Request,
        outcome: Outcome,
        detail: str,
        study: str | None = None,
    ) -> None:
        self._audit.record(request.peer.event(Action.EXPORT, outcome, detail, study))


@lru_cache(16)
def _taken_by(agreed: Agreed) -> Taken:
    """What who asks by C-GET takes."""
    return taken_of(one for one in agreed.accepted.values() if one.peer_is_scp)
