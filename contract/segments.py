"""The segmented coded stream: pieces of a Part 10 file, each coded in the way that suits it, readable one by one.

    segment | segment | …        each: header, then its coded bytes

Every segment stands for at most 1 MiB and needs nothing from another, so a reader's memory is bounded whatever
the writer declares, and a writer may change its mind at each. Exact bytes: docs/formats/sealed-object.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

import zstandard

from contract.errors import PermanentError
from contract.pixel_rows import CodedRows, PixelLayout, PixelRowsError, decode_rows, encode_rows

SEGMENT_MAX_BYTES = 1 << 20
_HEADER = struct.Struct(">BII")  # kind, bytes it stands for, coded bytes
_ROWS = struct.Struct(">HBBHH")  # columns, samples, sample bytes (bit 7: signed), lowest, gap
_SIGNED_BIT = 0x80


class SegmentError(PermanentError):
    """The coded stream is not a sequence of whole segments."""


class Kind(IntEnum):
    RAW = 0
    ZSTD = 1
    HTJ2K = 2


def raw_segment(data: bytes | bytearray | memoryview) -> list[bytes | bytearray | memoryview]:
    """`data` as it is. In parts, so that it is not copied to get a header."""
    return [_HEADER.pack(Kind.RAW, len(data), len(data)), data]


def zstd_segment(
    data: bytes | bytearray | memoryview, compressor: zstandard.ZstdCompressor
) -> list[bytes | bytearray | memoryview]:
    """`data` as one Zstandard frame, or raw where that is not smaller."""
    coded = compressor.compress(data)
    if len(coded) >= len(data):
        return raw_segment(data)
    return [_HEADER.pack(Kind.ZSTD, len(data), len(coded)), coded]


def pixel_segment(
    data: bytes | bytearray | memoryview, layout: PixelLayout
) -> list[bytes | bytearray | memoryview] | None:
    """Whole rows of pixels as HTJ2K; None where that does not give the same bytes back, or fewer."""
    rows = encode_rows(data, layout)
    if rows is None or _ROWS.size + len(rows.coded) >= len(data):
        return None
    sample = layout.sample_bytes | (_SIGNED_BIT if layout.signed else 0)
    header = _HEADER.pack(Kind.HTJ2K, len(data), _ROWS.size + len(rows.coded))
    return [header + _ROWS.pack(layout.columns, layout.samples, sample, rows.lowest, rows.gap), rows.coded]


def read_segments(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Decode a coded stream that arrives in any pieces; yields at most 1 MiB at a time.

    Raises
    ------
    SegmentError : anything but a sequence of whole, sound segments.
    """
    held = bytearray()
    decompressor = zstandard.ZstdDecompressor(max_window_size=SEGMENT_MAX_BYTES)
    for piece in pieces:
        held += piece
        at = 0
        while len(held) - at >= _HEADER.size:
            kind, size_bytes, coded_bytes = _HEADER.unpack_from(held, at)
            if not 0 < size_bytes <= SEGMENT_MAX_BYTES or not 0 < coded_bytes <= size_bytes:
                raise SegmentError("a segment declares a size outside the format")
            end = at + _HEADER.size + coded_bytes
            if len(held) < end:
                break
            yield _decode(kind, bytes(held[at + _HEADER.size : end]), size_bytes, decompressor)
            at = end
        del held[:at]
    if held:
        raise SegmentError("the coded stream ends inside a segment")


def _decode(kind: int, coded: bytes, size_bytes: int, decompressor: zstandard.ZstdDecompressor) -> bytes:
    if kind == Kind.RAW:
        data = coded
    elif kind == Kind.ZSTD:
        data = _decompress(coded, size_bytes, decompressor)
    elif kind == Kind.HTJ2K:
        data = _decode_rows(coded, size_bytes)
    else:
        raise SegmentError(f"segment kind {kind} is not known here")
    if len(data) != size_bytes:
        raise SegmentError("a segment holds another number of bytes than it declares")
    return data


def _decompress(coded: bytes, size_bytes: int, decompressor: zstandard.ZstdDecompressor) -> bytes:
    # zstandard ignores max_output_size where the frame declares a size, so the frame's own word is checked first.
    try:
        if zstandard.get_frame_parameters(coded).content_size != size_bytes:
            raise SegmentError("a Zstandard segment declares another size inside")
        return decompressor.decompress(coded, read_across_frames=False, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise SegmentError("a Zstandard segment is damaged") from error


def _decode_rows(coded: bytes, size_bytes: int) -> bytes:
    if len(coded) <= _ROWS.size:
        raise SegmentError("a pixel segment is cut short")
    columns, samples, sample, lowest, gap = _ROWS.unpack_from(coded)
    sample_bytes = sample & ~_SIGNED_BIT
    limit = 1 << 8 * sample_bytes
    if not columns or samples not in (1, 3) or sample_bytes not in (1, 2) or lowest >= limit or gap >= limit:
        raise SegmentError("a pixel segment declares pixels outside the format")
    layout = PixelLayout(columns, samples, sample_bytes, bool(sample & _SIGNED_BIT))
    try:
        return decode_rows(CodedRows(coded[_ROWS.size :], lowest, gap), size_bytes, layout)
    except PixelRowsError as error:
        raise SegmentError(str(error)) from error
