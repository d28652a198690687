"""ORM^O01 and OMI^O23 to items of the worklist, by the mapping of IHE Radiology (RAD-4, RAD-13; appendix B).

| worklist | ORM^O01 | OMI^O23 |
|---|---|---|
| Accession Number | OBR-18 | IPC-1, else OBR-18 |
| Requested Procedure ID | OBR-19 | IPC-2, else OBR-19 |
| Study Instance UID | ZDS-1 | IPC-3, else ZDS-1 |
| Scheduled Procedure Step ID | OBR-20 | IPC-4, else OBR-20 |
| Modality | OBR-24 | IPC-5, else OBR-24 |
| Scheduled Station AE Title | OBR-21 | IPC-9, else OBR-21 |
| Requesting Service | ORC-17 | ORC-17 |
| start | TQ1-7, else ORC-7.4, OBR-27.4, OBR-36 | the same |

Where no Study Instance UID is sent, one is made of sender and accession number (or order), the same each time.
The three identifiers of VR SH are never cut, since two might become one: an order with a longer one is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom import Dataset

from central.workflow.hl7_message import (
    DATA_TYPE_ERROR,
    REQUIRED_FIELD_MISSING,
    UNSUPPORTED_MESSAGE,
    Hl7Error,
    Message,
    Segment,
)

KINDS: Final = ("ORM^O01", "OMI^O23")
_PUT: Final = frozenset(("NW", "XO", "XX", "RP", "RO", "XR"))
_CANCEL: Final = frozenset(("CA", "OC", "CR", "DC", "OD", "DR"))
_STATUS: Final = frozenset(("SC", "SN", "NA", "OK"))
_OVER: Final = frozenset(("CA", "DC", "CM"))  # order status (ORC-5) of what needs no worklist item any more
_SEXES: Final = frozenset(("M", "F", "O"))
_SHORT_CHARACTERS: Final = 16  # of VR SH (PS3.5 section 6.2)
_TIMESTAMP: Final = re.compile(r"(\d{8})(\d{2}|\d{4}|\d{6})?(\.\d+)?([+-]\d{4})?")


@dataclass(frozen=True)
class Change:
    """What an order wants: `item` is DICOM JSON to put, or None to take the item out.

    `of_whole_order`: everything else that came with the order is taken out as well.
    """

    order_id: str
    item_id: str
    item: Mapping[str, Any] | None
    of_whole_order: bool = False


@dataclass
class _Order:
    """The segments of one ORC."""

    control: Segment
    request: Segment
    timing: Segment
    steps: list[Segment] = field(default_factory=list)


def changes_of(message: Message) -> list[Change]:
    """What the orders of a message want, in their order.

    Raises
    ------
    Hl7Error : it is another kind of message, or an order lacks what an item needs. Then nothing of it is done.
    """
    if message.kind not in KINDS:
        raise Hl7Error("AR", UNSUPPORTED_MESSAGE, "ORM^O01 and OMI^O23 are taken, this is neither")
    orders = list(_orders(message))
    if not orders:
        raise Hl7Error("AE", REQUIRED_FIELD_MISSING, "the message has no ORC segment")
    return [change for order in orders for change in _changes(message, order)]


def _orders(message: Message) -> Iterator[_Order]:
    order: _Order | None = None
    for segment in message.segments:
        if segment.name == "ORC":
            if order is not None:
                yield order
            empty = Segment("", (), segment.delimiters)
            order = _Order(segment, empty, empty)
        elif order is None:
            continue
        elif segment.name == "OBR":
            order.request = segment
        elif segment.name == "TQ1":
            order.timing = segment
        elif segment.name == "IPC":
            order.steps.append(segment)
    if order is not None:
        yield order


def _changes(message: Message, order: _Order) -> Iterator[Change]:
    control = order.control.get(1).upper()
    is_over = control in _CANCEL or (control in _STATUS and order.control.get(5).upper() in _OVER)
    if control in _STATUS and not is_over:
        return
    if not is_over and control not in _PUT:
        raise Hl7Error("AR", UNSUPPORTED_MESSAGE, "this order control code (ORC-1) is not supported")
    order_id = _order_id(message, order)
    for step in order.steps or [Segment("IPC", (), order.control.delimiters)]:
        step_id = step.get(4) or order.request.get(20)
        item_id = f"hl7-{_digest(order_id, step_id)[:40]}"
        if not is_over:
            yield Change(_digest(order_id), item_id, _item(message, order, step).to_json_dict())
        else:  # who cancels need not say which steps there were
            yield Change(_digest(order_id), item_id, None, of_whole_order=not step_id)


def _order_id(message: Message, order: _Order) -> str:
    """The same for every message about one order of one sender."""
    placer = order.control.get(2) or order.request.get(2)
    number = placer or order.control.get(3) or order.request.get(3)
    if not number:
        raise Hl7Error(
            "AE", REQUIRED_FIELD_MISSING, "an order has a placer or filler order number (ORC-2, ORC-3)"
        )
    return f"{_sender(message)}\0{number}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _item(message: Message, order: _Order, step: Segment) -> Dataset:
    patient, visit, request = message.first("PID"), message.first("PV1"), order.request
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = _needed(_name(patient, 5, is_staff=False), "PID-5, the patient's name")
    ds.PatientID = _needed(patient.get(3, 1), "PID-3, the patient's id")
    ds.IssuerOfPatientID = patient.get(3, 4)
    ds.PatientBirthDate = patient.get(7)[:8]
    ds.PatientSex = patient.get(8).upper() if patient.get(8).upper() in _SEXES else ""
    accession_number = _short(step.get(1) or request.get(18), "accession number (IPC-1, OBR-18)")
    ds.AccessionNumber = accession_number
    ds.ReferringPhysicianName = _name(visit, 8, is_staff=True)
    ds.RequestingPhysician = _name(request, 16, is_staff=True)
    if service := order.control.get(17, 2) or order.control.get(17, 1):
        ds.RequestingService = service[:64]
    ds.AdmissionID = visit.get(19)[:64]
    procedure_id = _short(step.get(2) or request.get(19), "requested procedure id (IPC-2, OBR-19)")
    ds.RequestedProcedureID = procedure_id or accession_number
    ds.RequestedProcedureDescription = (request.get(4, 5) or request.get(4, 2))[:64]
    code = _code(request, 4)
    if code is not None:
        ds.RequestedProcedureCodeSequence = [code]
    ds.StudyInstanceUID = (
        step.get(3) or message.first("ZDS").get(1) or _made_uid(message, accession_number or _number(order))
    )
    scheduled = Dataset()
    scheduled.ScheduledStationAETitle = _needed(
        step.get(9) or request.get(21), "IPC-9 or OBR-21, the station"
    )
    day, clock = _start(order)
    scheduled.ScheduledProcedureStepStartDate, scheduled.ScheduledProcedureStepStartTime = day, clock
    scheduled.Modality = _needed(step.get(5) or request.get(24), "IPC-5 or OBR-24, the modality").upper()
    step_id = _short(step.get(4) or request.get(20), "scheduled procedure step id (IPC-4, OBR-20)")
    scheduled.ScheduledProcedureStepID = step_id or ds.RequestedProcedureID
    scheduled.ScheduledProcedureStepDescription = (step.get(6, 2) or ds.RequestedProcedureDescription)[:64]
    scheduled.ScheduledStationName = step.get(7)[:16]
    scheduled.ScheduledProcedureStepLocation = step.get(8)[:16]
    scheduled.ScheduledPerformingPhysicianName = ""
    ds.ScheduledProcedureStepSequence = [scheduled]
    return ds


def _start(order: _Order) -> tuple[str, str]:
    candidates = (
        order.timing.get(7),
        order.control.get(7, 4),
        order.request.get(27, 4),
        order.request.get(36),
    )
    text = _needed(next(filter(None, candidates), ""), "the start (TQ1-7, ORC-7, OBR-27 or OBR-36)")
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        raise Hl7Error("AE", DATA_TYPE_ERROR, "the start is no time stamp: YYYYMMDDHHMM")
    return found.group(1), found.group(2) or "0000"


def _name(segment: Segment, number: int, *, is_staff: bool) -> str:
    """XPN, or XCN with an id before it, to a Person Name: HL7 has the suffix before the prefix, DICOM behind it."""
    first = 2 if is_staff else 1
    family, given, middle, suffix, prefix = (segment.get(number, first + offset) for offset in range(5))
    parts = [re.sub(r"[\^=\\]", " ", part) for part in (family, given, middle, prefix, suffix)]
    return "^".join(parts).rstrip("^")[:64]


def _code(segment: Segment, number: int) -> Dataset | None:
    for first in (4, 1):
        value, meaning, scheme = (segment.get(number, first + offset) for offset in range(3))
        if value and meaning and scheme:
            code = Dataset()
            code.CodeValue, code.CodeMeaning, code.CodingSchemeDesignator = (
                value[:16],
                meaning[:64],
                scheme[:16],
            )
            return code
    return None


def _needed(text: str, what: str) -> str:
    if not text:
        raise Hl7Error("AE", REQUIRED_FIELD_MISSING, f"{what} is needed")
    return text


def _short(text: str, what: str) -> str:
    """An identifier of VR SH, whole."""
    if len(text) > _SHORT_CHARACTERS:
        raise Hl7Error(
            "AE",
            DATA_TYPE_ERROR,
            f"the {what} has {len(text)} characters; DICOM has room for {_SHORT_CHARACTERS}",
        )
    return text


def _number(order: _Order) -> str:
    return order.control.get(2) or order.control.get(3) or order.request.get(2) or order.request.get(3)


def _sender(message: Message) -> str:
    return f"{message.header.get(3)}\0{message.header.get(4)}"


def _made_uid(message: Message, number: str) -> str:
    digest = hashlib.sha256(f"study\0{_sender(message)}\0{number}".encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"  # PS3.5 section B.2
