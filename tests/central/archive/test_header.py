"""Headers from strangers: bombs, nesting, lies and damage end the reading, never the program."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from central.archive.attributes import attributes_of
from central.archive.dicom_json import dicom_json, with_bulk_data_at
from central.archive.errors import NotDicomError
from central.archive.header import MAX_HEADER_BYTES, Header, read_header
from tests.central.archive.conftest import MakeFile, sample


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "file.dcm"
    path.write_bytes(content)
    return path


def header_of(tmp_path: Path, content: bytes) -> Header:
    return read_header(written(tmp_path, content))


def _element(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return struct.pack("<HH2sxxI", group, element, vr, len(value)) + value
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


def part_10(data_set: bytes, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    uid = transfer_syntax.encode()
    uid += b"\0" * (len(uid) % 2)
    return bytes(128) + b"DICM" + _element(2, 0x10, b"UI", uid) + data_set


SOP = _element(8, 0x18, b"UI", b"1.2.3.4\0")


@pytest.mark.parametrize(
    "transfer_syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        pytest.param(ExplicitVRBigEndian, id="big endian"),
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_every_encoding_gives_the_same_columns_and_json(
    tmp_path: Path, made: MakeFile, transfer_syntax: str
) -> None:
    item = Dataset()
    item.CodeValue = "T-1"
    values = {
        "PatientName": "Müller^Jürgen",
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientID": "P1",
        "Rows": 7,
        "SmallestImagePixelValue": 3,
        "PixelRepresentation": 0,
        "RedPaletteColorLookupTableData": b"\x01\x02\x03\x04",
        "AnatomicRegionSequence": Sequence([item]),
        "SOPInstanceUID": "1.2",
        "StudyInstanceUID": "1.3",
        "SeriesInstanceUID": "1.4",
    }
    if transfer_syntax == ExplicitVRBigEndian:
        values["RedPaletteColorLookupTableData"] = b"\x02\x01\x04\x03"
    header = header_of(tmp_path, made(transfer_syntax, **values))
    columns, described = attributes_of(header), json.loads(dicom_json(header, {}))
    assert header.incomplete_because == ""
    assert columns.study["patient_name"] == "Müller^Jürgen"
    assert columns.study["patient_name_key"] == "muller^jurgen"
    assert columns.instance["rows"] == 7
    assert described["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Müller^Jürgen"}]}
    assert described["00280106"] == {"vr": "US", "Value": [3]}
    assert described["00281201"] == {"vr": "OW", "InlineBinary": "AQIDBA=="}
    assert described["00082218"]["Value"] == [{"00080100": {"vr": "SH", "Value": ["T-1"]}}]


def test_an_inflation_bomb_is_read_as_far_as_a_header_may_go(tmp_path: Path) -> None:
    bomb = SOP + _element(0x7FE0, 0x10, b"OW", b"")[:-4] + struct.pack("<I", 0xFFFFFFF0) + bytes(256 << 20)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    small = deflater.compress(bomb) + deflater.flush()
    del bomb
    content = part_10(small, DeflatedExplicitVRLittleEndian)
    tracemalloc.start()  # of the process as a whole other tests' leavings would count, and hide as much
    try:
        header = header_of(tmp_path, content)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert attributes_of(header).sop_instance_uid == "1.2.3.4"
    assert header.incomplete_because == ""
    assert peak_bytes < 8 * MAX_HEADER_BYTES


@pytest.mark.parametrize("depth", [40, 2000])
def test_deep_nesting_ends_the_reading_or_the_json_and_keeps_what_came_before(
    tmp_path: Path, depth: int
) -> None:
    start = struct.pack("<HH2sxxI", 8, 0x1140, b"SQ", 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    header = header_of(tmp_path, part_10(SOP + start * depth))
    assert attributes_of(header).sop_instance_uid == "1.2.3.4"
    assert header.incomplete_because != ""
    json.loads(dicom_json(header, {}))


def test_nesting_of_defined_length_is_cut_in_the_json(tmp_path: Path) -> None:
    value = b""
    for _ in range(300):
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value
        value = _element(8, 0x1140, b"SQ", item)
    header = header_of(tmp_path, part_10(SOP + value))
    described = json.loads(dicom_json(header, {}))
    assert described["00080018"]["Value"] == ["1.2.3.4"]


def test_a_file_of_empty_items_does_not_become_objects(tmp_path: Path) -> None:
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 200_000
    header = header_of(tmp_path, part_10(SOP + _element(8, 0x1140, b"SQ", items)))
    described = json.loads(dicom_json(header, {}))
    assert described["00081140"] == {"vr": "SQ", "BulkDataURI": "bulkdata/00081140"}


def items(count: int) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count


def test_the_items_of_all_sequences_share_one_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("central.archive.header.MAX_ITEMS", 1000)
    nested = _element(
        8, 0x1140, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 3212) + _element(8, 0x1115, b"SQ", items(400))
    )
    open_ended = (
        struct.pack("<HH2sxxI", 0x0041, 0x1001, b"SQ", 0xFFFFFFFF)
        + items(400)
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    )
    content = SOP + nested + open_ended
    content += _element(0x41, 0x1002, b"SQ", items(400)) + _element(0x41, 0x1003, b"UN", items(400))
    content += _element(0x41, 0x1004, b"SQ", items(100)) + _element(0x41, 0x1005, b"LO", b"read")
    described = json.loads(dicom_json(header_of(tmp_path, part_10(content)), {}))
    assert len(described["00081140"]["Value"][0]["00081115"]["Value"]) == 400
    assert len(described["00411001"]["Value"]) == 400
    assert described["00411002"] == {"vr": "SQ", "BulkDataURI": "bulkdata/00411002"}
    assert described["00411003"] == {"vr": "UN", "BulkDataURI": "bulkdata/00411003"}
    assert len(described["00411004"]["Value"]) == 100
    assert described["00411005"]["Value"] == ["read"]


def test_a_sequence_without_a_length_ends_the_reading_where_it_goes_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("central.archive.header.MAX_ITEMS", 1000)
    open_ended = struct.pack("<HH2sxxI", 0x0041, 0x1001, b"SQ", 0xFFFFFFFF) + items(1001)
    header = header_of(tmp_path, part_10(SOP + open_ended + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)))
    assert header.incomplete_because
    assert attributes_of(header).sop_instance_uid == "1.2.3.4"


def test_a_large_value_is_passed_over_and_what_follows_is_read(tmp_path: Path) -> None:
    document = _element(0x42, 0x11, b"OB", bytes(20 << 20))
    after = _element(0x42, 0x12, b"LO", b"application/pdf ")
    header = header_of(tmp_path, part_10(SOP + document + after))
    described = json.loads(dicom_json(header, {}))
    assert described["00420011"] == {"vr": "OB", "BulkDataURI": "bulkdata/00420011"}
    assert described["00420012"]["Value"] == ["application/pdf"]


def test_a_large_value_inside_a_sequence_is_named_by_its_way(tmp_path: Path) -> None:
    large = _element(0x9, 0x1010, b"OB", bytes(5000))
    items = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(each)) + each for each in (b"", large))
    content = part_10(SOP + _element(8, 0x1140, b"SQ", items))
    described = dicom_json(header_of(tmp_path, content), {})
    place = "bulkdata/00081140/2/00091010"
    assert json.loads(described)["00081140"]["Value"][1]["00091010"] == {"vr": "OB", "BulkDataURI": place}
    absolute = json.loads(with_bulk_data_at(described, 'https://a/"b'))
    assert absolute["00081140"]["Value"][1]["00091010"]["BulkDataURI"] == f'https://a/"b/{place}'


def test_text_that_looks_like_a_bulk_data_uri_stays_text(tmp_path: Path) -> None:
    text = b'"BulkDataURI":"bulkdata/00420011'
    described = dicom_json(header_of(tmp_path, part_10(SOP + _element(0x10, 0x4000, b"LT", text))), {})
    assert json.loads(with_bulk_data_at(described, "x"))["00104000"]["Value"] == [text.decode()]


@pytest.mark.parametrize(
    ("tag", "vr", "named", "named_vr"),
    [
        ((0x7FE0, 0x0010), b"OW", "7FE00010", "OW"),
        ((0x7FE0, 0x0008), b"OF", "7FE00008", "OF"),
        ((0x7FE0, 0x0001), b"OV", "7FE00010", "OB"),  # an offset table, which only encapsulated pixels have
        ((0xFFFC, 0xFFFC), b"OB", "", ""),
    ],
)
def test_the_pixel_data_is_named(
    tmp_path: Path, tag: tuple[int, int], vr: bytes, named: str, named_vr: str
) -> None:
    pixels = struct.pack("<HH2sxxI", *tag, vr, 8) + bytes(8)
    described = json.loads(dicom_json(header_of(tmp_path, part_10(SOP + pixels)), {}))
    found = {tag: value for tag, value in described.items() if "BulkDataURI" in value}
    assert found == ({named: {"vr": named_vr, "BulkDataURI": f"bulkdata/{named}"}} if named else {})


def test_a_length_beyond_the_file_is_only_an_incomplete_header(tmp_path: Path) -> None:
    lie = struct.pack("<HH2sxxI", 9, 0x10, b"UN", 0x7FFFFFF0) + b"short"
    header = header_of(tmp_path, part_10(SOP + lie))
    assert attributes_of(header).sop_instance_uid == "1.2.3.4"


@pytest.mark.parametrize("cut", [132, 140, 200, 400, 1000])
def test_a_file_cut_anywhere_is_read_as_far_as_it_goes(tmp_path: Path, cut: int) -> None:
    header = header_of(tmp_path, sample("CT_small.dcm")[:cut])
    try:
        attributes_of(header)
    except NotDicomError:
        assert cut < 400
    json.loads(dicom_json(header, {}))


def test_numbers_that_json_has_not_and_values_that_are_wrong_keep_the_rest(tmp_path: Path) -> None:
    content = part_10(
        SOP
        + _element(0x10, 0x1010, b"AS", b"what")
        + _element(0x18, 0x50, b"DS", b"thick ")
        + _element(0x18, 0x9306, b"FD", struct.pack("<d", float("nan")))
        + _element(0x20, 0x13, b"IS", b"1e9\\x ")
        + _element(0x28, 0x10, b"US", b"\x01")
        + _element(0x28, 0x11, b"US", b"\x05\x00")
    )
    header = header_of(tmp_path, content)
    described = json.loads(dicom_json(header, {}), parse_constant=lambda name: pytest.fail(name))
    assert described["00189306"]["Value"] == ["NaN"]
    assert described["00180050"] == {"vr": "DS"}
    assert attributes_of(header).instance["columns"] == 5
    assert attributes_of(header).instance["instance_number"] is None


@pytest.mark.parametrize("content", [b"", b"short", bytes(132), b"GIF89a" + bytes(500)])
def test_what_is_no_part_10_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(NotDicomError):
        header_of(tmp_path, content)


def test_uids_that_are_none_are_replaced_and_never_reach_a_path(tmp_path: Path, made: MakeFile) -> None:
    evil = _element(8, 0x18, b"UI", b"../../etc/passwd") + _element(0x20, 0xD, b"UI", b"1.2/../..\\x ")
    columns = attributes_of(header_of(tmp_path, part_10(evil)))
    assert columns.sop_instance_uid.startswith("2.25.")
    assert columns.study_instance_uid.startswith("2.25.")
    assert len(columns.sop_instance_uid) <= 64
