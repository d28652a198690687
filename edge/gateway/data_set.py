"""A small data set as a tree of raw values: read under limits, matched, picked from, written again byte for byte.

Why it exists: identifiers of queries, work-list items and procedure steps must be understood, which images never
are; and their text must leave the box in the very bytes in which it came, whatever character set it claims. So
values stay bytes here, and only a comparison decodes them (PS3.5 section 7; Explicit and Implicit VR Little Endian).

Always true: no input makes it recurse deeper than `MAX_DEPTH` or hold more than `MAX_ELEMENTS`, about 30 MB, of which
services read one at a time and queries only `MAX_KEYS`; what it cannot read raises `UnreadableDataSetError` with a text
in which nothing of the data set stands.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydicom.datadict import dictionary_VR
from pydicom.uid import ImplicitVRLittleEndian

from edge.gateway.errors import PermanentGatewayError

MAX_DEPTH: Final = 16
MAX_ELEMENTS: Final = 100_000
MAX_KEYS: Final = 2_000
"""Of a query, which is held as long as its peer takes for the answers; real ones have a hundred."""

_SHORT: Final = struct.Struct("<HH2sH")
_LONG: Final = struct.Struct("<HH2sHI")
_IMPLICIT: Final = struct.Struct("<HHI")
_LENGTH: Final = struct.Struct("<I")
_LONG_VRS: Final = frozenset(
    ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
)  # fmt: skip
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_MAX_SHORT_BYTES: Final = 0xFFFF
_BINARY: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SV", "UN", "UV", "UI"))  # padded with a zero


class UnreadableDataSetError(PermanentGatewayError):
    """The bytes are no data set in that transfer syntax, or one beyond the limits."""


@dataclass(frozen=True, slots=True)
class Element:
    """One data element. `items` is used for VR SQ, `value` for all others; `value` is without padding added by us."""

    vr: str
    value: bytes = b""
    items: Sequence[DataSet] = field(default=())

    @property
    def is_empty(self) -> bool:
        return not self.items if self.vr == "SQ" else not self.value.strip(b" \0")


DataSet = Mapping[int, Element]
"""Elements by tag, such as ``0x00100010``."""


def read_data_set(raw: bytes, transfer_syntax_uid: str, *, max_elements: int = MAX_ELEMENTS) -> DataSet:
    """Read all of `raw`. Group lengths are left out; sequences of undefined length come out like all others.

    Parameters
    ----------
    max_elements : items of sequences count, too.

    Raises
    ------
    UnreadableDataSetError
    """
    reader = _Reader(raw, max_elements)
    elements, _ = reader.elements(
        0, len(raw), implicit=transfer_syntax_uid == ImplicitVRLittleEndian, depth=0
    )
    return elements


def write_data_set(data_set: DataSet, transfer_syntax_uid: str) -> bytes:
    """`data_set` in ascending order of tags, its sequences of defined length; odd values are padded."""
    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    return b"".join(_write(tag, data_set[tag], implicit=implicit) for tag in sorted(data_set))


def text_element(vr: str, text: str) -> Element:
    """An element of a VR whose text is of the default character repertoire."""
    return Element(vr, text.encode("ascii"))


def ascii_value(data_set: DataSet, tag: int) -> str:
    """The value of a UI, CS, AE, DA, TM, SH... that is ASCII by rule; without padding, "" if absent or empty."""
    element = data_set.get(tag)
    return element.value.decode("ascii", "replace").strip(" \0") if element is not None else ""


class _Reader:
    def __init__(self, raw: bytes, max_elements: int) -> None:
        self._raw = raw
        self._left = self._max = max_elements

    def elements(self, at: int, end: int, *, implicit: bool, depth: int) -> tuple[dict[int, Element], int]:
        """Elements from `at` to `end`, or to an item's delimiter, and where they ended."""
        found: dict[int, Element] = {}
        while at < end:
            tag, vr, length, at = self._header(at, end, implicit=implicit)
            if tag == _ITEM_END and depth:
                return found, at
            if tag >> 16 == 0xFFFE or tag >> 16 == 0:
                raise UnreadableDataSetError("an element of a group that cannot be in a data set")
            self._count_one()
            if vr == "SQ" or length == _UNDEFINED:
                if vr not in ("SQ", "UN"):
                    raise UnreadableDataSetError("undefined length in an element that is no sequence")
                # A sequence of unknown VR is in implicit encoding whatever the rest is in (PS3.5 section 6.2.2).
                items, at = self._items(at, end, length, implicit=implicit or vr == "UN", depth=depth + 1)
                element = Element("SQ", items=items)
            else:
                if length > end - at:
                    raise UnreadableDataSetError("a value is longer than what there is")
                element = Element(vr, self._raw[at : at + length])
                at += length
            if tag & 0xFFFF:  # a group length is no information
                found[tag] = element
        return found, at

    def _items(
        self, at: int, end: int, length: int, *, implicit: bool, depth: int
    ) -> tuple[tuple[DataSet, ...], int]:
        if depth > MAX_DEPTH:
            raise UnreadableDataSetError(f"sequences nested deeper than {MAX_DEPTH}")
        if length != _UNDEFINED:
            if length > end - at:
                raise UnreadableDataSetError("a sequence is longer than what there is")
            end = at + length
        items: list[DataSet] = []
        while at < end:
            tag, _, item_length, at = self._header(at, end, implicit=True)
            if tag == _SEQUENCE_END and length == _UNDEFINED:
                return tuple(items), at
            if tag != _ITEM:
                raise UnreadableDataSetError("something that is no item in a sequence")
            self._count_one()
            if item_length == _UNDEFINED:
                item, at = self.elements(at, end, implicit=implicit, depth=depth)
            elif item_length > end - at:
                raise UnreadableDataSetError("an item is longer than what there is")
            else:
                item, at = self.elements(at, at + item_length, implicit=implicit, depth=depth)
            items.append(item)
        if length == _UNDEFINED:
            raise UnreadableDataSetError("a sequence does not end")
        return tuple(items), at

    def _count_one(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise UnreadableDataSetError(f"more than {self._max} elements")

    def _header(self, at: int, end: int, *, implicit: bool) -> tuple[int, str, int, int]:
        """Tag, VR, length, and where the value begins."""
        if end - at < _IMPLICIT.size:
            raise UnreadableDataSetError("the data set is cut short")
        group, number, length = _IMPLICIT.unpack_from(self._raw, at)
        tag = group << 16 | number
        if group == 0xFFFE:
            return tag, "", length, at + _IMPLICIT.size
        if implicit:
            return tag, vr_of(tag), length, at + _IMPLICIT.size
        vr = sys.intern(self._raw[at + 4 : at + 6].decode("latin-1"))  # thousands of elements, thirty values
        if not (vr.isascii() and vr.isalpha() and vr.isupper()):
            raise UnreadableDataSetError("an element without a value representation")
        if vr not in _LONG_VRS:
            return tag, vr, length >> 16, at + _SHORT.size
        if end - at < _LONG.size:
            raise UnreadableDataSetError("the data set is cut short")
        return tag, vr, _LENGTH.unpack_from(self._raw, at + 8)[0], at + _LONG.size


def vr_of(tag: int) -> str:
    """The VR the dictionary gives a tag; UN for private and unknown ones."""
    try:
        return dictionary_VR(tag)[:2]  # of "US or SS" the first
    except KeyError:
        return "UN"


def _write(tag: int, element: Element, *, implicit: bool) -> bytes:
    vr = element.vr
    if vr == "SQ":
        value = b"".join(
            _IMPLICIT.pack(_ITEM >> 16, _ITEM & 0xFFFF, len(body)) + body
            for body in (
                b"".join(_write(inner, item[inner], implicit=implicit) for inner in sorted(item))
                for item in element.items
            )
        )
    else:
        value = element.value
        value += (b"\0" if vr in _BINARY else b" ") * (len(value) % 2)
    group, number = tag >> 16, tag & 0xFFFF
    if implicit:
        return _IMPLICIT.pack(group, number, len(value)) + value
    if vr in _LONG_VRS or len(value) > _MAX_SHORT_BYTES:
        long_vr = vr if vr in _LONG_VRS else "UN"  # too long for its own VR: PS3.5 section 6.2.2
        return _LONG.pack(group, number, long_vr.encode(), 0, len(value)) + value
    return _SHORT.pack(group, number, vr.encode(), len(value)) + value
