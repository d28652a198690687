"""The header of a DICOM file, read under limits: everything before the pixels, and nothing of the pixels.

The file comes from outside, so this is always true: bytes read into memory and elements parsed are capped, a
deflated data set is inflated only as far as the cap, and whatever pydicom trips over ends the reading instead
of the program. What was read until then is kept, with the reason in `Header.incomplete_because`.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPIPHTJ2KReferencedDeflate,
)

from central.archive.errors import NotDicomError
from central.archive.quick_elements import Elements, quick_elements
from central.archive.sealed_file import ObjectFile

MAX_META_BYTES: Final = 64 << 10
MAX_HEADER_BYTES: Final = 16 << 20
MAX_READS: Final = 1_000_000  # two a data element: bounds what a file of empty items becomes in memory
MAX_VALUE_BYTES: Final = 8 << 20  # a top-level value larger than this is skipped, not read
MAX_ITEMS: Final = 100_000
"""Of all sequences together, nested ones too: each becomes a data set. Thousands of frames have half as many."""
_ITEM_TAGS: Final = {True: b"\xfe\xff\x00\xe0", False: b"\xff\xfe\xe0\x00"}  # by whether it is little endian
_ITEM_HEAD_BYTES: Final = 8
_MAY_BE_SEQUENCES: Final = ("SQ", "UN", None)  # None: of implicit VR
_PREAMBLE_BYTES: Final = 128
_FIRST_PIXEL_GROUP: Final = 0x7FE0
_EXTENDED_OFFSETS: Final = (0x7FE00001, 0x7FE00002)
_PIXEL_DATA: Final = BaseTag(0x7FE00010)
_PIXELS: Final = (_PIXEL_DATA, 0x7FE00008, 0x7FE00009)
_JPIP_REFERENCED_DEFLATE: Final = "1.2.840.10008.1.2.4.95"  # retired; pydicom has no name for it
_DEFLATED: Final = frozenset(
    {DeflatedExplicitVRLittleEndian, JPIPHTJ2KReferencedDeflate, _JPIP_REFERENCED_DEFLATE}
)


class HeaderLimitError(ValueError):
    """The header has more bytes, elements or items than a header may have."""


@dataclass(frozen=True)
class Header:
    """What stands before the pixels. Values of `dataset` are decoded when they are looked at, and may raise then.

    `skipped` holds the elements whose values were too large to read, with their VR as sent (None: implicit VR);
    they are not in `dataset`. `pixel_data` is the tag and VR of the pixels behind the header, None if there are none.
    """

    dataset: Dataset
    transfer_syntax_uid: str
    media_storage_sop_class_uid: str
    media_storage_sop_instance_uid: str
    is_little_endian: bool
    skipped: Mapping[BaseTag, str | None]
    incomplete_because: str
    pixel_data: tuple[BaseTag, str | None] | None = None


def read_header(path: ObjectFile) -> Header:
    """Read the header of the Part 10 file at `path` (PS3.10 section 7.1).

    Raises
    ------
    NotDicomError : there is no preamble with ``DICM``. Any later fault only makes the header incomplete.
    """
    with path.open("rb") as file:
        if file.read(_PREAMBLE_BYTES + 4)[_PREAMBLE_BYTES:] != b"DICM":
            raise NotDicomError("it does not begin with a preamble and DICM")
        meta, meta_fault = _read(file, MAX_META_BYTES, implicit=False, little=True, stop_group=0x0003)
        transfer_syntax_uid = _meta_text(meta, 0x00020010) or str(ExplicitVRLittleEndian)
        little = transfer_syntax_uid != ExplicitVRBigEndian
        source: BinaryIO = file
        fault = ""
        if transfer_syntax_uid in _DEFLATED:
            inflated, fault = _inflate(file)
            source = io.BytesIO(inflated)
        implicit = looks_implicit(source, expected=transfer_syntax_uid == ImplicitVRLittleEndian)
        stopped_at: list[tuple[BaseTag, str | None]] = []
        elements, parse_fault = _read(
            source,
            MAX_HEADER_BYTES,
            implicit=implicit,
            little=little,
            stop_group=_FIRST_PIXEL_GROUP,
            stopped_at=stopped_at,
        )
    beyond = beyond_limit(elements)
    skipped = {tag: element.VR for tag, element in elements.items() if tag in beyond or _is_large(element)}
    kept = {tag: element for tag, element in elements.items() if tag not in skipped}
    return Header(
        dataset=_dataset(kept, implicit=implicit, little=little),
        transfer_syntax_uid=transfer_syntax_uid,
        media_storage_sop_class_uid=_meta_text(meta, 0x00020002),
        media_storage_sop_instance_uid=_meta_text(meta, 0x00020003),
        is_little_endian=little,
        skipped=skipped,
        # A deflated stream cut at the limit ends inside some element: that fault is a consequence.
        incomplete_because=meta_fault or fault or parse_fault,
        pixel_data=_pixel_data(stopped_at),
    )


class _Reader:
    """The file as pydicom sees it. Seeking past a large value is free; reading and parsing are counted."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file = file
        self._bytes_left = max_bytes
        self._reads_left = MAX_READS
        self._items_left = MAX_ITEMS
        self.tell = file.tell
        self.seek = file.seek

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, self._bytes_left + 1) if size >= 0 else self._bytes_left + 1)
        self._bytes_left -= len(data)
        self._reads_left -= 1
        if size == _ITEM_HEAD_BYTES and data[:4] in _ITEM_TAGS.values():
            self._items_left -= 1
        if self._bytes_left < 0:
            raise HeaderLimitError("the header is larger than a header may be")
        if self._reads_left < 0 or self._items_left < 0:
            raise HeaderLimitError("the header has more elements than a header may have")
        return data


def _pixel_data(stopped_at: Sequence[tuple[BaseTag, str | None]]) -> tuple[BaseTag, str | None] | None:
    """What the first element behind the header says of the pixels (PS3.3 C.7.6.3 and C.7.6.24)."""
    for tag, vr in stopped_at[:1]:
        if tag in _EXTENDED_OFFSETS:  # only ever in front of encapsulated Pixel Data
            return _PIXEL_DATA, "OB"
        if tag in _PIXELS:
            return tag, vr or ("OW" if tag == _PIXEL_DATA else None)
    return None


def _read(
    file: BinaryIO,
    max_bytes: int,
    *,
    implicit: bool,
    little: bool,
    stop_group: int,
    stopped_at: list[tuple[BaseTag, str | None]] | None = None,
) -> tuple[Elements, str]:
    """The elements before `stop_group`, and why there are not more ("" when there are none).

    `stopped_at` takes the tag and VR of the element that ended the reading.
    """
    if little and not implicit:
        begins = file.tell()
        quick = None
        with suppress(Exception):  # whatever is wrong with the file, pydicom says how much of it holds
            quick = quick_elements(
                _Reader(file, max_bytes), stop_group=stop_group, max_value_bytes=MAX_VALUE_BYTES
            )
        if quick is not None:
            if quick.stopped_at is not None and stopped_at is not None:
                stopped_at.append(quick.stopped_at)
            return quick.elements, ""
        file.seek(begins)

    def stop(tag: BaseTag, vr: str | None, _length: int) -> bool:
        if tag.group < stop_group:
            return False
        if stopped_at is not None:
            stopped_at.append((tag, vr))
        return True

    elements: Elements = {}
    try:
        for element in data_element_generator(
            limited(file, max_bytes),
            implicit,
            little,
            stop_when=stop,
            defer_size=MAX_VALUE_BYTES,
        ):
            elements[element.tag] = element
    except HeaderLimitError as error:
        return elements, str(error)
    except RecursionError:
        return elements, "sequences are nested too deep"
    except Exception as error:  # a parser fed by strangers: any fault of its is a fault of the file
        # The type alone: pydicom's messages quote the data set.
        return elements, f"the data set is malformed ({type(error).__name__})"
    return elements, ""


def _dataset(elements: Elements, *, implicit: bool, little: bool) -> Dataset:
    dataset = Dataset({tag: element for tag, element in elements.items() if tag.element != 0})
    charset: str | list[str] = "iso8859"
    named = elements.get(BaseTag(0x00080005))
    if named is not None and isinstance(named.value, bytes):
        text = named.value.decode("ascii", "replace").strip(" \0")
        charset = list(convert_encodings([part.strip() for part in text.split("\\")]))
    dataset.set_original_encoding(implicit, little, charset)
    return dataset


def _inflate(file: BinaryIO) -> tuple[bytes, str]:
    """At most `MAX_HEADER_BYTES` of a deflated data set (PS3.5 section A.5); usually the pixels fill the rest."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    out = bytearray()
    try:
        while len(out) < MAX_HEADER_BYTES and not inflater.eof:
            piece = inflater.unconsumed_tail or file.read(64 << 10)
            if not piece:
                return bytes(out), "the deflated data set is cut short"
            out += inflater.decompress(piece, MAX_HEADER_BYTES - len(out))
    except zlib.error:
        return bytes(out), "the deflated data set is damaged"
    return bytes(out), ""


def looks_implicit(source: BinaryIO, *, expected: bool) -> bool:
    """Whether the data set has implicit VR: some equipment writes the other kind than it says."""
    start = source.tell()
    first = source.read(6)
    source.seek(start)
    if len(first) < 6:
        return expected
    return not (first[4:6].isalpha() and first[4:6].isupper())


def limited(file: BinaryIO, max_bytes: int = MAX_HEADER_BYTES) -> BinaryIO:
    """`file` for a reading of pydicom's that raises `HeaderLimitError` where it goes beyond what a header may have."""
    return cast("BinaryIO", _Reader(file, max_bytes))  # it needs read, seek and tell


def beyond_limit(elements: Mapping[BaseTag, RawDataElement | DataElement]) -> frozenset[BaseTag]:
    """Which elements are not to be looked at, because they would take a header beyond `MAX_ITEMS`.

    Sequences of defined length are bytes until they are looked at, with all that is nested in them.
    """
    left = MAX_ITEMS
    beyond = []
    for tag, element in elements.items():
        items = _items_in(element)
        if items > left:
            beyond.append(tag)
        else:
            left -= items
    return frozenset(beyond)


def _items_in(element: RawDataElement | DataElement) -> int:
    count, waiting = 0, [element]
    while waiting:
        one = waiting.pop()
        if isinstance(one, RawDataElement):
            if one.value and one.VR in _MAY_BE_SEQUENCES:
                count += one.value.count(_ITEM_TAGS[one.is_little_endian])
        elif one.VR == "SQ":
            count += len(one.value)
            for item in one.value:
                waiting += item.values()
    return count


def _is_large(element: RawDataElement | DataElement) -> bool:
    return isinstance(element, RawDataElement) and element.value is None and element.length > 0


def _meta_text(meta: Mapping[BaseTag, RawDataElement | DataElement], tag: int) -> str:
    element = meta.get(BaseTag(tag))
    if element is None or not isinstance(element.value, bytes):
        return ""
    return element.value.decode("ascii", "replace").strip(" \0")
