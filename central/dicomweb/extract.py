"""One element's value out of an archived file, in little endian, as bulk data is (PS3.18 section 8.4.3 and F.2.7).

Runs in a worker process only (see `central.dicomweb.render`): data sets from outside are parsed here without the limits
that reading a header has. What stands in the stored file as it is wanted is only located, and not copied.
"""

from __future__ import annotations

from typing import BinaryIO, Final

import numpy as np
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator, read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from central.archive.header import looks_implicit
from central.archive.sealed_file import ObjectFile
from central.dicomweb.conversion import Extracted
from central.dicomweb.errors import NotAnImageError
from central.dicomweb.pixel_data import PIXEL_TAGS, NativeValue, open_data_set, open_image

_IN_FILE_BYTES: Final = 64 << 10  # from here on a value is read when it is written, not before
_WORD_BYTES: Final = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
_CHUNK_BYTES: Final = 1 << 20
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF


class _AbsentError(Exception):
    """There is no such element, or it has no value."""


def extract(
    path: ObjectFile, transfer_syntax_uid: str, element: tuple[int, ...], out: BinaryIO
) -> Extracted | None:
    """Locate the value of `element` in the file at `path`, or write it to `out` where it is stored otherwise.

    None if there is no such value.

    Raises
    ------
    NotAnImageError : it cannot be given out by itself, or the file is damaged.
    """
    syntax = UID(transfer_syntax_uid)
    try:
        if len(element) == 1 and element[0] in PIXEL_TAGS:
            return _pixels(path, syntax, out)
        with open_data_set(path, syntax) as source:
            return (_top if len(element) == 1 else _nested)(source, syntax, element, out)
    except _AbsentError:
        return None


def _pixels(path: ObjectFile, syntax: UID, out: BinaryIO) -> Extracted:
    with open_image(path, syntax) as image:
        if image.is_encapsulated:
            raise NotAnImageError("compressed pixel data is given out frame by frame")
        return _given(image.native_value, syntax, out)


def _top(source: BinaryIO, syntax: UID, element: tuple[int, ...], out: BinaryIO) -> Extracted:
    # Not by way of a Dataset: that would read the value as soon as it is asked where it stands.
    for found in data_element_generator(
        source,
        looks_implicit(source, expected=syntax == ImplicitVRLittleEndian),
        syntax != ExplicitVRBigEndian,
        stop_when=lambda tag, _vr, _length: tag > element[0],
        defer_size=_IN_FILE_BYTES,
    ):
        if found.tag == element[0]:
            raw = _checked(found)
            if raw.value is not None:
                return _written(raw, out)
            return _given(NativeValue(source, raw.value_tell, raw.length, _unit(raw)), syntax, out)
    raise _AbsentError


def _nested(source: BinaryIO, syntax: UID, element: tuple[int, ...], out: BinaryIO) -> Extracted:
    data_set: Dataset = read_dataset(
        source,
        is_implicit_VR=looks_implicit(source, expected=syntax == ImplicitVRLittleEndian),
        is_little_endian=syntax != ExplicitVRBigEndian,
        stop_when=lambda tag, _vr, _length: tag > element[0],
    )
    for tag, number in zip(element[:-1:2], element[1::2], strict=True):
        items = data_set[tag].value if tag in data_set and data_set[tag].VR == "SQ" else ()
        if not 1 <= number <= len(items):
            raise _AbsentError
        data_set = items[number - 1]
    if element[-1] not in data_set:
        raise _AbsentError
    return _written(_checked(data_set.get_item(BaseTag(element[-1]))), out)


def _checked(element: object) -> RawDataElement:
    """An element whose value is bytes that mean something by themselves."""
    if not isinstance(element, RawDataElement) or element.VR == "SQ":
        raise NotAnImageError("a sequence is not given out by itself: retrieve the instance")
    if element.length == _UNDEFINED_LENGTH:
        raise NotAnImageError("what is compressed inside a sequence is not given out by itself")
    if not element.length:
        raise _AbsentError
    return element


def _unit(raw: RawDataElement) -> int:
    """Size of the words whose bytes must be swapped; 1: none (PS3.5 section 7.3)."""
    return 1 if raw.is_little_endian else _WORD_BYTES.get(raw.VR or "", 1)


def _written(raw: RawDataElement, out: BinaryIO) -> Extracted:
    value = raw.value or b""
    out.write(_swapped(value, _unit(raw)))
    return Extracted(len(value), None)


def _given(value: NativeValue, syntax: UID, out: BinaryIO) -> Extracted:
    value.file.seek(0, 2)
    if value.offset + value.length > value.file.tell():
        raise NotAnImageError("the file ends before this value does")
    if value.swapped_unit_bytes == 1 and syntax != DeflatedExplicitVRLittleEndian:
        return Extracted(value.length, value.offset)
    value.file.seek(value.offset)
    left = value.length
    while left:
        chunk = value.file.read(min(left, _CHUNK_BYTES))
        out.write(_swapped(chunk, value.swapped_unit_bytes))
        left -= len(chunk)
    return Extracted(value.length, None)


def _swapped(value: bytes, unit: int) -> bytes:
    if unit == 1:
        return value
    whole = len(value) - len(value) % unit
    return np.frombuffer(value[:whole], f">u{unit}").astype(f"<u{unit}").tobytes() + value[whole:]
