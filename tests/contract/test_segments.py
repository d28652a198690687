"""The segmented stream: whatever was cut into it comes out, and nothing that lies does."""

from __future__ import annotations

import contextlib
import os
import struct
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.pixel_rows import PixelLayout
from contract.segment_coder import BAND_BYTES, SegmentCoder
from contract.segments import (
    SEGMENT_MAX_BYTES,
    Kind,
    SegmentError,
    pixel_segment,
    raw_segment,
    read_segments,
    zstd_segment,
)
from tests.contract.pixels import CT, ct_slice

LAYOUTS = [
    PixelLayout(columns, *form)
    for columns in (1, 7, 512)
    for form in ((1, 1, False), (1, 2, True), (3, 1, False))
]
HEADER = struct.Struct(">BII")


def joined(parts: Iterable[bytes | bytearray | memoryview]) -> bytes:
    return b"".join(bytes(part) for part in parts)


def read(stream: bytes, piece: int = 1 << 20) -> bytes:
    return b"".join(read_segments(stream[at : at + piece] for at in range(0, len(stream), piece)))


def kinds(stream: bytes) -> list[Kind]:
    found, at = [], 0
    while at < len(stream):
        kind, _, coded_bytes = HEADER.unpack_from(stream, at)
        found.append(Kind(kind))
        at += HEADER.size + coded_bytes
    assert at == len(stream)
    return found


def code(
    before: bytes,
    pixels: bytes,
    after: bytes,
    layout: PixelLayout | None,
    piece: int,
    said: int | None = None,
) -> bytes:
    """As a reception does it: the head, word of the pixels, the pixels, and whatever follows."""
    coder = SegmentCoder()
    stream = joined(coder.write(before)) if before else b""
    if layout is not None:
        stream += joined(coder.begin_pixels(layout, len(pixels) if said is None else said))
    rest = pixels + after
    for at in range(0, len(rest), piece):
        stream += joined(coder.write(memoryview(rest)[at : at + piece]))
        assert len(coder._held) <= BAND_BYTES
    return stream + joined(coder.finish())


# What goes in comes out -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(
    st.binary(max_size=300),
    st.binary(max_size=3000),
    st.binary(max_size=300),
    st.sampled_from([None, *LAYOUTS]),
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.one_of(st.none(), st.integers(0, 9000)),
)
def test_any_bytes_any_layout_any_pieces(
    before: bytes,
    pixels: bytes,
    after: bytes,
    layout: PixelLayout | None,
    piece: int,
    read_piece: int,
    said: int | None,
) -> None:
    """Also where the scanner lies about its pixels: more or fewer than come, or none at all."""
    stream = code(before, pixels, after, layout, piece, said)
    assert read(stream, read_piece) == before + pixels + after


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(LAYOUTS), st.integers(1, 1300), st.integers(0, 2), st.integers(1, 1 << 20))
def test_real_pixels_of_any_height(layout: PixelLayout, rows: int, padding: int, piece: int) -> None:
    pixels = ct_slice(layout, rows) + bytes(padding)
    stream = code(b"head" * 9, pixels, b"tail", layout, piece)
    assert read(stream) == b"head" * 9 + pixels + b"tail"


@pytest.mark.parametrize("rows", [128, 1 << 12])
def test_pixels_are_coded_as_images_and_the_rest_is_not(rows: int) -> None:
    pixels = ct_slice(rows=rows)
    stream = code(b"DICM" * 100, pixels, b"\xfc\xff" * 60, CT, 30_000)
    bands = -(-len(pixels) // BAND_BYTES)
    assert kinds(stream) == [Kind.ZSTD, *[Kind.HTJ2K] * bands, Kind.ZSTD]
    assert len(stream) < len(zstandard.compress(pixels, 3))


def test_a_band_that_does_not_gain_goes_the_way_of_the_rest() -> None:
    stream = code(b"", os.urandom(128 * 256) + bytes(128 * 256), b"", CT, 1 << 20)
    # One band: half noise, half nothing. Alone, noise is kept as it is.
    assert read(stream)[128 * 256 :] == bytes(128 * 256)
    assert kinds(code(b"", os.urandom(128 * 256), b"", CT, 999)) == [Kind.RAW]


@pytest.mark.parametrize(
    ("layout", "size_bytes"),
    [(PixelLayout(65_535, 3, 2, False), 10 * 65_535 * 6), (PixelLayout(65_535, 3, 2, False), 100), (CT, 255)],
    ids=["wider than a band: image rows of 390 KB fit", "less than a row", "a byte less than a row"],
)
def test_rows_that_do_not_add_up_are_just_bytes(layout: PixelLayout, size_bytes: int) -> None:
    pixels = os.urandom(size_bytes)
    assert read(code(b"x", pixels, b"y", layout, 70_000)) == b"x" + pixels + b"y"


def test_a_second_announcement_replaces_the_first() -> None:
    coder = SegmentCoder()
    stream = joined(coder.begin_pixels(CT, 1 << 20)) + joined(coder.write(ct_slice(rows=3)))
    stream += (
        joined(coder.begin_pixels(CT, 512)) + joined(coder.write(ct_slice(rows=2))) + joined(coder.finish())
    )
    assert read(stream) == ct_slice(rows=3) + ct_slice(rows=2)


def test_neither_side_holds_more_than_a_segment() -> None:
    """32 MiB of pixels through both, each allocation of Python and numpy counted."""
    block = ct_slice(PixelLayout(512, 1, 2, True), rows=512)
    coder = SegmentCoder()

    def stream() -> Iterator[bytes]:
        layout = PixelLayout(512, 1, 2, True)
        for part in coder.begin_pixels(layout, 64 * len(block)):
            yield bytes(part)
        for _ in range(64):
            for part in coder.write(block):
                yield bytes(part)
        yield joined(coder.finish())

    read_bytes = 0
    tracemalloc.start()
    try:
        for piece in read_segments(stream()):
            assert len(piece) <= SEGMENT_MAX_BYTES
            read_bytes += len(piece)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read_bytes == 64 * len(block)
    assert peak_bytes < 10 << 20


# What lies --------------------------------------------------------------------------------------------------

GOOD = joined(zstd_segment(b"abc" * 99, zstandard.ZstdCompressor()))
PIXELS = joined(pixel_segment(ct_slice(), CT) or [])


def segment(kind: int, size_bytes: int, coded: bytes) -> bytes:
    return HEADER.pack(kind, size_bytes, len(coded)) + coded


def pixels_with(**changes: int) -> bytes:
    fields = {"columns": 128, "samples": 1, "sample": 0x82, "lowest": 5, "gap": 5} | changes
    rows = struct.pack(">HBBHH", *fields.values())
    return segment(2, len(ct_slice()), rows + PIXELS[HEADER.size + 8 :])


def test_the_good_ones_are_read() -> None:
    assert read(GOOD) == b"abc" * 99
    assert read(PIXELS) == ct_slice()
    assert len(read(pixels_with())) == len(ct_slice())
    assert read(b"") == b""


@pytest.mark.parametrize(
    "stream",
    [
        segment(3, 5, b"12345"),
        segment(255, 5, b"12345"),
        HEADER.pack(0, 0, 0),
        HEADER.pack(0, 5, 0),
        segment(0, 4, b"12345"),
        segment(0, 6, b"12345"),
        HEADER.pack(0, SEGMENT_MAX_BYTES + 1, 5) + b"12345",
        HEADER.pack(1, 0xFFFFFFFF, 0xFFFFFFFF),
        GOOD[:-1],
        GOOD + b"\0",
        GOOD + GOOD[:8],
        GOOD[: HEADER.size],
        segment(1, 298, GOOD[HEADER.size :]),
        segment(1, 297, GOOD[HEADER.size : -1]),
        segment(1, 297, GOOD[HEADER.size :] + b"\0"),
        segment(1, 297, b"not zstandard"),
        # Two frames that would add up, and one that does not say its size.
        segment(1, 200, zstandard.compress(b"a" * 100) * 2),
        segment(1, 100, zstandard.ZstdCompressor(write_content_size=False).compress(b"a" * 100)),
        # Says little and holds much: 64 MiB in 2 KB.
        segment(1, 1 << 20, zstandard.compress(bytes(64 << 20))),
        segment(1, 1 << 20, zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20))),
        pixels_with(columns=0),
        pixels_with(columns=64),
        pixels_with(columns=127),
        pixels_with(samples=0),
        pixels_with(samples=2),
        pixels_with(samples=3),
        pixels_with(sample=0x80),
        pixels_with(sample=0x81),
        pixels_with(sample=0x84),
        pixels_with(sample=0x42),
        pixels_with(sample=0x01, columns=256, lowest=256),
        pixels_with(sample=0x01, columns=256, gap=256),
        segment(2, len(ct_slice()), PIXELS[HEADER.size : HEADER.size + 8]),
        segment(2, len(ct_slice()), PIXELS[HEADER.size : HEADER.size + 30]),
        segment(2, len(ct_slice()), PIXELS[HEADER.size : -1]),
        segment(2, len(ct_slice()) - 256, PIXELS[HEADER.size :]),
        segment(2, len(ct_slice()) + 256, PIXELS[HEADER.size :]),
        segment(2, len(ct_slice()) - 1, PIXELS[HEADER.size :]),
    ],
)
def test_what_is_no_sequence_of_whole_sound_segments_is_refused(stream: bytes) -> None:
    tracemalloc.start()
    try:
        for piece in (1 << 20, 7):
            with pytest.raises(SegmentError):
                read(stream, piece)
        assert tracemalloc.get_traced_memory()[1] < 6 << 20
    finally:
        tracemalloc.stop()


def test_every_cut_is_refused_but_those_between_segments() -> None:
    stream = GOOD + joined(raw_segment(b"raw")) + GOOD
    whole = {0, len(GOOD), len(GOOD) + HEADER.size + 3, len(stream)}
    for length in range(len(stream)):
        if length in whole:
            read(stream[:length])
        else:
            with pytest.raises(SegmentError):
                read(stream[:length])


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_garbage_ends_in_bytes_or_the_one_error(garbage: bytes) -> None:
    with contextlib.suppress(SegmentError):
        read(garbage)
        read(GOOD + garbage)


def test_what_came_before_a_lie_is_given_out_first() -> None:
    reader = read_segments(iter([GOOD + segment(9, 1, b"x")]))
    assert next(reader) == b"abc" * 99
    with pytest.raises(SegmentError, match="kind 9"):
        next(reader)
