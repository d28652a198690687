"""Raw data sets: what pydicom writes comes through byte for byte, and nothing hostile gets far."""

from __future__ import annotations

import contextlib
import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from edge.gateway.data_set import (
    MAX_DEPTH,
    DataSet,
    Element,
    UnreadableDataSetError,
    read_data_set,
    write_data_set,
)
from tests.edge.gateway.worklist_samples import encoded, several_scripts

BOTH = [str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)]


@pytest.mark.parametrize("syntax", BOTH)
def test_what_is_read_is_written_byte_for_byte(syntax: str) -> None:
    for ds in several_scripts():
        raw = encoded(ds, syntax).data_set
        assert write_data_set(read_data_set(raw, syntax), syntax) == raw


def test_one_encoding_becomes_the_other_with_every_value_kept() -> None:
    for ds in several_scripts():
        explicit, implicit = (encoded(ds, syntax).data_set for syntax in BOTH)
        assert write_data_set(read_data_set(explicit, BOTH[0]), BOTH[1]) == implicit
        back = write_data_set(read_data_set(implicit, BOTH[1]), BOTH[0])
        assert (
            dcmread(BytesIO(back), force=True).to_json() == dcmread(BytesIO(explicit), force=True).to_json()
        )


def test_undefined_lengths_and_a_sequence_of_unknown_vr() -> None:
    step = struct.pack("<HHI", 0x0008, 0x0060, 2) + b"CT"  # implicit, as inside UN
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + step
    items += struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    raw = struct.pack("<HH2sHI", 0x0040, 0x0100, b"UN", 0, 0xFFFFFFFF) + items
    raw += struct.pack("<HH2sH", 0x0040, 0x1001, b"SH", 2) + b"R1"
    found = read_data_set(raw, BOTH[0])
    assert found[0x00400100].items[0][0x00080060].value == b"CT"
    assert found[0x00401001].value == b"R1"


def test_a_value_too_long_for_its_vr_is_still_written() -> None:
    long = {0x00400100: Element("LO", b"x" * 70_000)}
    assert read_data_set(write_data_set(long, BOTH[0]), BOTH[0])[0x00400100].value == b"x" * 70_000


def nested(depth: int) -> DataSet:
    ds: DataSet = {0x00080060: Element("CS", b"CT")}
    for _ in range(depth):
        ds = {0x00400100: Element("SQ", items=[ds])}
    return ds


def test_nesting_has_an_end() -> None:
    assert read_data_set(write_data_set(nested(MAX_DEPTH), BOTH[0]), BOTH[0])
    deeper = struct.pack("<HH2sHI", 0x0040, 0x0100, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    for raw in (write_data_set(nested(MAX_DEPTH + 1), BOTH[0]), deeper * 50_000):
        with pytest.raises(UnreadableDataSetError, match="nested deeper"):
            read_data_set(raw, BOTH[0])


def test_the_number_of_elements_has_an_end() -> None:
    empty_items = struct.pack("<HHI", 0xFFFE, 0xE000, 8) + struct.pack("<HH2sH", 8, 0x60, b"CS", 0)
    raw = struct.pack("<HH2sHI", 0x0040, 0x0100, b"SQ", 0, 0xFFFFFFFF) + empty_items * 60_000
    with pytest.raises(UnreadableDataSetError, match="more than"):
        read_data_set(raw, BOTH[0])


@pytest.mark.parametrize(
    "raw",
    [
        b"\x08\x00\x60",
        struct.pack("<HH2sH", 0x0008, 0x0060, b"CS", 20) + b"CT",
        struct.pack("<HH2sH", 0x0008, 0x0060, b"\x00\x01", 2) + b"CT",
        struct.pack("<HH2sHI", 0x0010, 0x0010, b"UT", 0, 0xFFFFFFFF),
        struct.pack("<HHI", 0xFFFE, 0xE00D, 0),
        struct.pack("<HH2sH", 0x0000, 0x0100, b"US", 2) + b"\0\0",
        struct.pack("<HH2sHI", 0x0040, 0x0100, b"SQ", 0, 8) + struct.pack("<HHI", 0xFFFE, 0xE000, 80),
        struct.pack("<HH2sHI", 0x0040, 0x0100, b"SQ", 0, 10) + b"CT        ",
        struct.pack("<HH2s", 0x0040, 0x0100, b"SQ") + b"\0\0",
    ],
)
def test_what_is_malformed_is_refused_without_a_quote(raw: bytes) -> None:
    with pytest.raises(UnreadableDataSetError) as refused:
        read_data_set(raw, BOTH[0])
    assert "CT" not in str(refused.value)


@given(st.binary(max_size=400), st.sampled_from(BOTH))
def test_no_bytes_do_worse_than_be_refused(raw: bytes, syntax: str) -> None:
    with contextlib.suppress(UnreadableDataSetError):
        read_data_set(raw, syntax)
