"""Pixels come back bit for bit in every form, and no codestream but the one expected reaches the decoder."""

from __future__ import annotations

import contextlib
import struct
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import pixel_rows
from contract.htj2k_header import is_expected, main_header
from contract.pixel_rows import CodedRows, PixelLayout, PixelRowsError, decode_rows, encode_rows
from tests.contract.pixels import CT, ct_slice

FORMS = [PixelLayout(96, *form) for form in product((1, 3), (1, 2), (False, True))]


def coded(raw: bytes, layout: PixelLayout) -> CodedRows:
    rows = encode_rows(raw, layout)
    assert rows is not None
    return rows


@pytest.mark.parametrize("layout", FORMS, ids=str)
def test_every_form_comes_back_smaller_and_the_same(layout: PixelLayout) -> None:
    raw = ct_slice(layout, rows=64)
    rows = coded(raw, layout)
    assert len(rows.coded) < 0.8 * len(raw)
    assert decode_rows(rows, len(raw), layout) == raw


@pytest.mark.parametrize("layout", FORMS, ids=str)
@pytest.mark.parametrize("values", ["one", "bottom and top", "top", "next to bottom and top", "gap of one"])
def test_extremes(layout: PixelLayout, values: str) -> None:
    """Where arithmetic modulo the sample's width wraps."""
    limits = np.iinfo(np.dtype(f"<{'i' if layout.signed else 'u'}{layout.sample_bytes}"))
    low, high = int(limits.min), int(limits.max)
    chosen = {
        "one": [low],
        "bottom and top": [low, high],
        "top": [high],
        "next to bottom and top": [low, low + 1, high],
        "gap of one": [high - 2, high - 1, high],
    }[values]
    raw = np.resize(np.array(chosen), (40, layout.columns * layout.samples)).astype(limits.dtype).tobytes()
    rows = encode_rows(raw, layout)
    assert rows is None or decode_rows(rows, len(raw), layout) == raw
    if values == "one":
        assert rows is not None


@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 70),
    st.integers(1, 40),
    st.sampled_from([(1, 1), (1, 2), (3, 1), (3, 2)]),
    st.booleans(),
    st.sampled_from([2, 40, 256, 5000, 65536]),
    st.integers(0, 2**32 - 1),
)
def test_any_pixels(
    columns: int, rows: int, form: tuple[int, int], signed: bool, spread: int, seed: int
) -> None:
    layout = PixelLayout(columns, *form, signed)
    values = np.random.default_rng(seed).integers(0, spread, columns * rows * layout.samples) - spread // 3
    raw = values.astype(f"<i{8}").astype(f"<u{layout.sample_bytes}").tobytes()
    found = encode_rows(raw, layout)
    if found is not None:
        assert len(found.coded) < len(raw)
        assert decode_rows(found, len(raw), layout) == raw


def test_the_lowest_value_is_brought_near_and_put_back() -> None:
    raw = ct_slice()
    rows = coded(raw, CT)
    values = np.frombuffer(raw, "<i2")
    above = int(np.unique(values)[1])
    assert (rows.lowest, rows.gap) == (-2000 & 0xFFFF, above - -2000 - 1)
    assert rows.gap > 900
    # What it is for: the same picture without the trick is larger.
    plain = pixel_rows._encode(values.view("<u2").reshape(128, 128))
    assert plain is not None
    assert len(rows.coded) < 0.97 * len(plain)


def test_noise_is_left_to_others() -> None:
    raw = np.random.default_rng(1).bytes(96 * 2 * 50)
    assert encode_rows(raw, PixelLayout(96, 1, 2, False)) is None


def test_a_codec_that_gives_back_other_bytes_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = pixel_rows.imagecodecs.htj2k_decode
    monkeypatch.setattr(pixel_rows.imagecodecs, "htj2k_decode", lambda coded: original(coded) ^ 1)
    assert encode_rows(ct_slice(), CT) is None


def test_a_codec_that_writes_another_header_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    original = pixel_rows.imagecodecs.htj2k_encode
    monkeypatch.setattr(
        pixel_rows.imagecodecs,
        "htj2k_encode",
        lambda image, **_: original(image, reversible=True, resolutions=3),
    )
    assert encode_rows(ct_slice(), CT) is None


# What lies ------------------------------------------------------------------------------------------------


def damaged(rows: CodedRows, at: int, value: bytes) -> CodedRows:
    return CodedRows(rows.coded[:at] + value + rows.coded[at + len(value) :], rows.lowest, rows.gap)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (8, struct.pack(">I", 1 << 30)),  # width
        (12, struct.pack(">I", 1 << 30)),  # height
        (12, struct.pack(">I", 64)),
        (16, struct.pack(">I", 1)),  # origin
        (24, struct.pack(">I", 1)),  # tiles one pixel wide
        (24, struct.pack(">I", 0)),  # tiles of no size: the decoder divides by zero
        (28, struct.pack(">I", 0)),
        (40, struct.pack(">H", 16_384)),  # components
        (42, b"\x25"),  # depth
        (43, b"\x00"),  # subsampling
        (43, b"\x02"),
        (2, b"\xff\x55"),
    ],
)
def test_a_header_that_lies_never_reaches_the_decoder(
    at: int, value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = ct_slice()
    lying = damaged(coded(raw, CT), at, value)
    monkeypatch.delattr(pixel_rows.imagecodecs, "htj2k_decode")
    with pytest.raises(PixelRowsError, match="one form"):
        decode_rows(lying, len(raw), CT)


def test_every_byte_of_the_header_counts_and_every_cut() -> None:
    raw = ct_slice()
    rows = coded(raw, CT)
    size = {"columns": 128, "rows": 128, "samples": 1, "sample_bytes": 2}
    header = main_header(**size)
    assert is_expected(rows.coded, **size)
    for at in range(len(header)):
        assert not is_expected(damaged(rows, at, bytes((rows.coded[at] ^ 1,))).coded, **size), at
    tile = rows.coded.index(b"\xff\x90\x00\x0a")
    for at in (*range(tile, tile + 14), len(rows.coded) - 1):
        assert not is_expected(damaged(rows, at, bytes((rows.coded[at] ^ 1,))).coded, **size), at
    for length in (*range(tile + 20), len(rows.coded) - 1):
        assert not is_expected(rows.coded[:length], **size), length
    assert not is_expected(rows.coded + b"\0", **size)


def test_a_comment_is_optional_single_and_short() -> None:
    rows = coded(ct_slice(), CT).coded
    size = {"columns": 128, "rows": 128, "samples": 1, "sample_bytes": 2}
    header, tile = main_header(**size), rows[rows.index(b"\xff\x90\x00\x0a") :]

    def comment(length: int) -> bytes:
        return b"\xff\x64" + length.to_bytes(2) + bytes(length - 2)

    assert is_expected(header + tile, **size)
    assert is_expected(header + comment(256) + tile, **size)
    assert not is_expected(header + comment(257) + tile, **size)
    assert not is_expected(header + comment(9) + comment(9) + tile, **size)
    assert decode_rows(CodedRows(header + tile, 0, 0), len(ct_slice()), CT)


@pytest.mark.parametrize("size_bytes", [0, 1, 255, 257, 128 * 256 - 1])
def test_only_whole_rows(size_bytes: int) -> None:
    with pytest.raises(PixelRowsError, match="whole rows"):
        decode_rows(coded(ct_slice(), CT), size_bytes, CT)


def test_an_image_of_another_size_than_declared() -> None:
    rows = coded(ct_slice(), CT)
    for size_bytes, layout in (
        (64 * 256, CT),
        (128 * 256, PixelLayout(64, 1, 2, True)),
        (128 * 128, PixelLayout(128, 1, 1, True)),
        (128 * 128 * 6, PixelLayout(128, 3, 2, True)),
    ):
        with pytest.raises(PixelRowsError):
            decode_rows(rows, size_bytes, layout)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the codec's, swallowed in C
@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damaged_coded_bits_end_in_other_pixels_or_the_one_error(data: st.DataObject) -> None:
    raw = ct_slice(rows=32)
    rows = coded(raw, CT)
    body = rows.coded.index(b"\xff\x93") + 2
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(body, len(rows.coded) - 3))
        rows = damaged(rows, at, data.draw(st.binary(min_size=1, max_size=1)))
    with contextlib.suppress(PixelRowsError):
        assert len(decode_rows(rows, len(raw), CT)) == len(raw)
