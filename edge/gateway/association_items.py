"""What of an A-ASSOCIATE PDU goes on to pynetdicom's decoder: the items that this box acts on, as it can take them.

The decoder fails on an item type it does not know, on another user identity than those of its day and on fields
that old equipment pads with zeros, and the peer would be locked out for something nobody here looks at. Unknown items
are passed over (PS3.8 section 9.3.1), and so are those that this box does not negotiate: nothing is answered to them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from edge.gateway.errors import ProtocolError
from edge.gateway.pdu import HEADER

_ITEM: Final = struct.Struct(">BxH")
_ITEMS_AT: Final = 74  # behind the fixed fields of A-ASSOCIATE-RQ and -AC alike (PS3.8 Tables 9-11 and 9-17)
_NAMES_AT: Final = 10
_AE_BYTES: Final = 16
_CONTEXT_HEAD_BYTES: Final = 4
_APPLICATION_CONTEXT, _PROPOSED, _ANSWERED, _USER_INFORMATION = 0x10, 0x20, 0x21, 0x50
_SYNTAXES: Final = frozenset((0x30, 0x40))
_VERSION_NAME: Final = 0x55
# Maximum length, Implementation Class UID, roles (PS3.7 Annex D.3.3).
_NEGOTIATED: Final = frozenset((0x51, 0x52, 0x54, _VERSION_NAME))
_VERSION_NAME_MAX_BYTES: Final = 16


def decodable(pdu: bytes, *, called_ae_title: str, calling_ae_title: str) -> bytes:
    """`pdu`, an A-ASSOCIATE-RQ or -AC, with these AE titles and without what is passed over.

    Raises
    ------
    ProtocolError : an item is longer than what there is.
    """
    names = b"".join(one.encode("ascii").ljust(_AE_BYTES) for one in (called_ae_title, calling_ae_title))
    items = b"".join(_kept(kind, value) for kind, value in _items(pdu[_ITEMS_AT:]))
    body = pdu[HEADER.size : _NAMES_AT] + names + pdu[_NAMES_AT + 2 * _AE_BYTES : _ITEMS_AT] + items
    return HEADER.pack(pdu[0], len(body)) + body


def _kept(kind: int, value: bytes) -> bytes:
    if kind == _APPLICATION_CONTEXT:
        return _item(kind, value)
    if kind in (_PROPOSED, _ANSWERED):
        head, syntaxes = value[:_CONTEXT_HEAD_BYTES], _items(value[_CONTEXT_HEAD_BYTES:])
        return _item(kind, head + b"".join(_item(*one) for one in syntaxes if one[0] in _SYNTAXES))
    if kind == _USER_INFORMATION:
        return _item(kind, b"".join(_item(*_shown(*one)) for one in _items(value) if one[0] in _NEGOTIATED))
    return b""


def _shown(kind: int, value: bytes) -> tuple[int, bytes]:
    """A version name is only looked at by profiles: too long or not ASCII is no reason to refuse anybody."""
    if kind == _VERSION_NAME:
        value = value[:_VERSION_NAME_MAX_BYTES].decode("ascii", "replace").encode("ascii", "replace")
    return kind, value


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        if len(data) - at < _ITEM.size:
            raise ProtocolError("an item of the association is cut short")
        kind, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size
        if length > len(data) - at:
            raise ProtocolError("an item of the association is longer than what there is")
        yield kind, data[at : at + length]
        at += length


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value
