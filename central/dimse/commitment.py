"""Storage Commitment Push Model as SCP (PS3.4 Annex J): what the archive holds is vouched for, and nothing else.

A peer with a host is told on a new association, as long as it takes, also by the next life of central. One without is
told on the association that asked, at once. What is not here yet may still be on its way through a box: a peer with a
host is not told that it failed before `commitment_wait_s`.

Always true: an instance is committed to only when the index has it under that SOP class, which it has once its file is
durable, and when nobody has found the file damaged since.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Final

import peewee
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode

from central.access.policy import Action, scope_of
from central.archive.archive import Archive
from central.archive.query import InstanceQuery
from central.database import Database
from central.dimse.association import PROCESSING_FAILURE, SUCCESS, Request
from central.dimse.calling import called
from central.dimse.commitment_store import Commitment, CommitmentStore, Reference
from central.dimse.conversation import Conversation
from central.dimse.errors import CallFailedError, PeerGoneError
from central.dimse.peers import Peer, Peers
from central.dimse.settings import DimseSettings
from contract.identifiers import InvalidIdentifierError, check_uid

STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
_WELL_KNOWN_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
_REQUEST_STORAGE_COMMITMENT: Final = 1
_ALL_COMMITTED, _FAILURES_EXIST = 1, 2
MAX_INSTANCES: Final = 65_536

# Failure Reason (PS3.3 C.14.1.1) and DIMSE status (PS3.7 Annex C)
NO_SUCH_OBJECT_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119
_INVALID_ARGUMENT: Final = 0x0115
_NO_SUCH_ACTION: Final = 0x0123
_RESOURCE_LIMITATION: Final = 0x0213

_UIDS_A_SEARCH: Final = 400
_ANSWER_TIMEOUT_S: Final = 15.0
_OTHERS_HELD: Final = 4
_WAIT_AGAIN_S: Final = 5.0
_FIRST_RETRY_S: Final = 5.0
_RETRY_CEILING_S: Final = 900.0
_GIVE_UP_S: Final = 7 * 86_400.0
_log = logging.getLogger(__name__)


class Commitments:
    """Serves N-ACTION, and tells those with a host from a thread of its own between `start` and `stop`."""

    def __init__(self, settings: DimseSettings, peers: Peers, archive: Archive, db: Database) -> None:
        self._settings = settings
        self._peers = peers
        self._archive = archive.reading
        self._faults = archive.faults
        self._store = CommitmentStore(db)
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._report_all, name="commitment-reports", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._changed.set()
        self._thread.join(_ANSWER_TIMEOUT_S)

    def serve(self, request: Request) -> None:
        message = request.message
        if message.ActionTypeID != _REQUEST_STORAGE_COMMITMENT:
            request.respond(_NO_SUCH_ACTION)
            return
        try:
            transaction_uid, references = read_request(request.data_set(message.ActionInformation))
        except (InvalidIdentifierError, ValueError) as error:
            request.respond(_INVALID_ARGUMENT, str(error))
            return
        title = request.peer.ae_title
        _log.info("event=commitment-asked ae_title=%s instances=%d", title, len(references))
        if self._peers.destination(title, request.peer.institution) is None:
            request.respond(SUCCESS, fields={"ActionTypeID": _REQUEST_STORAGE_COMMITMENT})
            self._tell_here(request, transaction_uid, references)
            return
        try:
            kept = self._store.add(title, request.peer.institution, transaction_uid, references)
        except peewee.PeeweeException:
            request.respond(PROCESSING_FAILURE, "the request cannot be kept now")
            return
        if not kept:
            request.respond(_RESOURCE_LIMITATION, "too many requests wait already")
            return
        request.respond(SUCCESS, fields={"ActionTypeID": _REQUEST_STORAGE_COMMITMENT})
        self._changed.set()

    def _tell_here(self, request: Request, transaction_uid: str, references: Sequence[Reference]) -> None:
        failures = self._judge(request.peer, references)
        try:
            send_report(
                request.association,
                request.context_id,
                request.transfer_syntax_uid,
                report(transaction_uid, references, failures),
                failed=bool(failures),
            )
        except PeerGoneError as error:
            _log.warning("event=commitment-not-told ae_title=%s reason=%s", request.peer.ae_title, error)

    def _judge(self, peer: Peer, references: Sequence[Reference]) -> dict[Reference, int]:
        """Failure reasons; what is not in it is committed to."""
        scope = scope_of(peer.principal, Action.SEARCH)
        held: set[Reference] = set()
        for at in range(0, len(references), _UIDS_A_SEARCH):
            uids = {one.sop_instance_uid for one in references[at : at + _UIDS_A_SEARCH]}
            query = InstanceQuery(sop_instance_uid="\\".join(sorted(uids)), limit=None)
            rows = self._archive.find_instances(scope, query)
            broken = self._faults.instances_among(sorted(uids))
            held |= {
                Reference(row.sop_class_uid, row.sop_instance_uid)
                for row in rows
                if row.sop_instance_uid not in broken
            }
        known = {one.sop_instance_uid for one in held}
        return {
            one: CLASS_INSTANCE_CONFLICT if one.sop_instance_uid in known else NO_SUCH_OBJECT_INSTANCE
            for one in references
            if one not in held
        }

    def _report_all(self) -> None:
        while not self._stopping.is_set():
            self._changed.clear()
            try:
                for commitment in self._store.due(time.time()):
                    if self._stopping.is_set():
                        return
                    self._work_on(commitment)
                due_s = self._store.next_due_s()
            except peewee.PeeweeException:  # the database is busy or gone; the requests are in it
                _log.warning("event=commitments-unreadable")
                due_s = time.time() + _WAIT_AGAIN_S
            self._changed.wait(None if due_s is None else max(0.0, due_s - time.time()))

    def _work_on(self, commitment: Commitment) -> None:
        age_s = time.time() - commitment.asked_at_s
        destination = self._peers.destination(commitment.ae_title, commitment.institution)
        if destination is None or age_s > _GIVE_UP_S:
            why = "no host is configured any more" if destination is None else "it never answered"
            _log.error("event=commitment-given-up ae_title=%s reason=%s", commitment.ae_title, why)
            self._store.remove(commitment.number)
            return
        failures = self._judge(
            Peer(commitment.ae_title, destination.host, destination), commitment.references
        )
        if failures and age_s < self._settings.commitment_wait_s:
            self._store.put_off(commitment.number, time.time() + _WAIT_AGAIN_S, tried=False)
            return
        told = report(commitment.transaction_uid, commitment.references, failures)
        syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
        try:
            with called(
                self._settings,
                destination,
                [(STORAGE_COMMITMENT, syntaxes)],
                as_scp_of=[STORAGE_COMMITMENT],
            ) as association:
                [context] = association.contexts.values()
                send_report(
                    association, context.context_id, context.transfer_syntax_uid, told, failed=bool(failures)
                )
        except (CallFailedError, PeerGoneError) as error:
            _log.warning("event=commitment-not-told ae_title=%s reason=%s", commitment.ae_title, error)
            pause_s = min(_RETRY_CEILING_S, _FIRST_RETRY_S * 2 ** min(commitment.tries, 10))
            self._store.put_off(commitment.number, time.time() + pause_s, tried=True)
            return
        _log.info(
            "event=commitment-told ae_title=%s instances=%d failed=%d",
            commitment.ae_title, len(commitment.references), len(failures),
        )  # fmt: skip
        self._store.remove(commitment.number)


def read_request(action: Dataset) -> tuple[str, list[Reference]]:
    """Transaction UID and references of an N-ACTION (PS3.4 Table J.3-1).

    Raises
    ------
    InvalidIdentifierError, ValueError : a UID is missing or none, or there are no or too many references.
    """
    transaction_uid = check_uid(str(action.get("TransactionUID", "")), "Transaction UID")
    items = action.get("ReferencedSOPSequence") or []
    if not 0 < len(items) <= MAX_INSTANCES:
        raise ValueError(f"1 to {MAX_INSTANCES} instances can be asked for")
    references = dict.fromkeys(
        Reference(
            check_uid(str(item.get("ReferencedSOPClassUID", "")), "Referenced SOP Class UID"),
            check_uid(str(item.get("ReferencedSOPInstanceUID", "")), "Referenced SOP Instance UID"),
        )
        for item in items
    )
    return transaction_uid, list(references)


def report(transaction_uid: str, references: Sequence[Reference], failures: dict[Reference, int]) -> Dataset:
    """The Event Information of an N-EVENT-REPORT (PS3.4 Table J.3-2)."""
    event = Dataset()
    event.TransactionUID = transaction_uid
    committed, failed = [], []
    for reference in references:
        item = Dataset()
        item.ReferencedSOPClassUID = reference.sop_class_uid
        item.ReferencedSOPInstanceUID = reference.sop_instance_uid
        if reference in failures:
            item.FailureReason = failures[reference]
            failed.append(item)
        else:
            committed.append(item)
    if failed:
        event.FailedSOPSequence = failed
    if committed:
        event.ReferencedSOPSequence = committed
    return event


def send_report(
    association: Conversation, context_id: int, transfer_syntax_uid: UID, event: Dataset, *, failed: bool
) -> None:
    """Send it and wait for the answer.

    Raises
    ------
    PeerGoneError : there was none, or not success.
    """
    message = N_EVENT_REPORT()
    message.MessageID = 1
    message.AffectedSOPClassUID = STORAGE_COMMITMENT
    message.AffectedSOPInstanceUID = _WELL_KNOWN_INSTANCE
    message.EventTypeID = _FAILURES_EXIST if failed else _ALL_COMMITTED
    encoded = encode(event, transfer_syntax_uid.is_implicit_VR, True)
    assert encoded is not None
    message.EventInformation = BytesIO(encoded)
    association.ask(context_id, message)
    status = _answer(association)
    if status != SUCCESS:
        raise PeerGoneError(
            "the report was not answered" if status is None else f"it was answered 0x{status:04X}"
        )


def _answer(association: Conversation) -> int | None:
    """The status of the answer to a report; what else comes before it is left to be served after it."""
    others: list[tuple[int, Any]] = []
    try:
        while len(others) < _OTHERS_HELD and (came := association.next(_ANSWER_TIMEOUT_S)) is not None:
            if isinstance(came[1], N_EVENT_REPORT):
                return came[1].Status
            others.append(came)
        return None
    finally:
        association.messages.waiting.extendleft(reversed(others))
