"""Command sets of C-STORE and of responses, written and read by hand (PS3.7 sections 6.3.1, 9.3, 10.3 and E.1).

Always implicit VR little endian, and of the same few elements each time: pydicom takes longer for one than the image
behind it takes on the wire.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from central.dimse.errors import OverLimitError
from contract.identifiers import InvalidIdentifierError, check_uid

C_STORE_RSP: Final = 0x8001
C_CANCEL_RQ: Final = 0x0FFF
AFFECTED_SOP_CLASS_UID: Final = 0x0002
COMMAND_FIELD: Final = 0x0100
MESSAGE_ID: Final = 0x0110
MESSAGE_ID_RESPONDED_TO: Final = 0x0120
MOVE_DESTINATION: Final = 0x0600
PRIORITY: Final = 0x0700
DATA_SET_TYPE: Final = 0x0800
NO_DATA_SET: Final = 0x0101
STATUS: Final = 0x0900
_C_STORE_RQ: Final = 0x0001
_MEDIUM_PRIORITY: Final = 0
_NUMBERS: Final = {
    "ErrorID": 0x0903,
    "ActionTypeID": 0x1008,
    "NumberOfRemainingSuboperations": 0x1020,
    "NumberOfCompletedSuboperations": 0x1021,
    "NumberOfFailedSuboperations": 0x1022,
    "NumberOfWarningSuboperations": 0x1023,
}
_PRIORITIES: Final = (0, 1, 2)
_DATA_SET_FOLLOWS: Final = 0x0001
_ELEMENT: Final = struct.Struct("<HHI")
_US: Final = struct.Struct("<H")


def store_rq(
    sop_class_uid: str, sop_instance_uid: str, message_id: int, originator: tuple[str, int] | None
) -> bytes:
    """A C-STORE-RQ (PS3.7 Table 9.3-1). `originator`: AE title and Message ID of a C-MOVE-RQ."""
    body = (
        _element(AFFECTED_SOP_CLASS_UID, _uid(sop_class_uid))
        + _element(COMMAND_FIELD, _US.pack(_C_STORE_RQ))
        + _element(MESSAGE_ID, _US.pack(message_id))
        + _element(PRIORITY, _US.pack(_MEDIUM_PRIORITY))
        + _element(DATA_SET_TYPE, _US.pack(_DATA_SET_FOLLOWS))
        + _element(0x1000, _uid(sop_instance_uid))
    )
    if originator is not None:
        title, move_id = originator
        padded = title.encode("latin-1", "replace")
        body += _element(0x1030, padded + b" " * (len(padded) % 2)) + _element(0x1031, _US.pack(move_id))
    return _element(0x0000, struct.pack("<I", len(body))) + body


def store_rsp(sop_class_uid: str, sop_instance_uid: str, message_id: int, status: int, comment: str) -> bytes:
    """A C-STORE-RSP (PS3.7 Table 9.3-2)."""
    return response(C_STORE_RSP, message_id, status, (sop_class_uid, sop_instance_uid), comment)


def response(
    field: int,
    message_id: int,
    status: int,
    affected: tuple[str | None, str | None],
    comment: str = "",
    *,
    numbers: Mapping[str, int] | None = None,
    has_data_set: bool = False,
) -> bytes:
    """A response of any service (PS3.7 sections 9.3 and 10.3).

    Parameters
    ----------
    field : its Command Field.
    message_id : of the request.
    affected : SOP Class UID and SOP Instance UID, None where it names none.
    numbers : further elements, by keyword; of those in `_NUMBERS`.
    """
    said = comment.encode("ascii", "replace")
    elements = {
        COMMAND_FIELD: _US.pack(field),
        MESSAGE_ID_RESPONDED_TO: _US.pack(message_id),
        DATA_SET_TYPE: _US.pack(_DATA_SET_FOLLOWS if has_data_set else NO_DATA_SET),
        STATUS: _US.pack(status),
    }
    for element, uid in zip((AFFECTED_SOP_CLASS_UID, 0x1000), affected, strict=True):
        if uid is not None:
            elements[element] = _uid(uid)
    if said:
        elements[0x0902] = said + b" " * (len(said) % 2)
    for keyword, value in (numbers or {}).items():
        elements[_NUMBERS[keyword]] = _US.pack(value)
    body = b"".join(_element(element, value) for element, value in sorted(elements.items()))
    return _element(0x0000, struct.pack("<I", len(body))) + body


@dataclass(frozen=True)
class StoreRequest:
    """What a C-STORE-RQ says that is needed to serve it."""

    message_id: int
    priority: int
    sop_class_uid: str
    sop_instance_uid: str


def plain_store_rq(command_set: bytes) -> StoreRequest | None:
    """A C-STORE-RQ with a data set and all that belongs to it; None: it is anything else."""
    try:
        found = elements(command_set)
        sop_class_uid, sop_instance_uid = (
            check_uid(found.get(element, b"").rstrip(b"\0").decode("ascii"))
            for element in (AFFECTED_SOP_CLASS_UID, 0x1000)
        )
    except (OverLimitError, InvalidIdentifierError, UnicodeDecodeError):
        return None
    message_id, priority = number(found, MESSAGE_ID), number(found, PRIORITY)
    if number(found, COMMAND_FIELD) != _C_STORE_RQ or number(found, DATA_SET_TYPE) in (None, NO_DATA_SET):
        return None
    if message_id is None or priority not in _PRIORITIES:
        return None
    return StoreRequest(message_id, priority, sop_class_uid, sop_instance_uid)


def elements(command_set: bytes) -> dict[int, bytes]:
    """Element number → value. OverLimitError for what is no command set."""
    found, at = dict[int, bytes](), 0
    while at < len(command_set):
        if len(command_set) - at < _ELEMENT.size:
            raise OverLimitError("a command set that is cut short")
        group, number, length = _ELEMENT.unpack_from(command_set, at)
        at += _ELEMENT.size
        if group != 0 or length > len(command_set) - at:
            raise OverLimitError("this is no command set")
        found[number] = command_set[at : at + length]
        at += length
    return found


def number(found: dict[int, bytes], element: int) -> int | None:
    """The value of VR US; None where there is none."""
    value = found.get(element, b"")
    return int(_US.unpack(value)[0]) if len(value) == _US.size else None


def _element(number: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, number, len(value)) + value


def _uid(uid: str) -> bytes:
    raw = uid.encode("ascii", "replace")  # one that is none is answered as such
    return raw + b"\0" * (len(raw) % 2)
