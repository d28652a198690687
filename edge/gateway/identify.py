"""Finds out which instance a data set is, and where its pixels lie, from the bytes as they stream past.

A push parser over the top level of the data set (PS3.5 section 7): a dozen elements are kept, every other value
is skipped unread. Memory is bounded by one element header and one UID; nested sequences of undefined length
cost a counter, not a call; deflated data is inflated in small steps and only as far as needed.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache

from contract.pixel_rows import PixelLayout
from edge.gateway.errors import PermanentGatewayError
from edge.gateway.matching import decode, encodings_of

MAX_DEPTH = 64
"""Nesting of sequences and items of undefined length; real objects stay below ten."""

MAX_INFLATED_BYTES = 16 << 20
"""How far a deflated data set is followed for its identity; 500 KB can inflate to 1 GB."""

_INFLATE_STEP_BYTES = 65_536
_VALUE_MAX_BYTES = 66  # 64 of a UID, and room for senders that pad too much
_UNDEFINED = 0xFFFFFFFF
_LAST_TAG = 0x0020000E
_PIXEL_DATA = 0x7FE00010
_DIRECTORY_RECORD_SEQUENCE = 0x00041220
_WANTED = frozenset({0x00080016, 0x00080018, 0x00080060, 0x0020000D, _LAST_TAG})
# What says how uncompressed pixels lie: Samples per Pixel, Planar Configuration, Columns, Bits Allocated, Pixel
# Representation (PS3.3 section C.7.6.3).
_SAMPLES, _PLANAR, _COLUMNS, _BITS_ALLOCATED, _SIGNED = (
    0x00280002,
    0x00280006,
    0x00280011,
    0x00280100,
    0x00280103,
)
_DESCRIBING = frozenset({_SAMPLES, _PLANAR, _COLUMNS, _BITS_ALLOCATED, _SIGNED})
# What rules and the worklist are asked by: nice to have, and no reason to refuse anything.
_CHARACTER_SET, _ACCESSION, _STATION, _REQUESTING_SERVICE = 0x00080005, 0x00080050, 0x00081010, 0x00321033
_MARKING = frozenset({_CHARACTER_SET, _ACCESSION, _STATION, _REQUESTING_SERVICE})
_MARK_MAX_BYTES = 256  # 64 characters of LO in any character set
_KEPT = _WANTED | _DESCRIBING | _MARKING
_NOT_SKIMMED = _KEPT | {_DIRECTORY_RECORD_SEQUENCE}
_FIRST_TAG = 0x00030000  # groups 0000 and 0002 do not belong in a data set
_LONGEST_HEADER_BYTES = 12
_NATIVE_LITTLE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_NESTING_VRS = frozenset(
    (b"SQ", b"UN", b"OB", b"OW")
)  # OB and OW: encapsulated pixels of an icon inside a sequence

_EXPLICIT_BIG = "1.2.840.10008.1.2.2"
_DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})
_MODALITY = re.compile(r"[A-Z0-9_ ]{1,16}")


class UnidentifiableError(PermanentGatewayError):
    """The data set cannot be followed as far as its identity; the text says where it broke, without any value."""


@dataclass(frozen=True)
class Found:
    """What the data set says of itself, padding stripped and nothing checked. Empty where it says nothing."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str | None
    has_directory_records: bool = False  # with no SOP Instance UID, a DICOMDIR (PS3.3 Annex F)
    station_name: str = ""
    department: str = ""
    accession_number: str = ""


@dataclass(frozen=True)
class FoundPixels:
    """Uncompressed pixels.

    Attributes
    ----------
    at : where their first byte is in the portion that was fed last; its length if they begin with the next one.
    size_bytes : of all of them.
    """

    at: int
    size_bytes: int
    layout: PixelLayout


class IdentityReader:
    """Fed with the data set's bytes in any portions until `done`.

    Parameters
    ----------
    find_pixels : go on to the pixels. What cannot be followed behind the identity is no error: there are no
        pixels then.

    Attributes
    ----------
    pixels : once found, for the portion that was fed last.

    transfer_syntax_uid : decides byte order and deflation. Explicit or implicit VR is told by the first element:
        private transfer syntaxes do not say, and some equipment sends one where it agreed on the other.
    """

    def __init__(self, transfer_syntax_uid: str, *, find_pixels: bool = False) -> None:
        self._find_pixels = find_pixels and transfer_syntax_uid in _NATIVE_LITTLE
        self._last_tag = _PIXEL_DATA if self._find_pixels else _REQUESTING_SERVICE + 1
        self._identified = False
        self._described: dict[int, int] = {}
        self._portion_at = 0  # where the portion begins in what is being followed
        self.pixels: FoundPixels | None = None
        big = transfer_syntax_uid == _EXPLICIT_BIG
        self._tag = struct.Struct(">HH" if big else "<HH")
        self._short = struct.Struct(">H" if big else "<H")
        self._long = struct.Struct(">I" if big else "<I")
        self._explicit_header = struct.Struct(">HH2sH" if big else "<HH2sH")
        self._implicit_header = struct.Struct(">HHI" if big else "<HHI")
        self._implicit: bool | None = None
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if transfer_syntax_uid in _DEFLATED else None
        self._inflated_bytes = 0
        self._held = bytearray()  # a header, or a wanted value, that is not complete yet
        self._skip_bytes = 0
        self._depth = 0
        self._implicit_from_depth: int | None = None
        self._values: dict[int, str] = {}
        self._marks: dict[int, bytes] = {}
        self._has_directory_records = False
        self.done = False

    def feed(self, data: memoryview) -> bool:
        """Follow the next bytes; True once nothing more is needed.

        Raises
        ------
        UnidentifiableError
        """
        if self.done:
            return True
        try:
            if self._inflater is None:
                self._follow(data)
            else:
                self._inflate(self._inflater, data)
        except UnidentifiableError:
            if not self._identified:
                raise
            self.done = True
        return self.done

    def finish(self) -> Found:
        """What was found. To be called when done, or at the data set's end.

        Raises
        ------
        UnidentifiableError : the data set ended inside an element.
        """
        if not self._identified and (self._held or self._skip_bytes or self._depth):
            raise UnidentifiableError("the data set ends inside an element before its identity is complete")
        modality = self._values.get(0x00080060, "")
        return Found(
            sop_class_uid=self._values.get(0x00080016, ""),
            sop_instance_uid=self._values.get(0x00080018, ""),
            study_instance_uid=self._values.get(0x0020000D, ""),
            series_instance_uid=self._values.get(_LAST_TAG, ""),
            modality=modality if _MODALITY.fullmatch(modality) else None,
            has_directory_records=self._has_directory_records,
            station_name=self._mark(_STATION, "SH"),
            department=self._mark(_REQUESTING_SERVICE, "LO"),
            accession_number=self._mark(_ACCESSION, "SH"),
        )

    def _mark(self, tag: int, vr: str) -> str:
        """The first value as text of the data set's character set; what cannot be shown is left out."""
        raw = self._marks.get(tag, b"")
        if not raw:
            return ""
        named = self._marks.get(_CHARACTER_SET, b"").decode("latin-1").strip("\0 ")
        return _shown(raw, vr, named)

    def _inflate(self, inflater: zlib._Decompress, data: memoryview) -> None:
        rest: bytes | memoryview = data
        more = True
        while more and not self.done:
            try:
                piece = inflater.decompress(rest, _INFLATE_STEP_BYTES)
            except zlib.error as error:
                raise UnidentifiableError("the deflated data set is damaged") from error
            rest = inflater.unconsumed_tail
            # A full step may have more behind it that zlib holds back with no input left over.
            more = not inflater.eof and (len(rest) > 0 or len(piece) == _INFLATE_STEP_BYTES)
            self._inflated_bytes += len(piece)
            if self._inflated_bytes > MAX_INFLATED_BYTES:
                raise UnidentifiableError("the deflated data set hides its identity too deep")
            self._follow(memoryview(piece))

    def _follow(self, data: memoryview) -> None:
        skipped = min(self._skip_bytes, len(data))
        self._skip_bytes -= skipped
        data = data[skipped:]
        self._portion_at = len(self._held) - skipped
        if self._held:
            self._held += data
            data = memoryview(bytes(self._held))
        at = 0
        while not self.done and at < len(data):
            at = self._skim(data, at)
            used = self._element(data, at)
            if used is None:
                break
            at += used
        self._skip_bytes += max(0, at - len(data))
        self._held = bytearray(data[at:]) if not self.done else bytearray()

    def _skim(self, data: memoryview, at: int) -> int:
        """Run over plain elements, keeping what is asked for: nearly all, at a third of the price of `_element`."""
        if self._depth or self._implicit is None:
            return at
        implicit, unpack_implicit = self._implicit, self._implicit_header.unpack_from
        unpack_explicit, unpack_length = self._explicit_header.unpack_from, self._long.unpack_from
        last_tag = self._last_tag - 1 if self._identified else _LAST_TAG
        end = len(data) - _LONGEST_HEADER_BYTES
        while at <= end:
            if implicit:
                group, number, length = unpack_implicit(data, at)
                header_bytes = 8
            else:
                group, number, vr, length = unpack_explicit(data, at)
                if vr in _SHORT_VRS:
                    header_bytes = 8
                elif vr in _LONG_VRS:
                    (length,) = unpack_length(data, at + 8)
                    header_bytes = 12
                else:
                    return at
            tag = group << 16 | number
            if length == _UNDEFINED or not _FIRST_TAG <= tag <= last_tag:
                return at
            if tag in _NOT_SKIMMED:
                if tag not in _KEPT or (tag in _MARKING and length > _MARK_MAX_BYTES):
                    return at
                if self._keep(tag, data, at + header_bytes, length, header_bytes) is None:
                    return at
                last_tag = self._last_tag - 1 if self._identified else _LAST_TAG
            at += header_bytes + length
        return at

    def _element(self, data: memoryview, at: int) -> int | None:
        """Take the element at `at`: bytes to go on by (past the end: to be skipped); None if it is cut off."""
        if len(data) - at < 8:
            return None
        group, number = self._tag.unpack_from(data, at)
        tag = group << 16 | number
        if group == 0xFFFE:
            return self._delimiter(tag, int(self._long.unpack_from(data, at + 4)[0]))
        vr = bytes(data[at + 4 : at + 6])
        if self._implicit is None:
            self._implicit = vr not in _LONG_VRS and vr not in _SHORT_VRS
        if self._implicit or self._implicit_from_depth is not None:
            vr, header_bytes, length = b"", 8, int(self._long.unpack_from(data, at + 4)[0])
        elif vr in _SHORT_VRS:
            header_bytes, length = 8, int(self._short.unpack_from(data, at + 6)[0])
        elif vr in _LONG_VRS:
            if len(data) - at < 12:
                return None
            header_bytes, length = 12, int(self._long.unpack_from(data, at + 8)[0])
        else:
            raise UnidentifiableError(f"no known value representation at ({group:04x},{number:04x})")
        if self._depth == 0:
            if group in (0x0000, 0x0002):
                raise UnidentifiableError(f"group {group:04x} does not belong in a data set")
            if tag > _LAST_TAG:
                self._identified = True
                if tag >= self._last_tag:
                    self._end(tag, at + header_bytes, length)
                    return 0
            self._has_directory_records |= tag == _DIRECTORY_RECORD_SEQUENCE
            if tag in _KEPT and not (tag in _MARKING and length > _MARK_MAX_BYTES):
                return self._keep(tag, data, at + header_bytes, length, header_bytes)
        if length != _UNDEFINED:
            return header_bytes + length
        if vr and vr not in _NESTING_VRS:
            raise UnidentifiableError(f"undefined length at ({group:04x},{number:04x})")
        self._enter()
        if vr == b"UN" and self._implicit_from_depth is None:
            self._implicit_from_depth = self._depth  # PS3.5 section 6.2.2: its content is Implicit VR
        return header_bytes

    def _keep(self, tag: int, data: memoryview, at: int, length: int, header_bytes: int) -> int | None:
        if length > _VALUE_MAX_BYTES and tag not in _MARKING:
            raise UnidentifiableError(f"({tag >> 16:04x},{tag & 0xFFFF:04x}) is longer than any UID")
        if len(data) - at < length:
            return None
        if tag in _DESCRIBING:
            if length == 2:
                self._described[tag] = self._short.unpack_from(data, at)[0]
            return header_bytes + length
        if tag in _MARKING:
            self._marks.setdefault(tag, bytes(data[at : at + length]))
            return header_bytes + length
        value = bytes(data[at : at + length]).decode("latin-1").strip("\0 ")
        self._values.setdefault(tag, value)
        self._identified |= len(self._values) == len(_WANTED)
        return header_bytes + length

    def _end(self, tag: int, value_at: int, length: int) -> None:
        """The walk is over; at the pixels, say where they are and how they lie."""
        self.done = True
        sample_bytes, rest = divmod(self._described.get(_BITS_ALLOCATED, 0), 8)
        samples, columns = self._described.get(_SAMPLES, 1), self._described.get(_COLUMNS, 0)
        if (
            tag == _PIXEL_DATA
            and self._find_pixels
            and length != _UNDEFINED
            and columns
            and (samples == 1 or (samples == 3 and self._described.get(_PLANAR, 0) == 0))
            and sample_bytes in (1, 2)
            and not rest
        ):
            layout = PixelLayout(columns, samples, sample_bytes, bool(self._described.get(_SIGNED)))
            self.pixels = FoundPixels(value_at - self._portion_at, length, layout)

    def _delimiter(self, tag: int, length: int) -> int:
        """An item, or the end of an item or a sequence: only ever seen inside undefined length."""
        if self._depth == 0:
            raise UnidentifiableError("an item outside any sequence")
        if tag == _ITEM:
            if length != _UNDEFINED:
                return 8 + length
            self._enter()
        elif tag in (_ITEM_END, _SEQUENCE_END):
            self._depth -= 1
            if self._implicit_from_depth is not None and self._depth < self._implicit_from_depth:
                self._implicit_from_depth = None
        else:
            raise UnidentifiableError("an element of group fffe that does not exist")
        return 8

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UnidentifiableError(f"sequences nested deeper than {MAX_DEPTH}")


@lru_cache(maxsize=64)  # the images of a study say the same: to decode takes longer than to find the element
def _shown(raw: bytes, vr: str, character_set: str) -> str:
    """The first value of `raw` as text for a screen."""
    text = decode(raw, vr, encodings_of(character_set)).partition("\\")[0]
    return "".join(char for char in text if char.isprintable()).strip()
