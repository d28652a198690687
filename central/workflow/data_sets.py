"""DICOM JSON in, bytes for modalities out; and the few elements of a procedure step that central goes by.

pydicom does the reading. What it raises over a hostile data set may be anything and quotes it, so every failure
leaves here as this room's own, with a text in which nothing of the data set stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, TypeVar

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from central.workflow.errors import UnusableItemError, UnusableMessageError
from contract.identifiers import InvalidIdentifierError, check_uid
from contract.workflow import MAX_WORKLIST_ITEM_BYTES, Operation, StepStatus

T = TypeVar("T")

_UTF8: Final = "ISO_IR 192"
_NEEDED: Final = ("PatientName", "PatientID", "StudyInstanceUID", "ScheduledProcedureStepSequence")
_NEEDED_IN_STEP: Final = (
    "ScheduledStationAETitle",
    "ScheduledProcedureStepStartDate",
    "ScheduledProcedureStepStartTime",
    "Modality",
)
_DATE_DIGITS: Final = 8


@dataclass(frozen=True)
class Scheduled:
    """A worklist item, checked and encoded. `data_set` is in Explicit VR Little Endian.

    `physician_names` are who requested and who referred, `requesting_service` is the department; "" where not said.
    """

    study_instance_uid: str
    scheduled_date: str
    scheduled_time: str
    data_set: bytes
    physician_names: tuple[str, ...] = ()
    requesting_service: str = ""


@dataclass(frozen=True)
class StepFacts:
    """What a message about a procedure step says of itself."""

    status: StepStatus | None
    study_instance_uids: frozenset[str]


def scheduled_item(item: Mapping[str, Any]) -> Scheduled:
    """Encode a worklist item of DICOM JSON (PS3.18 Annex F) in the character set that it names, else in UTF-8.

    Raises
    ------
    UnusableItemError : it lacks what every item needs, or its text does not fit its character set.
    """
    if "BulkDataURI" in json.dumps(item):
        raise UnusableItemError("a worklist item has all its values in itself, no BulkDataURI")
    ds = _safely(lambda: Dataset.from_json(dict(item)), "the item is not DICOM JSON")
    if any(element.tag.group < 0x0008 for element in ds):
        raise UnusableItemError("a worklist item has no command or file meta elements")
    step = _checked_step(ds)
    if not ds.get("SpecificCharacterSet"):
        ds.SpecificCharacterSet = _UTF8
    data_set = _safely(lambda: _encoded(ds), "the item cannot be encoded")
    if len(data_set) > MAX_WORKLIST_ITEM_BYTES:
        raise UnusableItemError(f"a worklist item has at most {MAX_WORKLIST_ITEM_BYTES} bytes")
    back = _safely(lambda: _decoded(data_set, str(ExplicitVRLittleEndian)), "the item cannot be encoded")
    if back != ds.to_json_dict():
        raise UnusableItemError("the item's text does not fit its Specific Character Set (0008,0005)")
    return Scheduled(
        study_instance_uid=str(ds.StudyInstanceUID),
        scheduled_date=str(step.ScheduledProcedureStepStartDate),
        scheduled_time=str(step.ScheduledProcedureStepStartTime),
        data_set=data_set,
        physician_names=tuple(
            str(ds.get(keyword) or "") for keyword in ("RequestingPhysician", "ReferringPhysicianName")
        ),
        requesting_service=str(ds.get("RequestingService") or ""),
    )


def step_facts(data_set: bytes, transfer_syntax_uid: str, operation: Operation) -> StepFacts:
    """Status and studies of a message.

    Raises
    ------
    UnusableMessageError : it cannot be read, or begins a step without saying of which study.
    """
    if transfer_syntax_uid not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        raise UnusableMessageError("a message is in Explicit or Implicit VR Little Endian")
    try:
        ds = _read(data_set, transfer_syntax_uid)
        status = ds.get("PerformedProcedureStepStatus")
        studies = {
            check_uid(str(step.get("StudyInstanceUID", "")), "Study Instance UID")
            for step in ds.get("ScheduledStepAttributesSequence") or ()
        }
        facts = StepFacts(StepStatus(status) if status else None, frozenset(studies))
    except Exception as error:  # see the module
        raise UnusableMessageError("the data set of this message cannot be read") from error
    if operation is Operation.CREATE and not facts.study_instance_uids:
        raise UnusableMessageError("a step belongs to a study")
    return facts


def _checked_step(ds: Dataset) -> Dataset:
    for keyword in _NEEDED:
        if not ds.get(keyword):
            raise UnusableItemError(f"the item has no {keyword}")
    if len(ds.ScheduledProcedureStepSequence) != 1:
        raise UnusableItemError("an item has one scheduled procedure step")
    step: Dataset = ds.ScheduledProcedureStepSequence[0]
    for keyword in _NEEDED_IN_STEP:
        if not step.get(keyword):
            raise UnusableItemError(f"the scheduled procedure step has no {keyword}")
    day = str(step.ScheduledProcedureStepStartDate)
    if len(day) != _DATE_DIGITS or not day.isascii() or not day.isdigit():
        raise UnusableItemError("ScheduledProcedureStepStartDate is written YYYYMMDD")
    try:
        check_uid(str(ds.StudyInstanceUID), "Study Instance UID")
    except InvalidIdentifierError as error:
        raise UnusableItemError(str(error)) from error
    return step


def _encoded(ds: Dataset) -> bytes:
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    write_dataset(out, ds)
    return bytes(out.getvalue())


def _decoded(data_set: bytes, transfer_syntax_uid: str) -> dict[str, Any]:
    return dict(_read(data_set, transfer_syntax_uid).to_json_dict())


def _read(data_set: bytes, transfer_syntax_uid: str) -> Dataset:
    return read_dataset(BytesIO(data_set), transfer_syntax_uid == ImplicitVRLittleEndian, True)


def _safely(step: Callable[[], T], sentence: str) -> T:
    try:
        return step()
    except Exception as error:  # see the module
        raise UnusableItemError(sentence) from error
