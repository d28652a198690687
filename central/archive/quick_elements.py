"""Elements of a data set in explicit VR little endian, read from windows of the file: most headers, most of each.

pydicom asks the file twice or three times for each element; a header has a hundred and more, and each image that is
stored has one. Always true: what this returns is what pydicom's own generator returns for the same bytes, and the file
stands where that leaves it; where that is not plain to see, it returns None and pydicom is asked.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, Protocol

from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.filereader import read_sequence
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR
from pydicom.values import convert_string

MAX_ELEMENTS: Final = 100_000  # of so many pydicom may say what becomes of them, under its own limits
_WINDOW_BYTES: Final = 16 << 10  # more than most headers have before their pixels
_HEAD: Final = struct.Struct("<HH2sH")  # tag, VR, length (PS3.5 section 7.1.2)
_LONG_HEAD: Final = struct.Struct("<HH2s2xL")
_UNDEFINED: Final = 0xFFFFFFFF


Elements = dict[BaseTag, RawDataElement | DataElement]


class Source(Protocol):
    """The file, as far as it is needed."""

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...

    def tell(self) -> int: ...


class _Vr(NamedTuple):
    """A VR as it is written: as text, whether its length takes 32 bits, and what an empty value is."""

    text: str
    is_long: bool
    empty: bytes | None


_VRS: Final = {
    vr.encode("ascii"): _Vr(
        str(vr), vr in EXPLICIT_VR_LENGTH_32, None if empty_value_for_VR(vr, raw=True) is None else b""
    )
    for vr in STANDARD_VR
}


class Read(NamedTuple):
    """What stands before the element at which the reading stopped, and tag and VR of that one, if there is one."""

    elements: Elements
    stopped_at: tuple[BaseTag, str] | None


def quick_elements(source: Source, *, stop_group: int, max_value_bytes: int) -> Read | None:
    """The elements from where `source` stands to the first of `stop_group` or a later one.

    Raises whatever `source` raises. None: where it stands then is not said.
    """
    elements: Elements = {}
    charset: str | list[str] = default_encoding
    begins, window, at = source.tell(), source.read(_WINDOW_BYTES), 0
    while True:
        if len(window) - at < _LONG_HEAD.size:
            begins, at = begins + at, 0
            source.seek(begins)
            window = source.read(_WINDOW_BYTES)
            if not window:
                return Read(elements, None)
            if len(window) < _LONG_HEAD.size:
                return None
        group, number, code, length = _HEAD.unpack_from(window, at)
        vr = _VRS.get(code)
        if vr is None or group == 0xFFFE or len(elements) >= MAX_ELEMENTS:
            return None
        head_bytes = _HEAD.size
        if vr.is_long:
            length, head_bytes = _LONG_HEAD.unpack_from(window, at)[3], _LONG_HEAD.size
        tag = BaseTag(group << 16 | number)
        if group >= stop_group:
            source.seek(begins + at)
            return Read(elements, (tag, vr.text))
        at += head_bytes
        value_tell = begins + at
        if length == _UNDEFINED:
            if vr.text != "SQ":
                return None
            source.seek(value_tell)
            items = read_sequence(source, False, True, length, charset)  # type: ignore[arg-type]  # as in header.py
            elements[tag] = DataElement(tag, "SQ", items, value_tell, is_undefined_length=True)
            begins, window, at = source.tell(), b"", 0
            continue
        is_charset = group == 0x0008 and number == 0x0005  # not by the tag, which compares slowly
        value: bytes | None
        if length == 0:
            value = vr.empty
        elif at + length <= len(window):
            value = window[at : at + length]
        elif length > max_value_bytes and not is_charset:
            value = None
        else:
            source.seek(value_tell)
            value = source.read(length)
            if len(value) < length:
                return None
        if is_charset:
            charset = convert_encodings(convert_string(value or b"", True))
        elements[tag] = RawDataElement(tag, vr.text, length, value, value_tell, False, True)
        at += length
        if at > len(window):  # behind what is in the window, read or passed over
            begins, window, at = begins + at, b"", 0
