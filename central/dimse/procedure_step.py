"""Modality Performed Procedure Step as SCP (PS3.4 section F.7): N-CREATE and N-SET, kept as they were sent.

| state | N-CREATE | N-SET |
|---|---|---|
| none | IN PROGRESS, else 0x0106 | 0x0112 |
| IN PROGRESS | 0x0111 | kept; COMPLETED and DISCONTINUED end it |
| ended | 0x0111 | 0x0110, Error ID 0xA710 |

Always true: a message is durable before it is answered with success, and on record.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from io import BytesIO
from typing import Final, Literal, Protocol

from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import ImplicitVRLittleEndian, generate_uid
from pynetdicom.dimse_primitives import N_CREATE

from central.audit.errors import AuditUnavailableError
from central.audit.events import Action
from central.audit.record import Audit
from central.dimse.association import PROCESSING_FAILURE, SUCCESS, Request
from contract.identifiers import InvalidIdentifierError, check_uid

PERFORMED_PROCEDURE_STEP: Final = "1.2.840.10008.3.1.2.3.3"
Verdict = Literal["kept", "known", "unknown", "ended", "unusable"]

_INVALID_ATTRIBUTE_VALUE: Final = 0x0106
_DUPLICATE: Final = 0x0111
_NO_SUCH_STEP: Final = 0x0112
_INVALID_UID: Final = 0x0117
_MISSING_ATTRIBUTE: Final = 0x0120
_MISSING_VALUE: Final = 0x0121
_RESOURCE_LIMITATION: Final = 0x0213
_MAY_NO_LONGER_BE_UPDATED: Final = 0xA710

# Type 1 attributes of PS3.4 Table F.7.2-1.
_NEEDED_TO_BEGIN: Final = (
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "PerformedProcedureStepStatus",
    "Modality",
    "ScheduledStepAttributesSequence",
)
_STATUSES: Final = ("IN PROGRESS", "COMPLETED", "DISCONTINUED")
_log = logging.getLogger(__name__)


class StepKeeper(Protocol):
    """Where steps are kept. `source` and the UID name a step; what is not "kept" says why."""

    def create(
        self, source: str, ae_title: str, sop_instance_uid: str, transfer_syntax_uid: str, data_set: bytes
    ) -> Verdict: ...

    def change(
        self, source: str, ae_title: str, sop_instance_uid: str, transfer_syntax_uid: str, data_set: bytes
    ) -> Verdict: ...

    def messages(self, source: str, sop_instance_uid: str) -> list[tuple[str, bytes]]:
        """Transfer syntax and data set of each message of a step, the first first."""


_ANSWERS: Final[Mapping[Verdict, tuple[int, str]]] = {
    "kept": (SUCCESS, ""),
    "known": (_DUPLICATE, "There is a step of this SOP Instance UID already"),
    "unknown": (_NO_SUCH_STEP, "There is no step of this SOP Instance UID"),
    "ended": (PROCESSING_FAILURE, "The step was completed or discontinued: it may no longer be updated"),
    "unusable": (PROCESSING_FAILURE, "The data set of this message cannot be used"),
}


class ProcedureSteps:
    """Serves N-CREATE and N-SET."""

    def __init__(self, steps: StepKeeper, audit: Audit) -> None:
        self._steps = steps
        self._audit = audit

    def serve(self, request: Request) -> None:
        message = request.message
        is_new = isinstance(message, N_CREATE)
        if is_new and message.AffectedSOPInstanceUID is None:
            message.AffectedSOPInstanceUID = generate_uid(prefix=None)
        uid = str((message.AffectedSOPInstanceUID if is_new else message.RequestedSOPInstanceUID) or "")
        encoded: BytesIO | None = message.AttributeList if is_new else message.ModificationList
        try:
            check_uid(uid, "SOP Instance UID")
            ds = request.data_set(encoded)
            fault = _fault_of_new(ds) if is_new else self._fault_of_change(request, uid, ds)
        except InvalidIdentifierError:
            request.respond(_INVALID_UID, "The SOP Instance UID is none")
            return
        if fault is not None:
            request.respond(*fault)
            return
        self._keep(request, uid, ds, (encoded or BytesIO()).getvalue(), is_new=is_new)

    def _keep(self, request: Request, uid: str, ds: Dataset, encoded: bytes, *, is_new: bool) -> None:
        peer = request.peer
        verb = "create" if is_new else "set"
        keep = self._steps.create if is_new else self._steps.change
        try:
            detail = f"{verb} {uid} {ds.get('PerformedProcedureStepStatus', '')}".strip()
            self._audit.record(peer.event(Action.PROCEDURE_STEP, "success", detail, _study(ds)))
            verdict = keep(peer.source, peer.ae_title, uid, str(request.transfer_syntax_uid), encoded)
        except AuditUnavailableError:
            request.respond(_RESOURCE_LIMITATION, "the audit record cannot be written")
            return
        status, comment = _ANSWERS[verdict]
        _log.info("event=procedure-step ae_title=%s operation=%s verdict=%s", peer.ae_title, verb, verdict)
        fields = {"ErrorID": _MAY_NO_LONGER_BE_UPDATED} if verdict == "ended" else {}
        request.respond(status, comment, fields=fields)

    def _fault_of_change(self, request: Request, uid: str, change: Dataset) -> tuple[int, str] | None:
        status = change.get("PerformedProcedureStepStatus")
        if status is None or status == _STATUSES[0]:
            return None
        if status not in _STATUSES:
            return _INVALID_ATTRIBUTE_VALUE, "The status is IN PROGRESS, COMPLETED or DISCONTINUED"
        whole = Dataset()
        for syntax, encoded in self._steps.messages(request.peer.source, uid):
            whole.update(_decoded(syntax, encoded))
        whole.update(change)
        for keyword in ("PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime"):
            if not whole.get(keyword):
                return _MISSING_VALUE, f"{keyword} is needed when a step ends"
        if status == "COMPLETED" and not whole.get("PerformedSeriesSequence"):
            return _MISSING_VALUE, "A completed step has a series"
        return None


def _decoded(syntax: str, encoded: bytes) -> Dataset:
    return read_dataset(BytesIO(encoded), syntax == ImplicitVRLittleEndian, True)


def _fault_of_new(ds: Dataset) -> tuple[int, str] | None:
    for keyword in _NEEDED_TO_BEGIN:
        if keyword not in ds:
            return _MISSING_ATTRIBUTE, f"{keyword} is missing"
        if not ds.get(keyword):
            return _MISSING_VALUE, f"{keyword} is empty"
    if not all(step.get("StudyInstanceUID") for step in ds.ScheduledStepAttributesSequence):
        return _MISSING_VALUE, "A scheduled step's Study Instance UID is missing"
    if ds.PerformedProcedureStepStatus != _STATUSES[0]:
        return _INVALID_ATTRIBUTE_VALUE, "A new step is IN PROGRESS"
    return None


def _study(ds: Dataset) -> str | None:
    for step in ds.get("ScheduledStepAttributesSequence") or ():
        return str(step.get("StudyInstanceUID") or "") or None
    return None
