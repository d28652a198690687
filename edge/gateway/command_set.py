"""DIMSE command sets (PS3.7 section 6.3): read strictly, written small.

A command set is flat, Implicit VR Little Endian and at most a few hundred bytes. Read and written here it costs
a thirtieth of what pydicom needs, for every instance, and has no way to recurse or allocate.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from edge.gateway.errors import ProtocolError

MAX_COMMAND_BYTES = 65_536
_ELEMENT = struct.Struct("<HHI")
_US = struct.Struct("<H")
_NO_DATA_SET = 0x0101
_HAS_DATA_SET = 0x0001
_UID_MAX_BYTES = 66
_RESPONSE_BIT = 0x8000
_ERROR_COMMENT_MAX_LENGTH = 64


class CommandField(IntEnum):
    """Requests (PS3.7 Annex E.1); a response has bit 15 set on top."""

    C_STORE_RQ = 0x0001
    C_GET_RQ = 0x0010
    C_FIND_RQ = 0x0020
    C_MOVE_RQ = 0x0021
    C_ECHO_RQ = 0x0030
    N_EVENT_REPORT_RQ = 0x0100
    N_GET_RQ = 0x0110
    N_SET_RQ = 0x0120
    N_ACTION_RQ = 0x0130
    N_CREATE_RQ = 0x0140
    N_DELETE_RQ = 0x0150
    C_CANCEL_RQ = 0x0FFF


class Element(IntEnum):
    """Elements of group 0000 (PS3.7 Annex E)."""

    GROUP_LENGTH = 0x0000
    AFFECTED_SOP_CLASS_UID = 0x0002
    REQUESTED_SOP_CLASS_UID = 0x0003
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
    MOVE_DESTINATION = 0x0600
    PRIORITY = 0x0700
    COMMAND_DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    ERROR_COMMENT = 0x0902
    AFFECTED_SOP_INSTANCE_UID = 0x1000
    REQUESTED_SOP_INSTANCE_UID = 0x1001
    EVENT_TYPE_ID = 0x1002
    ACTION_TYPE_ID = 0x1008
    REMAINING_SUB_OPERATIONS = 0x1020
    COMPLETED_SUB_OPERATIONS = 0x1021
    FAILED_SUB_OPERATIONS = 0x1022
    WARNING_SUB_OPERATIONS = 0x1023
    MOVE_ORIGINATOR_AE_TITLE = 0x1030
    MOVE_ORIGINATOR_MESSAGE_ID = 0x1031


_UID_ELEMENTS = frozenset(element for element in Element if element.name.endswith("_UID"))

# What a response gives back, and where the request has it (PS3.7 Tables 9.3 and 10.3).
_ECHOED = {
    Element.AFFECTED_SOP_CLASS_UID: (Element.AFFECTED_SOP_CLASS_UID, Element.REQUESTED_SOP_CLASS_UID),
    Element.AFFECTED_SOP_INSTANCE_UID: (
        Element.AFFECTED_SOP_INSTANCE_UID,
        Element.REQUESTED_SOP_INSTANCE_UID,
    ),
    Element.EVENT_TYPE_ID: (Element.EVENT_TYPE_ID,),
    Element.ACTION_TYPE_ID: (Element.ACTION_TYPE_ID,),
}


@dataclass(frozen=True)
class Command:
    """A request or response as it came. Values are raw; nothing in them was checked but their framing.

    Attributes
    ----------
    message_id : of a request; of a response or a C-CANCEL-RQ, the request it belongs to.
    """

    elements: Mapping[int, bytes]
    field: int
    message_id: int

    @property
    def has_data_set(self) -> bool:
        return _number(self.elements, Element.COMMAND_DATA_SET_TYPE) != _NO_DATA_SET

    @property
    def is_response(self) -> bool:
        return bool(self.field & _RESPONSE_BIT)

    @property
    def is_normalized(self) -> bool:
        """True for the N-services (PS3.7 section 10), which have status codes of their own."""
        return bool(self.field & 0x0F00) and self.field != CommandField.C_CANCEL_RQ

    def number(self, element: Element) -> int:
        """An element of VR US. ProtocolError if it is not there or not one."""
        return _number(self.elements, element)

    def uid(self, element: Element) -> str:
        """A UID without its padding; empty if absent. Not checked: `contract.identifiers.check_uid` is for that."""
        return self.elements.get(element, b"").decode("latin-1").rstrip("\0 ")


def decode_command(raw: bytes | bytearray) -> Command:
    """Read a whole command set.

    Raises
    ------
    ProtocolError : elements that overrun, an element of another group, or no command field or message id.
    """
    elements: dict[int, bytes] = {}
    at = 0
    while at < len(raw):
        if len(raw) - at < _ELEMENT.size:
            raise ProtocolError("the command set is cut short")
        group, element, length = _ELEMENT.unpack_from(raw, at)
        at += _ELEMENT.size
        if group != 0x0000 or length > len(raw) - at:
            raise ProtocolError("the command set is malformed")
        elements[element] = bytes(raw[at : at + length])
        at += length
    field = _number(elements, Element.COMMAND_FIELD)
    if field == CommandField.C_CANCEL_RQ and Element.MESSAGE_ID_BEING_RESPONDED_TO not in elements:
        return Command(
            elements, field, 0
        )  # cancels nothing, and has no answer: no reason to end an association
    if field & _RESPONSE_BIT or field == CommandField.C_CANCEL_RQ:
        return Command(elements, field, _number(elements, Element.MESSAGE_ID_BEING_RESPONDED_TO))
    return Command(elements, field, _number(elements, Element.MESSAGE_ID))


def encode_response(
    command: Command,
    status: int,
    comment: str = "",
    *,
    has_data_set: bool = False,
    more: Mapping[int, bytes] | None = None,
) -> bytes:
    """The response to `command` (PS3.7 sections 9.3 and 10.3) with an optional Error Comment (at most 64 long).

    Parameters
    ----------
    more : further elements by number, raw; they go before those made here.
    """
    elements: dict[int, bytes] = {
        Element.COMMAND_FIELD: _US.pack(command.field | _RESPONSE_BIT),
        Element.MESSAGE_ID_BEING_RESPONDED_TO: _US.pack(command.message_id),
        Element.COMMAND_DATA_SET_TYPE: _US.pack(_HAS_DATA_SET if has_data_set else _NO_DATA_SET),
        Element.STATUS: _US.pack(status),
    }
    for element, asked in _ECHOED.items():
        value = next((command.elements[one] for one in asked if command.elements.get(one)), b"")
        if value and len(value) <= _UID_MAX_BYTES:
            elements[element] = value  # the peer's own, byte for byte
    if comment:
        elements[Element.ERROR_COMMENT] = comment[:_ERROR_COMMENT_MAX_LENGTH].encode("ascii", "replace")
    return encode_command({**elements, **(more or {})})


def encode_request(
    field: int, message_id: int, elements: Mapping[int, bytes], *, has_data_set: bool
) -> bytes:
    """A request of ours with `elements` beside what every request has (PS3.7 sections 9.3 and 10.3)."""
    return encode_command(
        {
            **elements,
            Element.COMMAND_FIELD: _US.pack(field),
            Element.MESSAGE_ID: _US.pack(message_id),
            Element.COMMAND_DATA_SET_TYPE: _US.pack(_HAS_DATA_SET if has_data_set else _NO_DATA_SET),
        }
    )


def encode_command(elements: Mapping[int, bytes]) -> bytes:
    """A whole command set; values are padded to even length, UIDs with a zero, text with a space."""
    body = b"".join(_element(number, _padded(number, elements[number])) for number in sorted(elements))
    return _element(Element.GROUP_LENGTH, len(body).to_bytes(4, "little")) + body


def us(value: int) -> bytes:
    """A value of VR US, raw."""
    return _US.pack(value)


def _padded(number: int, value: bytes) -> bytes:
    if len(value) % 2 == 0:
        return value
    return value + (b"\0" if number in _UID_ELEMENTS else b" ")


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0x0000, element, len(value)) + value


def _number(elements: Mapping[int, bytes], element: Element) -> int:
    value = elements.get(element, b"")
    if len(value) != _US.size:
        raise ProtocolError(f"the command set has no usable {element.name}")
    return int(_US.unpack(value)[0])
