"""An instance in a native (uncompressed) transfer syntax, written as a new Part 10 file.

Runs in a worker process only (see `central.dicomweb.render`). Frames are decoded and written one by one, so a
multi-frame object costs one frame of memory; native pixels are copied. Everything but pixels and their description
stays as it was; elements behind the pixel data (signatures over it, padding) would be wrong now and are left out.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO, Final

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from central.archive.header import looks_implicit
from central.archive.sealed_file import ObjectFile
from central.dicomweb.decode import decode_frame
from central.dicomweb.errors import NotAnImageError
from central.dicomweb.pixel_data import PIXEL_TAGS, ImagePixel, StoredImage, open_data_set, open_image

_FLOAT_VRS: Final = {0x7FE00008: b"OF", 0x7FE00009: b"OD"}
_CHUNK_BYTES: Final = 1 << 20
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_MAX_VALUE_BYTES: Final = 0xFFFFFFFE
_OF_ENCAPSULATION: Final = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")


def write_native(path: ObjectFile, transfer_syntax_uid: str, wanted: str, out: BinaryIO) -> None:
    """Write the Part 10 file at `path` to `out` in Explicit or Implicit VR Little Endian, as `wanted` says.

    Raises
    ------
    NotAnImageError : its pixels cannot be decoded.
    """
    syntax, wanted_syntax = UID(transfer_syntax_uid), UID(wanted)
    with open_data_set(path, syntax) as source:
        pixels = _pixels(source, syntax)
        with path.open("rb") as file:
            ds = _readable(dcmread(file, stop_before_pixels=pixels is not None, force=True), syntax)
        if pixels is None:
            ds.file_meta.TransferSyntaxUID = wanted_syntax
            ds.save_as(out, enforce_file_format=True)
            return
        if syntax != ExplicitVRBigEndian and pixels[1] != _UNDEFINED_LENGTH:
            _copy_pixels(source, pixels, ds, wanted_syntax, out)
            return
    with open_image(path, syntax) as image:
        _write_image(image, ds, wanted_syntax, out)


def write_frames(
    path: ObjectFile, transfer_syntax_uid: str, numbers: Sequence[int], out: BinaryIO
) -> list[int]:
    """Write frames (numbers from 1) as little endian cells to `out`; the size of each in bytes.

    Raises
    ------
    NotAnImageError : they cannot be decoded, or are too large together.
    """
    sizes: list[int] = []
    with open_image(path, transfer_syntax_uid) as image:
        for number in numbers:
            cells, _ = _cells(image, number)
            sizes.append(len(cells))
            if sum(sizes) > _MAX_VALUE_BYTES:
                raise NotAnImageError("so many frames are too large together: ask for fewer")
            out.write(cells)
    return sizes


def _pixels(source: BinaryIO, syntax: UID) -> tuple[int, int] | None:
    """Tag and length of the pixel data, with `source` at its first byte; None if there is none."""
    found: list[tuple[int, str | None, int]] = []

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag in PIXEL_TAGS:
            found.append((tag, vr, length))
        return tag in PIXEL_TAGS

    implicit = looks_implicit(source, expected=syntax == ImplicitVRLittleEndian)
    little = syntax != ExplicitVRBigEndian
    read_dataset(source, implicit, little, stop_when=at_pixels, defer_size=_CHUNK_BYTES)
    if not found:
        return None
    tag, vr, length = found[0]
    source.seek(8 if vr is None else 12, os.SEEK_CUR)
    return tag, length


def _copy_pixels(
    source: BinaryIO, pixels: tuple[int, int], header: Dataset, wanted: UID, out: BinaryIO
) -> None:
    """From one little endian encoding to the other pixels stay as they are."""
    tag, left = pixels
    header.file_meta.TransferSyntaxUID = wanted
    header.save_as(out, enforce_file_format=True)
    _write_pixel_head(out, tag, left, wanted, bits_allocated=int(header.get("BitsAllocated") or 16))
    while left:
        chunk = source.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise NotAnImageError("the file ends before its pixel data does")
        out.write(chunk)
        left -= len(chunk)


def _write_pixel_head(out: BinaryIO, tag: int, length: int, wanted: UID, *, bits_allocated: int) -> None:
    group, element = divmod(tag, 0x10000)
    if wanted == ImplicitVRLittleEndian:
        out.write(struct.pack("<HHI", group, element, length))
        return
    vr = _FLOAT_VRS.get(tag) or (b"OW" if bits_allocated > 8 else b"OB")
    out.write(struct.pack("<HH2sHI", group, element, vr, 0, length))


def _readable(data_set: Dataset, syntax: UID) -> Dataset:
    """A data set whose elements can be written in another encoding than they were read in."""
    if syntax == ExplicitVRBigEndian:
        little = _little_endian(data_set)
        little.file_meta = data_set.file_meta
        return little
    # Some equipment writes implicit VR under an explicit transfer syntax; then every VR is looked up.
    if any(data_set.get_item(tag).VR is None for tag in data_set.keys()):  # noqa: SIM118  # iterating looks them up
        data_set.walk(lambda _data_set, _element: None)  # visiting an element looks it up
    return data_set


def _write_image(image: StoredImage, header: Dataset, wanted: UID, out: BinaryIO) -> None:
    pixels = image.pixels
    first, colour = _cells(image, 1)
    length = len(first) * pixels.number_of_frames
    if length > _MAX_VALUE_BYTES:
        raise NotAnImageError("uncompressed this instance is larger than a native transfer syntax allows")
    for keyword in _OF_ENCAPSULATION:
        if keyword in header:
            delattr(header, keyword)
    header.PhotometricInterpretation = colour
    if pixels.samples_per_pixel > 1 and image.is_encapsulated:
        header.PlanarConfiguration = 0
    header.file_meta.TransferSyntaxUID = wanted
    header.save_as(out, enforce_file_format=True)
    padded = length + length % 2
    _write_pixel_head(out, image.tag, padded, wanted, bits_allocated=pixels.bits_allocated)
    out.write(first)
    for number in range(2, pixels.number_of_frames + 1):
        frame, _ = _cells(image, number)
        if len(frame) != len(first):
            raise NotAnImageError("the frames of this instance have different sizes")
        out.write(frame)
    out.write(bytes(padded - length))


def _cells(image: StoredImage, number: int) -> tuple[bytes, str]:
    """One frame as it stands in a native transfer syntax, and its photometric interpretation."""
    pixels = image.pixels
    if not image.is_encapsulated:
        return image.read_frame(number), pixels.photometric_interpretation
    decoded = decode_frame(image, number)
    cells = decoded.cells.astype(_cell_type(pixels), copy=False)
    return np.ascontiguousarray(cells).tobytes(), decoded.photometric_interpretation


def _cell_type(pixels: ImagePixel) -> np.dtype[Any]:
    if pixels.bits_allocated < 8:
        raise NotAnImageError("compressed pixel cells of less than a byte are not decoded")
    return np.dtype(f"<{'i' if pixels.is_signed else 'u'}{pixels.bits_allocated // 8}")


def _little_endian(header: Dataset) -> Dataset:
    """A big endian header with every value decoded, so that it can be written the other way round."""
    plain = Dataset()
    for element in header:
        if element.VR == "SQ":
            element.value = [_little_endian(item) for item in element.value]
        elif element.VR == "OW" and isinstance(element.value, bytes):
            element.value = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()
        plain.add(element)
    return plain
