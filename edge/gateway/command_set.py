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
_RESPONSE_BIT = 0x8000
_ERROR_COMMENT_MAX_LENGTH = 64


class CommandField(IntEnum):
    C_STORE_RQ = 0x0001
    C_ECHO_RQ = 0x0030
    C_CANCEL_RQ = 0x0FFF


class Element(IntEnum):
    """Elements of group 0000 (PS3.7 Annex E)."""

    GROUP_LENGTH = 0x0000
    AFFECTED_SOP_CLASS_UID = 0x0002
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
    COMMAND_DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    ERROR_COMMENT = 0x0902
    AFFECTED_SOP_INSTANCE_UID = 0x1000


@dataclass(frozen=True)
class Command:
    """A request as it came. Values are raw; nothing in them was checked but their framing."""

    elements: Mapping[int, bytes]
    field: int
    message_id: int

    @property
    def has_data_set(self) -> bool:
        return _number(self.elements, Element.COMMAND_DATA_SET_TYPE) != _NO_DATA_SET

    @property
    def is_response(self) -> bool:
        return bool(self.field & _RESPONSE_BIT)

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
    if field & _RESPONSE_BIT or field == CommandField.C_CANCEL_RQ:
        return Command(elements, field, 0)  # neither has a message id, and neither gets an answer
    return Command(elements, field, _number(elements, Element.MESSAGE_ID))


def encode_response(command: Command, status: int, comment: str = "") -> bytes:
    """The response to `command` (PS3.7 sections 9.3 and 10.3) with an optional Error Comment (at most 64 long)."""
    parts = [
        _echoed(command, Element.AFFECTED_SOP_CLASS_UID),
        _us(Element.COMMAND_FIELD, command.field | _RESPONSE_BIT),
        _us(Element.MESSAGE_ID_BEING_RESPONDED_TO, command.message_id),
        _us(Element.COMMAND_DATA_SET_TYPE, _NO_DATA_SET),
        _us(Element.STATUS, status),
    ]
    if comment:
        raw = comment[:_ERROR_COMMENT_MAX_LENGTH].encode("ascii", "replace")
        parts.append(_element(Element.ERROR_COMMENT, raw + b" " * (len(raw) % 2)))
    parts.append(_echoed(command, Element.AFFECTED_SOP_INSTANCE_UID))
    body = b"".join(parts)
    return _element(Element.GROUP_LENGTH, len(body).to_bytes(4, "little")) + body


def _echoed(command: Command, element: Element) -> bytes:
    """The peer's own value back to it, byte for byte; nothing if it sent none, or one no UID can be."""
    value = command.elements.get(element)
    return _element(element, value) if value and len(value) <= 66 else b""


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0x0000, element, len(value)) + value


def _us(element: int, value: int) -> bytes:
    return _element(element, _US.pack(value))


def _number(elements: Mapping[int, bytes], element: Element) -> int:
    value = elements.get(element, b"")
    if len(value) != _US.size:
        raise ProtocolError(f"the command set has no usable {element.name}")
    return int(_US.unpack(value)[0])
