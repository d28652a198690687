"""An instance in a native (uncompressed) transfer syntax, written as a new Part 10 file.

Runs in a worker process only (see `central.dicomweb.render`). Frames are decoded and written one by one, so a
multi-frame object costs one frame of memory. Everything but pixels and their description stays as it was; elements
behind the pixel data (signatures over it, padding) would be wrong now and are left out.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from central.dicomweb.decode import decode_frame
from central.dicomweb.errors import NotAnImageError
from central.dicomweb.pixel_data import ImagePixel, StoredImage, open_image

_PIXEL_DATA: Final = (0x7FE0, 0x0010)
_MAX_VALUE_BYTES: Final = 0xFFFFFFFE
_OF_ENCAPSULATION: Final = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")


def write_native(path: Path, transfer_syntax_uid: str, wanted: str, out: BinaryIO) -> None:
    """Write the Part 10 file at `path` to `out` in Explicit or Implicit VR Little Endian, as `wanted` says.

    Raises
    ------
    NotAnImageError : its pixels cannot be decoded.
    """
    syntax = UID(transfer_syntax_uid)
    if syntax != ExplicitVRBigEndian and not syntax.is_encapsulated:
        ds = _with_vrs(dcmread(path, force=True))
        ds.file_meta.TransferSyntaxUID = UID(wanted)
        ds.save_as(out, enforce_file_format=True)
        return
    with open_image(path, syntax) as image:
        header: Dataset = _with_vrs(dcmread(path, stop_before_pixels=True, force=True))
        if syntax == ExplicitVRBigEndian:
            meta = header.file_meta
            header = _little_endian(header)
            header.file_meta = meta
        _write_image(image, header, UID(wanted), out)


def write_frames(path: Path, transfer_syntax_uid: str, numbers: Sequence[int], out: BinaryIO) -> list[int]:
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


def _with_vrs(data_set: Dataset) -> Dataset:
    """Some equipment writes implicit VR under an explicit transfer syntax; then every VR is looked up."""
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
    if wanted == ImplicitVRLittleEndian:
        out.write(struct.pack("<HHI", *_PIXEL_DATA, padded))
    else:
        vr = b"OW" if pixels.bits_allocated > 8 else b"OB"
        out.write(struct.pack("<HH2sHI", *_PIXEL_DATA, vr, 0, padded))
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
