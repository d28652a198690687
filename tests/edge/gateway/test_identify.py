"""The push parser, in portions of every size, over every encoding, and over what tries to hurt it."""

from __future__ import annotations

import contextlib
import itertools
import struct
import warnings
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from contract.pixel_rows import PixelLayout
from edge.gateway.identify import (
    MAX_DEPTH,
    MAX_INFLATED_BYTES,
    Found,
    FoundPixels,
    IdentityReader,
    UnidentifiableError,
)
from tests.edge.gateway.samples import data_set_bytes, pydicom_instances
from tests.peers.scripted_scu import EXPLICIT_LITTLE, IMPLICIT_LITTLE, ds_element, small_data_set

EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = (struct.pack("<HH", 0xFFFE, number) for number in (0xE000, 0xE00D, 0xE0DD))
EXPECTED = Found("1.2.840.10008.5.1.4.1.1.2", "1.2.3.1", "1.2.9", "1.2.9.1", "CT")


def read(data: bytes, transfer_syntax_uid: str = EXPLICIT_LITTLE, portion: int = 1 << 20) -> Found:
    reader = IdentityReader(transfer_syntax_uid)
    for at in range(0, len(data), portion):
        if reader.feed(memoryview(data)[at : at + portion]):
            break
    return reader.finish()


def between(extra: bytes, *, implicit: bool = False) -> bytes:
    """A data set with `extra` in group 0009, between the SOP and the study UIDs."""
    whole = small_data_set(implicit=implicit)
    at = whole.index(struct.pack("<HH", 0x0010, 0x0010))
    return whole[:at] + extra + whole[at:]


@pytest.mark.parametrize("portion", [1 << 20, 997, 13])
def test_agrees_with_pydicom_on_its_own_files(portion: int) -> None:
    files = pydicom_instances()
    assert len(files) > 60
    seen = set()
    for path in files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one file is implicit where it says explicit
            ds = dcmread(path, stop_before_pixels=True)
        uid = str(ds.file_meta.TransferSyntaxUID)
        found = read(data_set_bytes(path)[: 1 << 18], uid, portion)
        assert found.sop_instance_uid == ds.SOPInstanceUID, path.name
        assert found.study_instance_uid == ds.StudyInstanceUID, path.name
        assert found.series_instance_uid == ds.SeriesInstanceUID, path.name
        assert found.modality == (ds.get("Modality") or None), path.name
        seen.add(uid)
    assert {IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED} <= seen


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_portions_give_the_same(portions: list[int]) -> None:
    data = between(ds_element(0x0009, 0x0010, "LO", b"PRIVATE") + ds_element(0x0009, 0x1001, "OB", bytes(50)))
    reader = IdentityReader(EXPLICIT_LITTLE)
    at = 0
    while at < len(data) and not reader.done:
        for portion in portions:
            reader.feed(memoryview(data)[at : at + portion])
            at += portion
    assert reader.finish() == EXPECTED


@given(
    st.binary(max_size=3000),
    st.sampled_from([EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED, "1.3.9"]),
)
@settings(max_examples=400, deadline=None)
def test_garbage_is_refused_or_found_empty_and_nothing_else(data: bytes, transfer_syntax_uid: str) -> None:
    with contextlib.suppress(UnidentifiableError):
        read(data, transfer_syntax_uid)


@pytest.mark.parametrize("implicit", [False, True])
def test_sequences_of_undefined_length_are_crossed(implicit: bool) -> None:
    inner = ds_element(0x0008, 0x0018, "UI", b"9.9.9", implicit=implicit)
    head = (
        struct.pack("<HH", 0x0009, 0x1002) + (b"" if implicit else b"SQ\0\0") + struct.pack("<I", UNDEFINED)
    )
    nested = head + ITEM + struct.pack("<I", UNDEFINED) + inner
    closing = ITEM_END + bytes(4) + SEQUENCE_END + bytes(4)
    defined = ITEM + struct.pack("<I", len(inner)) + inner
    data = between(
        nested + nested + closing + closing + head + defined + SEQUENCE_END + bytes(4), implicit=implicit
    )
    for portion in (1, 7, 1 << 20):
        assert read(data, IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE, portion) == EXPECTED


def test_an_unknown_sequence_is_implicit_inside() -> None:
    inner = ds_element(0x0008, 0x0018, "UI", b"9.9.9", implicit=True)
    unknown = struct.pack("<HH2sHI", 0x0009, 0x1003, b"UN", 0, UNDEFINED)
    data = between(
        unknown + ITEM + struct.pack("<I", UNDEFINED) + inner + ITEM_END + bytes(4) + SEQUENCE_END + bytes(4)
    )
    assert read(data) == EXPECTED


def test_an_icon_with_encapsulated_pixels_is_crossed() -> None:
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, UNDEFINED) + ITEM + bytes(4)
    pixels += ITEM + struct.pack("<I", 6) + b"\xff\xd8\xfe\xff\x0d\xe0" + SEQUENCE_END + bytes(4)
    icon = struct.pack("<HH2sHI", 0x0009, 0x1004, b"SQ", 0, UNDEFINED) + ITEM + struct.pack("<I", UNDEFINED)
    assert read(between(icon + pixels + ITEM_END + bytes(4) + SEQUENCE_END + bytes(4)), portion=5) == EXPECTED


def test_nesting_is_capped_and_costs_no_stack() -> None:
    head = struct.pack("<HH2sHI", 0x0009, 0x1002, b"SQ", 0, UNDEFINED) + ITEM + struct.pack("<I", UNDEFINED)
    with pytest.raises(UnidentifiableError, match=str(MAX_DEPTH)):
        read(between(head * 10_000))


def test_a_deflate_bomb_is_followed_only_so_far() -> None:
    private = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, 1 << 30)
    compressor = zlib.compressobj(9, wbits=-15)
    bomb = compressor.compress(private)
    bomb += b"".join(compressor.compress(bytes(1 << 20)) for _ in range(64)) + compressor.flush()
    assert len(bomb) < MAX_INFLATED_BYTES // 100
    with pytest.raises(UnidentifiableError, match="too deep"):
        read(bomb, DEFLATED)


def test_a_well_compressed_deflated_data_set_is_found_in_one_portion() -> None:
    padding = ds_element(0x0009, 0x1001, "OB", bytes(900_000))
    compressor = zlib.compressobj(9, wbits=-15)
    data = compressor.compress(between(padding)) + compressor.flush()
    assert read(data, DEFLATED) == EXPECTED
    assert read(data, DEFLATED, portion=3) == EXPECTED


def test_memory_stays_small_over_a_large_value() -> None:
    reader = IdentityReader(EXPLICIT_LITTLE)
    reader.feed(memoryview(struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, 1 << 30)))
    block = memoryview(bytes(1 << 20))
    for _ in range(1 << 10):
        reader.feed(block)
        assert len(reader._held) < 100
    reader.feed(memoryview(small_data_set()))
    assert reader.finish() == EXPECTED


def test_explicit_or_implicit_is_told_by_the_first_element() -> None:
    assert read(small_data_set(implicit=True), EXPLICIT_LITTLE) == EXPECTED
    assert read(small_data_set(), IMPLICIT_LITTLE) == EXPECTED
    assert read(small_data_set(), "1.3.6.1.4.1.1") == EXPECTED
    assert read(small_data_set(implicit=True), "1.2.840.113619.5.2") == EXPECTED


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (ds_element(0x0002, 0x0010, "UI", b"1.2"), "group 0002"),
        (ds_element(0x0000, 0x0100, "US", b"\1\0"), "group 0000"),
        (ds_element(8, 5, "CS", b"ISO") + b"\x08\x00\x16\x00??\x04\x001.2\0", "value representation"),
        (struct.pack("<HH2sH", 8, 0x18, b"UI", 200) + b"1" * 200, "longer than any UID"),
        (ITEM + bytes(4), "outside any sequence"),
        (small_data_set()[:30], "ends inside"),
        (struct.pack("<HH2sHI", 9, 0x1001, b"OD", 0, UNDEFINED), "undefined length"),
    ],
)
def test_what_is_no_data_set(data: bytes, why: str) -> None:
    with pytest.raises(UnidentifiableError, match=why):
        read(data)


def test_padding_is_stripped_and_absence_is_empty() -> None:
    data = ds_element(8, 0x18, "UI", b"1.2.3 ") + ds_element(8, 0x60, "CS", b"not a modality")
    assert read(data) == Found("", "1.2.3", "", "", None)


# Where the pixels lie -----------------------------------------------------------------------------------------

DESCRIBED = {0x0002: 1, 0x0006: 0, 0x0010: 3, 0x0011: 5, 0x0100: 16, 0x0103: 1}
CT_ROWS = PixelLayout(columns=5, samples=1, sample_bytes=2, signed=True)


def with_pixels(
    pixels: bytes = bytes(range(30)),
    *,
    implicit: bool = False,
    length: int | None = None,
    before: bytes = b"",
    without: int | None = None,
    **described: int,
) -> bytes:
    """An image of 3 rows of 5; `described` changes an element of group 0028 as in ``e0100=8``."""
    values = DESCRIBED | {int(name[1:], 16): value for name, value in described.items()}
    data = small_data_set(implicit=implicit, pixels=b"") + before
    for number, value in values.items():
        if number != without:
            data += ds_element(0x0028, number, "US", struct.pack("<H", value), implicit=implicit)
    head = struct.pack("<HH", 0x7FE0, 0x0010) + (b"" if implicit else b"OW\0\0")
    return data + head + struct.pack("<I", len(pixels) if length is None else length) + pixels


def find(data: bytes, transfer_syntax_uid: str, portions: Iterable[int]) -> tuple[int, FoundPixels] | None:
    """Where in `data` the pixels begin, and what was found of them."""
    reader = IdentityReader(transfer_syntax_uid, find_pixels=True)
    at = 0
    for portion in portions:
        piece = memoryview(data)[at : at + portion]
        if reader.feed(piece):
            break
        at += len(piece)
        if at >= len(data):
            break
    assert reader.finish() == EXPECTED
    if reader.pixels is None:
        return None
    assert 0 <= reader.pixels.at <= portion
    return at + reader.pixels.at, reader.pixels


@pytest.mark.parametrize("implicit", [False, True])
def test_pixels_are_found_in_portions_of_every_size(implicit: bool) -> None:
    data = with_pixels(
        implicit=implicit, before=ds_element(0x0020, 0x4000, "LT", b"x" * 90, implicit=implicit)
    )
    for portion in range(1, len(data) + 1):
        found = find(data, IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE, itertools.repeat(portion))
        assert found is not None, portion
        at, pixels = found
        assert (at, pixels.size_bytes, pixels.layout) == (len(data) - 30, 30, CT_ROWS), portion


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_pixels_are_found_in_any_portions(portions: list[int]) -> None:
    data = with_pixels(before=ds_element(0x0021, 0x1001, "OB", bytes(100)))
    found = find(data, EXPLICIT_LITTLE, itertools.cycle(portions))
    assert found is not None
    assert found[0] == len(data) - 30


@pytest.mark.parametrize(
    ("described", "layout"),
    [
        ({}, CT_ROWS),
        ({"e0103": 0}, PixelLayout(5, 1, 2, False)),
        ({"e0100": 8, "e0103": 0}, PixelLayout(5, 1, 1, False)),
        ({"e0002": 3, "e0100": 8, "e0103": 0}, PixelLayout(5, 3, 1, False)),
        ({"e0011": 65_535}, PixelLayout(65_535, 1, 2, True)),
        ({"without": 0x0006}, CT_ROWS),
        ({"without": 0x0103}, PixelLayout(5, 1, 2, False)),
        ({"without": 0x0002}, CT_ROWS),
    ],
)
def test_layouts(described: dict[str, int], layout: PixelLayout) -> None:
    found = find(with_pixels(**described), EXPLICIT_LITTLE, [1 << 20])
    assert found is not None
    assert found[1].layout == layout


@pytest.mark.parametrize(
    "data",
    [
        with_pixels(without=0x0011),
        with_pixels(without=0x0100),
        with_pixels(e0011=0),
        with_pixels(e0100=1),
        with_pixels(e0100=12),
        with_pixels(e0100=0),
        with_pixels(e0100=32),
        with_pixels(e0002=4),
        with_pixels(e0002=0),
        with_pixels(e0002=3, e0006=1),
        with_pixels(length=UNDEFINED),
        with_pixels()[:-40],
        with_pixels(without=0x0011, before=ds_element(0x0028, 0x0011, "UL", bytes((5, 0, 0, 0)))),
        small_data_set(pixels=b""),
        with_pixels().replace(struct.pack("<HH", 0x7FE0, 0x0010), struct.pack("<HH", 0x7FE0, 0x0011)),
    ],
    ids=[
        "no columns",
        "no bits allocated",
        "zero columns",
        "one bit",
        "twelve bits",
        "no bits",
        "thirty-two bits",
        "four samples",
        "no samples",
        "colour by plane",
        "encapsulated",
        "ends before them",
        "columns of another size",
        "no pixels",
        "behind them",
    ],
)
def test_what_cannot_be_coded_as_rows_is_not_found_and_is_no_error(data: bytes) -> None:
    for portion in (1, 13, 1 << 20):
        assert find(data, EXPLICIT_LITTLE, itertools.repeat(portion)) is None


def test_only_little_endian_bytes_in_the_clear_are_looked_at() -> None:
    for syntax in ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.1.98", "1.3.6.1.4.1.99.1"):
        assert find(with_pixels(), syntax, [1 << 20]) is None
    compressor = zlib.compressobj(wbits=-15)
    deflated = compressor.compress(with_pixels()) + compressor.flush()
    assert find(deflated, DEFLATED, [1 << 20]) is None
    (path,) = [found for found in pydicom_instances() if found.name == "MR_small_bigendian.dcm"]
    reader = IdentityReader(EXPLICIT_BIG, find_pixels=True)
    assert reader.feed(memoryview(data_set_bytes(path)))
    assert reader.pixels is None


def test_pixels_of_an_icon_are_not_the_images() -> None:
    icon = ds_element(0x0028, 0x0011, "US", b"\x40\0") + ds_element(0x7FE0, 0x0010, "OW", bytes(64))
    item = ITEM + struct.pack("<I", len(icon)) + icon
    undefined = struct.pack("<HH2sHI", 0x0088, 0x0200, b"SQ", 0, UNDEFINED) + item + SEQUENCE_END + bytes(4)
    image = with_pixels()
    cut = image.index(struct.pack("<HH", 0x7FE0, 0x0010))
    for sequence in (undefined, ds_element(0x0088, 0x0200, "SQ", item)):
        data = image[:cut] + sequence + image[cut:]
        for portion in (1, 13, 1 << 20):
            found = find(data, EXPLICIT_LITTLE, itertools.repeat(portion))
            assert found is not None
            assert (found[0], found[1].layout) == (len(data) - 30, CT_ROWS)


@pytest.mark.parametrize(
    "broken",
    [
        b"\x28\0\x50\x10??\x04\x001234",
        struct.pack("<HH2sHI", 0x0029, 0x1001, b"OD", 0, UNDEFINED),
        ITEM + bytes(4),
        struct.pack("<HH2sH", 0x0028, 0x0100, b"US", 200) + bytes(200),
    ],
    ids=["no value representation", "undefined length", "item outside", "bits allocated of 200 bytes"],
)
def test_what_breaks_behind_the_identity_is_no_error(broken: bytes) -> None:
    data = small_data_set(pixels=b"") + broken + with_pixels()[-42:]
    for portion in (1, 7, 1 << 20):
        assert find(data, EXPLICIT_LITTLE, itertools.repeat(portion)) is None


def test_pixels_before_the_identity_cannot_be() -> None:
    """Tags ascend; what does not is followed no further than its pixels."""
    image = with_pixels()
    pixels = image[image.index(struct.pack("<HH", 0x7FE0, 0x0010)) :]
    reader = IdentityReader(EXPLICIT_LITTLE, find_pixels=True)
    assert reader.feed(memoryview(pixels + small_data_set()))
    assert reader.pixels is None
    assert reader.finish().sop_instance_uid == ""


def test_without_being_asked_the_walk_ends_before_the_pixels() -> None:
    reader = IdentityReader(EXPLICIT_LITTLE)
    data = with_pixels()
    assert reader.feed(memoryview(data)[: data.index(struct.pack("<HH", 0x7FE0, 0x0010)) + 12])
    assert reader.pixels is None


def marked(character_set: bytes, department: bytes, station: bytes = b"CT ROOM 2 ") -> bytes:
    parts = [
        (0x0008, 0x0005, "CS", character_set),
        (0x0008, 0x0016, "UI", b"1.2.840.10008.5.1.4.1.1.2"),
        (0x0008, 0x0018, "UI", b"1.2.3"),
        (0x0008, 0x0050, "SH", b"A77 "),
        (0x0008, 0x0060, "CS", b"CT"),
        (0x0008, 0x1010, "SH", station),
        (0x0020, 0x000D, "UI", b"1.2.9"),
        (0x0020, 0x000E, "UI", b"1.2.9.1"),
        (0x0028, 0x0011, "US", b"\x08\x00"),
        (0x0032, 0x1033, "LO", department),
    ]
    return b"".join(ds_element(*part) for part in parts)


@pytest.mark.parametrize("portion", [1, 7, 65_536])
@pytest.mark.parametrize(
    ("character_set", "department", "text"),
    [
        (b"ISO_IR 100", "Röntgen Süd".encode("latin-1"), "Röntgen Süd"),
        (b"ISO_IR 192", "Röntgen Süd".encode(), "Röntgen Süd"),
        (b"", b"ER\\WARD", "ER"),
        (b"ISO_IR 100", b"ER\x07\x00", "ER"),
        (b"ISO_IR 100", b"", ""),
    ],
)
def test_what_rules_are_asked_by_is_found(
    portion: int, character_set: bytes, department: bytes, text: str
) -> None:
    reader = IdentityReader(EXPLICIT_LITTLE)
    data = memoryview(marked(character_set, department))
    for at in range(0, len(data), portion):
        reader.feed(data[at : at + portion])
    found = reader.finish()
    assert (found.station_name, found.department, found.accession_number) == ("CT ROOM 2", text, "A77")
    assert found.series_instance_uid == "1.2.9.1"


def test_a_mark_of_absurd_length_is_passed_over() -> None:
    reader = IdentityReader(EXPLICIT_LITTLE)
    reader.feed(memoryview(marked(b"ISO_IR 100", b"ER", station=b"S" * 60_000)))
    found = reader.finish()
    assert (found.station_name, found.department) == ("", "ER")


def test_agrees_with_pydicom_about_its_own_files() -> None:
    seen = 0
    for path in pydicom_instances():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = dcmread(path)
        syntax = str(ds.file_meta.TransferSyntaxUID)
        if syntax not in (EXPLICIT_LITTLE, IMPLICIT_LITTLE) or ds.get("BitsAllocated") not in (8, 16):
            continue
        data = data_set_bytes(path)
        for portion in (65_536, 999):
            reader = IdentityReader(syntax, find_pixels=True)
            at = 0
            while at < len(data) and not reader.feed(memoryview(data)[at : at + portion]):
                at += portion
            expected = "PixelData" in ds and not (ds.SamplesPerPixel == 3 and ds.PlanarConfiguration == 1)
            assert (reader.pixels is not None) == expected, path.name
            if reader.pixels is None:
                continue
            seen += 1
            at += reader.pixels.at
            assert data[at : at + reader.pixels.size_bytes] == ds.PixelData, path.name
            assert reader.pixels.layout.columns == ds.Columns
    assert seen > 20
