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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, Final

from pydicom import Dataset
from pynetdicom.dimse_primitives import C_GET

from central.access.policy import Action, Grant, authorize, scope_of
from central.archive.archive import Archive
from central.archive.errors import ArchiveError, NoSuchInstanceError, QueryError
from central.archive.query import InstanceQuery
from central.archive.rows import InstanceRow, StoredInstance
from central.audit.errors import AuditUnavailableError
from central.audit.record import Audit, Outcome, Recording
from central.dimse.association import (
    CANCELLED,
    PENDING,
    SUCCESS,
    UNABLE_TO_PROCESS,
    CentralAssociation,
    Request,
)
from central.dimse.calling import MAX_CONTEXTS
from central.dimse.destination import destination_called
from central.dimse.errors import (
    CallFailedError,
    IdentifierError,
    NotConvertibleError,
    PeerGoneError,
    TooManyMatchesError,
)
from central.dimse.identifiers import selection
from central.dimse.lane import AssociationLane, Lane, lane_on
from central.dimse.negotiation import NATIVE_SYNTAXES
from central.dimse.peers import Peers
from central.dimse.sending import Originator, ReadyStore, is_over
from central.dimse.settings import DimseSettings, PeerSettings

Convert = Callable[[StoredInstance, str], AbstractContextManager[BinaryIO]]
"""An instance in another transfer syntax, as a Part 10 file; NotConvertibleError if it cannot be had."""

MAX_INSTANCES: Final = 65_535  # counts of sub-operations are 16 bits
_STANDS_S: Final = 10.0
"""How long a decision counts in a retrieval that goes on."""

_TOLD_EVERY_S: Final = 0.5  # how things stand; the standard leaves it to us (PS3.4 C.4.2.3, C.4.3.3)
_SOME_FAILED: Final = 0xB000
_NO_MATCHES_COUNTED: Final = 0xA701
_ALL_FAILED: Final = 0xA702
_DESTINATION_UNKNOWN: Final = 0xA801
_IDENTIFIER_DOES_NOT_MATCH: Final = 0xA900
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Granted:
    """An instance, the proof that it may be sent, and what is to be on record before it is."""

    grant: Grant
    recording: Recording
    row: InstanceRow
    opened: Callable[[], StoredInstance]
    """ArchiveError : it is not here any more."""

    @property
    def sop_class_uid(self) -> str:
        return self.row.sop_class_uid

    @property
    def transfer_syntax_uid(self) -> str:
        return self.row.transfer_syntax_uid


@dataclass(frozen=True)
class _Receiver:
    """Where instances go: SOP class → transfer syntax → presentation context id, of what is taken there."""

    lane: Lane
    taken: Mapping[str, Mapping[str, int]]
    originator: Originator | None


@dataclass
class _Counts:
    """How the sub-operations went so far (PS3.7 Table 9.1-4)."""

    remaining: int
    completed: int = 0
    warnings: int = 0
    failed: list[str] = field(default_factory=list)

    def take(self, sop_instance_uid: str, status: int | None) -> None:
        """One more has been done; `status` None: it could not be."""
        self.remaining -= 1
        if status == SUCCESS:
            self.completed += 1
        elif status is not None and status >> 12 == 0xB:
            self.warnings += 1
        else:
            self.failed.append(sop_instance_uid)

    def fields(self, *, is_last: bool) -> dict[str, int]:
        counted = {
            "NumberOfCompletedSuboperations": self.completed,
            "NumberOfFailedSuboperations": len(self.failed),
            "NumberOfWarningSuboperations": self.warnings,
        }
        return counted if is_last else {**counted, "NumberOfRemainingSuboperations": self.remaining}

    @property
    def status(self) -> int:
        if not self.failed and not self.warnings:
            return SUCCESS
        return _SOME_FAILED if self.completed or self.warnings else _ALL_FAILED

    @property
    def failed_list(self) -> Dataset | None:
        if not self.failed:
            return None
        identifier = Dataset()
        identifier.FailedSOPInstanceUIDList = self.failed
        return identifier


class _Standing:
    """Whether the grants of one retrieval still hold. `ask` decides anew; of what it denies nothing more is asked."""

    def __init__(self, ask: Callable[[Grant], bool]) -> None:
        self._ask = ask
        self._asked_at_s = dict[str, float]()
        self._over = set[str]()

    def granted(self, grant: Grant) -> None:
        """It was just given."""
        self._asked_at_s[grant.study_instance_uid] = time.monotonic()

    def require(self, grant: Grant) -> None:
        """NoSuchInstanceError if it holds no more."""
        study, now_s = grant.study_instance_uid, time.monotonic()
        if study not in self._over and now_s - self._asked_at_s[study] >= _STANDS_S:
            self._asked_at_s[study] = now_s
            if not self._ask(grant):
                self._over.add(study)
        if study in self._over:
            raise NoSuchInstanceError("this study may not be had any more")


class _Opening:
    """Opens instances in their order; those of a series that follow each other with one query."""

    def __init__(self, archive: Archive, standing: _Standing) -> None:
        self._archive = archive
        self._standing = standing
        self._asked: tuple[str, str] | None = None
        self._of_series: dict[str, StoredInstance] = {}

    def instance(self, grant: Grant, row: InstanceRow) -> StoredInstance:
        """ArchiveError if it is not here any more, or not granted."""
        self._standing.require(grant)
        series = grant.study_instance_uid, row.series.series_instance_uid
        if (
            series != self._asked
        ):  # of many series often one instance is asked for: the second one shows that it is not so
            self._asked, self._of_series = series, {}
            return self._archive.open_instance(grant, series[1], row.sop_instance_uid)
        if row.sop_instance_uid not in self._of_series:
            found = self._archive.open_instances(grant, series[1])
            self._of_series = {stored.sop_instance_uid: stored for stored in found}
        try:
            return self._of_series[row.sop_instance_uid]
        except KeyError:
            raise NoSuchInstanceError("no such instance in this study") from None


class Retrieve:
    """Serves C-MOVE and C-GET."""

    def __init__(
        self, settings: DimseSettings, peers: Peers, archive: Archive, audit: Audit, convert: Convert
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
            counts = _Counts(len(instances))
            if destination is None and instances:
                with lane_on(request.association, self._settings.idle_timeout_s) as lane:
                    taken = _taken(request.association)
                    self._send_all(request, instances, counts, _Receiver(lane, taken, None))
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

    def _move(
        self, request: Request, instances: Sequence[_Granted], counts: _Counts, destination: PeerSettings
    ) -> None:
        originator = Originator(request.peer.ae_title, request.message.MessageID)
        for batch, contexts in batches(instances):
            if request.is_cancelled:
                return
            try:
                with destination_called(self._settings, destination, contexts) as (lane, taken):
                    self._send_all(request, batch, counts, _Receiver(lane, taken, originator))
            except (CallFailedError, PeerGoneError) as error:
                _log.warning("event=move-failed destination=%s reason=%s", destination.ae_title, error)
                if is_over(request.association):
                    raise
                done = counts.completed + counts.warnings + len(counts.failed)
                for one in instances[done:]:
                    counts.take(one.row.sop_instance_uid, None)
                return

    def _send_all(
        self, request: Request, instances: Sequence[_Granted], counts: _Counts, to: _Receiver
    ) -> None:
        told_s = -math.inf
        with ExitStack() as opened:
            ready = self._made_ready(instances[0], 1, to, opened)
            for number, one in enumerate(instances, 1):
                to.lane.take_in()
                if request.is_cancelled:
                    return
                if is_over(request.association):
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
                    if isinstance(to.lane, AssociationLane):
                        to.lane.send_waiting()

    def _made_ready(self, one: _Granted, number: int, to: _Receiver, opened: ExitStack) -> ReadyStore | None:
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
        self, one: _Granted, contexts: Mapping[str, int], opened: ExitStack
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

    def _granted(self, request: Request, verb: str) -> list[_Granted]:
        """What the identifier names and the peer may have, each study of it on its way into the record."""
        identifier = request.data_set(request.message.Identifier)
        relational = request.abstract_syntax_uid in request.association.relational
        query = selection(identifier, request.abstract_syntax_uid, relational=relational)
        rows = self._named(request, query)
        standing = _Standing(partial(self._stands, request, verb))
        grants: dict[str, tuple[Grant, Recording]] = {}
        counted: dict[str, int] = {}
        for row in rows:
            study = row.series.study.study_instance_uid
            counted[study] = counted.get(study, 0) + 1
        for study, instances in counted.items():
            facts = self._archive.facts(study)
            decision = authorize(request.peer.principal, Action.EXPORT, facts) if facts else None
            detail = f"{verb}: {instances} instances"
            if isinstance(decision, Grant):
                event = request.peer.event(Action.EXPORT, "success", detail, study, decision.institutions)
                grants[study] = decision, self._audit.begin(event)
                standing.granted(decision)
            else:
                self._record(request, "refused", detail, study)
        if not rows:
            self._record(request, "success", f"{verb}: nothing found")
        opening = _Opening(self._archive, standing)
        granted = (
            (*grants[study], row) for row in rows if (study := row.series.study.study_instance_uid) in grants
        )
        return _once(
            [
                _Granted(grant, recording, row, partial(opening.instance, grant, row))
                for grant, recording, row in granted
                if row.series.study.institution in grant.institutions
            ]
        )

    def _stands(self, request: Request, verb: str, grant: Grant) -> bool:
        """Whether the policy says the same now; that it does not is on record."""
        facts = self._archive.facts(grant.study_instance_uid)
        decision = authorize(request.peer.principal, Action.EXPORT, facts) if facts else None
        if isinstance(decision, Grant) and set(grant.institutions) <= set(decision.institutions):
            return True
        self._record(request, "refused", f"{verb}: ended while it ran", grant.study_instance_uid)
        return False

    def _named(self, request: Request, query: InstanceQuery) -> list[InstanceRow]:
        scope = scope_of(request.peer.principal, Action.EXPORT)
        rows = self._archive.find_instances(scope, query)
        if len(rows) > MAX_INSTANCES:
            raise TooManyMatchesError(f"more than {MAX_INSTANCES} instances in one request")
        return rows

    def _finish(self, request: Request, counts: _Counts) -> None:
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


def _taken(association: CentralAssociation) -> dict[str, dict[str, int]]:
    """What who asks by C-GET takes, as `_Receiver` has it."""
    taken: dict[str, dict[str, int]] = {}
    for context in association.accepted_contexts:
        if context.as_scu and context.context_id is not None:
            by_syntax = taken.setdefault(str(context.abstract_syntax), {})
            by_syntax.setdefault(str(context.transfer_syntax[0]), context.context_id)
    return taken


def _once(granted: Sequence[_Granted]) -> list[_Granted]:
    """Each instance once, though two institutions that are in reach hold it: as the archive will open it."""
    best: dict[tuple[str, str, str], _Granted] = {}
    for one in granted:
        row, order = one.row, one.grant.institutions
        name = (one.grant.study_instance_uid, row.series.series_instance_uid, row.sop_instance_uid)
        known = best.setdefault(name, one)
        if order.index(row.series.study.institution) < order.index(known.row.series.study.institution):
            best[name] = one
    return list(best.values())


def batches(
    instances: Sequence[_Granted],
) -> Iterator[tuple[Sequence[_Granted], list[tuple[str, Sequence[str]]]]]:
    """Instances with the presentation contexts they need, as many as fit on one association.

    Each is proposed as it is stored and in both native syntaxes, each of them in a context of its own: so the receiver
    can take all, and the choice stays here.
    """
    first, contexts = 0, dict[tuple[str, str], None]()
    for at, one in enumerate(instances):
        needed = {
            (one.sop_class_uid, syntax): None for syntax in (one.transfer_syntax_uid, *NATIVE_SYNTAXES[:2])
        }
        if len({**contexts, **needed}) > MAX_CONTEXTS:
            yield instances[first:at], [(uid, (syntax,)) for uid, syntax in contexts]
            first, contexts = at, {}
        contexts |= needed
    if first < len(instances):
        yield instances[first:], [(uid, (syntax,)) for uid, syntax in contexts]
