"""Modality Performed Procedure Step as SCP (PS3.4 Annex F.7): N-CREATE and N-SET.

Always true: success is answered only after the message is durable; a step that ended does not change; the bytes
that go on to central are those the modality sent. A crash after the answer loses at most what completeness
learnt from it (then the study is found complete by other evidence).
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from contract.identifiers import InvalidIdentifierError, check_uid
from contract.workflow import StepStatus
from edge.buffer.errors import SpoolError, TransientSpoolError
from edge.buffer.performed_procedures import (
    DuplicateStepError,
    FinalAttribute,
    IncompleteStepError,
    PerformedProcedures,
    StepEndedError,
    UnknownStepError,
)
from edge.buffer.study_standing import StepReport
from edge.gateway.command_set import CommandField, Element, us
from edge.gateway.data_set import DataSet, UnreadableDataSetError, ascii_value, read_data_set
from edge.gateway.service import Peer, Reply, Request

_LOG = logging.getLogger(__name__)

MODALITY_PERFORMED_PROCEDURE_STEP: Final = "1.2.840.10008.3.1.2.3.3"
_ERROR_ID: Final = 0x0903

SUCCESS: Final = 0x0000
NO_LONGER_UPDATED: Final = Reply(
    0x0110,
    "Performed Procedure Step Object may no longer be updated",
    elements={_ERROR_ID: us(0xA710)},  # PS3.4 section F.7.2.2.2
)
UNREADABLE: Final = Reply(0x0110, "The data set of this message cannot be read")
DUPLICATE: Final = Reply(0x0111, "There is a step of this SOP Instance UID already")
NO_SUCH_STEP: Final = Reply(0x0112, "There is no step of this SOP Instance UID")
INVALID_UID: Final = Reply(0x0117, "The SOP Instance UID is none")
NO_ROOM: Final = Reply(0x0213, "This box cannot keep it now; send it again later")
NOT_IN_PROGRESS: Final = Reply(0x0106, "A new step is IN PROGRESS")
UNKNOWN_STATUS: Final = Reply(0x0106, "The status is IN PROGRESS, COMPLETED or DISCONTINUED")

_STATUS: Final = 0x00400252
_SCHEDULED_STEP_ATTRIBUTES: Final = 0x00400270
_PERFORMED_SERIES: Final = 0x00400340
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E
_REFERENCED_IMAGES: Final = (0x00081140, 0x00400220)  # images, and other composite instances
_REFERENCED_SOP_INSTANCE_UID: Final = 0x00081155

_CREATE_NEEDS: Final = {  # type 1 of N-CREATE (PS3.4 Table F.7.2-1)
    _SCHEDULED_STEP_ATTRIBUTES: "Scheduled Step Attributes Sequence",
    0x00400253: "Performed Procedure Step ID",
    0x00400241: "Performed Station AE Title",
    0x00400244: "Performed Procedure Step Start Date",
    0x00400245: "Performed Procedure Step Start Time",
    _STATUS: "Performed Procedure Step Status",
    0x00080060: "Modality",
}
_FINAL: Final = {
    FinalAttribute.END_DATE: (0x00400250, "Performed Procedure Step End Date"),
    FinalAttribute.END_TIME: (0x00400251, "Performed Procedure Step End Time"),
    FinalAttribute.SERIES: (_PERFORMED_SERIES, "Performed Series Sequence"),
}


class _RefusedError(Exception):
    """What the modality is answered instead of success."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.comment)
        self.reply = reply


class PerformedProcedureService:
    """N-CREATE and N-SET of the Modality Performed Procedure Step SOP Class.

    Parameters
    ----------
    on_step : told of each accepted message, after it is durable; must not raise.
    """

    operations: Mapping[str, frozenset[int]] = {
        MODALITY_PERFORMED_PROCEDURE_STEP: frozenset({CommandField.N_CREATE_RQ, CommandField.N_SET_RQ})
    }

    def __init__(self, procedures: PerformedProcedures, on_step: Callable[[StepReport], None]) -> None:
        self._procedures = procedures
        self._on_step = on_step
        # As a tree a message is twenty times its size: one of them is enough.
        self._reading = threading.Lock()

    def handle(self, request: Request, peer: Peer) -> Iterator[Reply]:
        """Yield the one reply."""
        del peer
        try:
            with self._reading:
                reply = self._accept(request)
        except _RefusedError as refused:
            reply = refused.reply
            _LOG.warning(
                "procedure step refused",
                extra={
                    "calling_ae_title": request.calling_ae_title,
                    "status": f"0x{reply.status:04X}",
                    "reason": reply.comment,
                },
            )
        yield reply

    def _accept(self, request: Request) -> Reply:
        creates = request.command.field == CommandField.N_CREATE_RQ
        sop_instance_uid = _sop_instance_uid(request, creates=creates)
        try:
            data_set = read_data_set(request.data_set, request.context.transfer_syntax_uid)
        except UnreadableDataSetError as error:
            raise _RefusedError(UNREADABLE) from error
        status = _status(data_set)
        try:
            if creates:
                _check_create(data_set, status)
                self._procedures.create(
                    sop_instance_uid,
                    request.data_set,
                    supplies=_supplies(data_set),
                    transfer_syntax_uid=request.context.transfer_syntax_uid,
                    calling_ae_title=request.calling_ae_title,
                )
            else:
                self._procedures.set(
                    sop_instance_uid,
                    request.data_set,
                    status=status,
                    supplies=_supplies(data_set),
                    transfer_syntax_uid=request.context.transfer_syntax_uid,
                    calling_ae_title=request.calling_ae_title,
                )
        except SpoolError as error:
            raise _RefusedError(_reply_to(error)) from error
        _LOG.info(
            "procedure step accepted",
            extra={
                "calling_ae_title": request.calling_ae_title,
                "sop_instance_uid": sop_instance_uid,
                "status": status or "unchanged",
            },
        )
        self._on_step(_report(sop_instance_uid, request.calling_ae_title, status, data_set))
        return Reply(SUCCESS, elements={Element.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid.encode("ascii")})


def _sop_instance_uid(request: Request, *, creates: bool) -> str:
    """The step's UID; a modality may leave naming a new one to us (PS3.7 section 10.1.5.1.4)."""
    element = Element.AFFECTED_SOP_INSTANCE_UID if creates else Element.REQUESTED_SOP_INSTANCE_UID
    given = request.command.uid(element)
    if creates and not given:
        return f"2.25.{uuid.uuid4().int}"
    try:
        return check_uid(given, "SOP Instance UID")
    except InvalidIdentifierError as error:
        raise _RefusedError(INVALID_UID) from error


def _status(data_set: DataSet) -> StepStatus | None:
    """What the message changes the status to; None where it says nothing of it."""
    if _STATUS not in data_set:
        return None
    try:
        return StepStatus(ascii_value(data_set, _STATUS))
    except ValueError as error:
        raise _RefusedError(UNKNOWN_STATUS) from error


def _check_create(data_set: DataSet, status: StepStatus | None) -> None:
    for tag, name in _CREATE_NEEDS.items():
        if tag not in data_set:
            raise _RefusedError(Reply(0x0120, f"{name} is missing"))
        if data_set[tag].is_empty:
            raise _RefusedError(Reply(0x0121, f"{name} is empty"))
    for step in data_set[_SCHEDULED_STEP_ATTRIBUTES].items:
        if not ascii_value(step, _STUDY_INSTANCE_UID):
            raise _RefusedError(Reply(0x0120, "A scheduled step's Study Instance UID is missing"))
    if status is not StepStatus.IN_PROGRESS:
        raise _RefusedError(NOT_IN_PROGRESS)


def _supplies(data_set: DataSet) -> FinalAttribute:
    found = FinalAttribute(0)
    for flag, (tag, _) in _FINAL.items():
        if tag in data_set and not data_set[tag].is_empty:
            found |= flag
    return found


def _reply_to(error: SpoolError) -> Reply:
    match error:
        case DuplicateStepError():
            return DUPLICATE
        case UnknownStepError():
            return NO_SUCH_STEP
        case StepEndedError():
            return NO_LONGER_UPDATED
        case IncompleteStepError():
            name = next(name for flag, (_, name) in _FINAL.items() if flag in error.missing)
            return Reply(0x0120, f"{name} is missing")
        case TransientSpoolError():
            return NO_ROOM
    return Reply(0x0110, "This box failed; see its log")


def _report(
    sop_instance_uid: str, calling_ae_title: str, status: StepStatus | None, data_set: DataSet
) -> StepReport:
    """Which studies the step belongs to, and which instances it made: UIDs alone."""
    scheduled = data_set.get(_SCHEDULED_STEP_ATTRIBUTES)
    studies = {ascii_value(step, _STUDY_INSTANCE_UID) for step in scheduled.items} if scheduled else set()
    performed = data_set.get(_PERFORMED_SERIES)
    series: dict[str, frozenset[str]] | None = None
    if performed is not None and performed.items:
        series = {}
        for item in performed.items:
            made = {
                ascii_value(reference, _REFERENCED_SOP_INSTANCE_UID)
                for tag in _REFERENCED_IMAGES
                for reference in (item[tag].items if tag in item else ())
            }
            uid = ascii_value(item, _SERIES_INSTANCE_UID)
            series[uid] = series.get(uid, frozenset()) | frozenset(made - {""})
    return StepReport(
        sop_instance_uid=sop_instance_uid,
        calling_ae_title=calling_ae_title,
        status=status,
        study_instance_uids=frozenset(studies - {""}),
        series=series,
    )
