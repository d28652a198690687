"""The few command sets that sub-operations need, written and read by hand (PS3.7 sections 6.3.1, 9.3.1 and E.1).

Always implicit VR little endian, and of the same few elements each time: pydicom takes longer for one than the image
behind it takes on the wire.
"""

from __future__ import annotations

import struct
from typing import Final

from central.dimse.errors import OverLimitError

C_STORE_RSP: Final = 0x8001
C_CANCEL_RQ: Final = 0x0FFF
COMMAND_FIELD: Final = 0x0100
MESSAGE_ID_RESPONDED_TO: Final = 0x0120
STATUS: Final = 0x0900
_C_STORE_RQ: Final = 0x0001
_MEDIUM_PRIORITY: Final = 0
_DATA_SET_FOLLOWS: Final = 0x0001
_ELEMENT: Final = struct.Struct("<HHI")
_US: Final = struct.Struct("<H")


def store_rq(
    sop_class_uid: str, sop_instance_uid: str, message_id: int, originator: tuple[str, int] | None
) -> bytes:
    """A C-STORE-RQ (PS3.7 Table 9.3-1). `originator`: AE title and Message ID of a C-MOVE-RQ."""
    body = (
        _element(0x0002, _uid(sop_class_uid))
        + _element(COMMAND_FIELD, _US.pack(_C_STORE_RQ))
        + _element(0x0110, _US.pack(message_id))
        + _element(0x0700, _US.pack(_MEDIUM_PRIORITY))
        + _element(0x0800, _US.pack(_DATA_SET_FOLLOWS))
        + _element(0x1000, _uid(sop_instance_uid))
    )
    if originator is not None:
        title, move_id = originator
        padded = title.encode("latin-1", "replace")
        body += _element(0x1030, padded + b" " * (len(padded) % 2)) + _element(0x1031, _US.pack(move_id))
    return _element(0x0000, struct.pack("<I", len(body))) + body


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
    raw = uid.encode("ascii")
    return raw + b"\0" * (len(raw) % 2)
