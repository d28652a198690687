"""Where an image's frames lie in its file, and how one is read without the others.

Why it exists: a viewer asks for frames one by one; a 1 GB multi-frame object must not be loaded for each.

What is always true
-------------------
- The file is read up to the pixel data, under the limits that a header has, then exactly the frame that is wanted.
- What leaves is little endian: native frames of Explicit VR Big Endian are swapped, deflated data sets are
  inflated (to a temporary file, under a ceiling). Encapsulated frames leave as they are stored.
- Whatever is wrong with the file ends in `NotAnImageError`: these bytes came from outside.
"""

from __future__ import annotations

import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

import numpy as np
from pydicom import Dataset
from pydicom.encaps import generate_frames, get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from central.archive.header import beyond_limit, limited
from central.archive.sealed_file import ObjectFile
from central.dicomweb.errors import NotAnImageError

MAX_FRAME_BYTES: Final = 1 << 29
MAX_INFLATED_BYTES: Final = 1 << 30
_IN_MEMORY_BYTES: Final = 8 << 20
_DEFER_BYTES: Final = 4 << 20  # larger than any lookup table; what is deferred is never asked for
_PREAMBLE_BYTES: Final = 132
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
# PixelData, FloatPixelData, DoubleFloatPixelData
PIXEL_TAGS: Final = (0x7FE00010, 0x7FE00008, 0x7FE00009)
_DAMAGE: Final = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    NotImplementedError,
    EOFError,
    RecursionError,
    struct.error,
    zlib.error,
    BytesLengthException,
    InvalidDicomError,
)


@dataclass(frozen=True)
class ImagePixel:
    """The Image Pixel Module (PS3.3 C.7.6.3) as far as frames depend on it."""

    rows: int
    columns: int
    samples_per_pixel: int
    photometric_interpretation: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    is_planar: bool
    is_float: bool
    number_of_frames: int

    @property
    def bits_per_frame(self) -> int:
        if self.photometric_interpretation == "YBR_FULL_422":  # two pixels share their colour
            return self.rows * self.columns * 2 * self.bits_allocated
        return self.rows * self.columns * self.samples_per_pixel * self.bits_allocated


@dataclass(frozen=True)
class NativeValue:
    """Bytes in an open file. `swapped_unit_bytes`: size of the big endian words they are, 1 if they are none."""

    file: BinaryIO
    offset: int
    length: int
    swapped_unit_bytes: int


@dataclass(frozen=True)
class StoredImage:
    """An open image file. `header` is the data set above the pixel data, `tag` that of the pixel data."""

    header: Dataset
    tag: int
    pixels: ImagePixel
    transfer_syntax_uid: UID
    _file: BinaryIO
    _value_offset: int
    _value_length: int
    _pixel_vr: str

    @property
    def delivered_transfer_syntax_uid(self) -> UID:
        """That of the bytes which `read_frame` returns."""
        return self.transfer_syntax_uid if self.is_encapsulated else ExplicitVRLittleEndian

    @property
    def is_encapsulated(self) -> bool:
        return self._value_length == _UNDEFINED_LENGTH

    @property
    def native_value(self) -> NativeValue:
        """Where the whole of native pixel data stands."""
        return NativeValue(self._file, self._value_offset, self._value_length, self._swapped_unit_bytes())

    def read_frame(self, number: int) -> bytes:
        """Frame `number` (from 1), compressed or as little endian pixel cells.

        Raises
        ------
        NotAnImageError : the file does not hold that frame whole.
        """
        if not 1 <= number <= self.pixels.number_of_frames:
            raise NotAnImageError(f"this image has {self.pixels.number_of_frames} frames")
        try:
            return self._encapsulated(number) if self.is_encapsulated else self._native(number)
        except _DAMAGE as error:
            raise NotAnImageError("the pixel data of this instance is damaged") from error

    def frames(self) -> Iterator[bytes]:
        """Every frame, in order: where there is no offset table, finding each by itself would read the file each time.

        Raises
        ------
        NotAnImageError : the file does not hold them whole.
        """
        number_of_frames = self.pixels.number_of_frames
        if not self.is_encapsulated:
            yield from map(self.read_frame, range(1, number_of_frames + 1))
            return
        self._file.seek(self._value_offset)
        try:
            frames = generate_frames(
                self._file, number_of_frames=number_of_frames, extended_offsets=self._extended_offsets()
            )
            for number, frame in enumerate(frames, 1):
                yield self._whole(number, frame)
        except _DAMAGE as error:
            raise NotAnImageError("the pixel data of this instance is damaged") from error

    def _encapsulated(self, number: int) -> bytes:
        self._file.seek(self._value_offset)
        frame = get_frame(
            self._file,
            number - 1,
            extended_offsets=self._extended_offsets(),
            number_of_frames=self.pixels.number_of_frames,
        )
        return self._whole(number, frame)

    def _whole(self, number: int, frame: bytes) -> bytes:
        """A compressed frame, if nothing of it is missing: an offset table may point behind the end of the file."""
        offsets = self._extended_offsets()
        said = int.from_bytes(offsets[1][8 * number - 8 : 8 * number], "little") if offsets else 0
        if len(frame) < max(1, said):
            raise NotAnImageError(f"the file does not hold frame {number} whole")
        return frame

    def _extended_offsets(self) -> tuple[bytes, bytes] | None:
        offsets = self.header.get("ExtendedOffsetTable"), self.header.get("ExtendedOffsetTableLengths")
        return cast("tuple[bytes, bytes]", offsets) if all(offsets) else None

    def _native(self, number: int) -> bytes:
        bits = self.pixels.bits_per_frame
        if bits > MAX_FRAME_BYTES * 8:
            raise NotAnImageError("a frame of this instance is too large to be answered by itself")
        first_bit = (number - 1) * bits
        begin, end = first_bit // 8, (first_bit + bits + 7) // 8
        unit = self._swapped_unit_bytes()
        begin_aligned, end_aligned = begin - begin % unit, end + -end % unit
        self._file.seek(self._value_offset + begin_aligned)
        wanted = min(end_aligned, self._value_length) - begin_aligned
        cells = self._file.read(max(0, wanted))
        if len(cells) < end - begin_aligned:
            raise NotAnImageError(f"the file ends before frame {number} does")
        if unit > 1:
            whole = len(cells) - len(cells) % unit
            cells = np.frombuffer(cells[:whole], f">u{unit}").astype(f"<u{unit}").tobytes() + cells[whole:]
        cells = cells[begin - begin_aligned : end - begin_aligned]
        return _shifted(cells, first_bit % 8, bits) if bits % 8 or first_bit % 8 else cells

    def _swapped_unit_bytes(self) -> int:
        """Size of the cells whose bytes must be swapped; 1: none. PS3.5 section 8.1.1 and Annex A.3."""
        if self.transfer_syntax_uid != ExplicitVRBigEndian:
            return 1
        if self.pixels.bits_allocated > 8:
            return self.pixels.bits_allocated // 8
        return 2 if self._pixel_vr == "OW" else 1


@contextmanager
def open_image(path: ObjectFile, transfer_syntax_uid: str) -> Iterator[StoredImage]:
    """Open the Part 10 file at `path`, which is stored in `transfer_syntax_uid`.

    Raises
    ------
    NotAnImageError : it has no pixel data, or cannot be read as far as that.
    """
    with open_data_set(path, transfer_syntax_uid) as source:
        yield _located(source, UID(transfer_syntax_uid))


@contextmanager
def open_data_set(path: ObjectFile, transfer_syntax_uid: str) -> Iterator[BinaryIO]:
    """The Part 10 file at `path`, read to where its data set begins; a deflated one inflated.

    Raises
    ------
    NotAnImageError : it cannot be read as far as that.
    """
    syntax = UID(transfer_syntax_uid)
    with ExitStack() as opened:
        source: BinaryIO = opened.enter_context(path.open("rb"))
        try:
            source.seek(_PREAMBLE_BYTES)
            read_dataset(limited(source), False, True, stop_when=lambda tag, vr, length: tag >= 0x00030000)
            if syntax == DeflatedExplicitVRLittleEndian:
                plain = opened.enter_context(tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES))
                _inflate(source, plain)
                source = cast("BinaryIO", plain)
        except _DAMAGE as error:
            raise NotAnImageError("this instance cannot be read as a DICOM file") from error
        yield source


def _located(file: BinaryIO, syntax: UID) -> StoredImage:
    found: list[tuple[BaseTag, str | None, int]] = []

    def at_pixel_data(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag in PIXEL_TAGS:
            found.append((tag, vr, length))
        return tag in PIXEL_TAGS

    try:
        header = read_dataset(
            limited(file),
            is_implicit_VR=syntax == ImplicitVRLittleEndian,
            is_little_endian=syntax != ExplicitVRBigEndian,
            stop_when=at_pixel_data,
            defer_size=_DEFER_BYTES,
        )
        if not found:
            raise NotAnImageError("this instance has no pixel data")
        for beyond in beyond_limit(dict(header.items())):
            del header[beyond]
        tag, vr, length = found[0]
        return StoredImage(
            header=header,
            tag=tag,
            pixels=_image_pixel(header, is_float=tag != PIXEL_TAGS[0]),
            transfer_syntax_uid=syntax,
            _file=file,
            _value_offset=file.tell() + (8 if vr is None else 12),
            _value_length=length,
            _pixel_vr=vr or "OW",
        )
    except _DAMAGE as error:
        raise NotAnImageError("the header of this image is damaged") from error


def _image_pixel(header: Dataset, is_float: bool) -> ImagePixel:
    def number(keyword: str, default: int) -> int:
        value = header.get(keyword)
        return default if value is None or value == "" else int(value)

    bits_allocated = number("BitsAllocated", 0)
    bits_stored = number("BitsStored", bits_allocated)
    pixels = ImagePixel(
        rows=number("Rows", 0),
        columns=number("Columns", 0),
        samples_per_pixel=number("SamplesPerPixel", 1),
        photometric_interpretation=str(header.get("PhotometricInterpretation", "MONOCHROME2")).strip(),
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=number("HighBit", bits_stored - 1),
        is_signed=number("PixelRepresentation", 0) == 1,
        is_planar=number("PlanarConfiguration", 0) == 1,
        is_float=is_float,
        number_of_frames=max(1, number("NumberOfFrames", 1)),
    )
    if min(pixels.rows, pixels.columns) < 1 or pixels.samples_per_pixel not in (1, 3, 4):
        raise NotAnImageError("this instance says no size of its image")
    if pixels.bits_allocated not in (1, 8, 16, 32, 64):
        raise NotAnImageError(f"pixel cells of {pixels.bits_allocated} bits are not supported")
    return pixels


def _inflate(deflated: BinaryIO, plain: tempfile.SpooledTemporaryFile[bytes]) -> None:
    """Write the deflated rest of a file (PS3.5 Annex A.5) to `plain`, and go back to its beginning."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    while not inflater.eof and (chunk := inflater.unconsumed_tail or deflated.read(1 << 16)):
        plain.write(inflater.decompress(chunk, 1 << 20))
        if plain.tell() > MAX_INFLATED_BYTES:
            raise NotAnImageError("this deflated instance is too large to be taken apart")
    plain.write(inflater.flush())
    plain.seek(0)


def _shifted(cells: bytes, skip_bits: int, bits: int) -> bytes:
    """`bits` bits from `skip_bits` on, beginning at a byte: 1-bit frames need not (PS3.5 section 8.2)."""
    unpacked = np.unpackbits(np.frombuffer(cells, np.uint8), bitorder="little")
    return np.packbits(unpacked[skip_bits : skip_bits + bits], bitorder="little").tobytes()
