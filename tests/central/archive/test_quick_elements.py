"""The short way to the elements of a header finds what pydicom finds, or leaves it to pydicom, which is the oracle."""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import BaseTag

from central.archive import header
from central.archive.errors import NotDicomError
from central.archive.header import Header, read_header
from central.archive.quick_elements import MAX_ELEMENTS, quick_elements

SAMPLES = Path(str(get_testdata_file("CT_small.dcm", download=False))).parent


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's opinion of damaged files
        yield


def said(path: Path) -> tuple[object, ...] | None:
    """All that a header says; None for what is no Part 10 file."""
    try:
        found = read_header(path)
    except NotDicomError:
        return None
    return _all_of(found)


def _all_of(found: Header) -> tuple[object, ...]:
    return (
        {tag: _plain(element) for tag, element in found.dataset.items()},
        found.dataset.original_character_set,
        found.transfer_syntax_uid,
        found.media_storage_sop_class_uid,
        found.media_storage_sop_instance_uid,
        found.skipped,
        found.incomplete_because,
        found.pixel_data,
    )


def _plain(element: RawDataElement | DataElement) -> object:
    """What can be compared: pydicom's elements compare decoded values, and those of damaged ones raise."""
    if isinstance(element, RawDataElement):
        return element
    items = [
        (item.original_character_set, {tag: _plain(inside) for tag, inside in item.items()})
        for item in element.value
    ]
    return (element.VR, element.file_tell, element.is_undefined_length, items)


def by_pydicom(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...] | None:
    with monkeypatch.context() as patch:
        patch.setattr(header, "quick_elements", lambda *_, **__: None)
        return said(path)


def test_real_files_have_the_same_header_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bool] = []

    def counted(*arguments: object, **more: object) -> object:
        found = quick_elements(*arguments, **more)  # type: ignore[arg-type]
        taken.append(found is not None)
        return found

    monkeypatch.setattr(header, "quick_elements", counted)
    for path in sorted(SAMPLES.glob("*.dcm")):
        assert said(path) == by_pydicom(path, monkeypatch), path
    assert taken.count(True) > 100
    assert taken.count(True) > 5 * taken.count(False)  # some of these files are there because they are odd


@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_have_the_same_header_either_way(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    name = chance.choice(["CT_small.dcm", "MR_small.dcm", "reportsi.dcm", "nested_priv_SQ.dcm"])
    whole = (SAMPLES / name).read_bytes()
    path = tmp_path / "x.dcm"
    for _ in range(60):
        damaged = bytearray(whole[: chance.choice([len(whole), chance.randrange(132, 6000)])])
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(128, min(len(damaged), 6000))
            damaged[at] = chance.choice([0, 1, 0x41, 0xFF, chance.randrange(256)])
        path.write_bytes(damaged)
        assert said(path) == by_pydicom(path, monkeypatch)


def element(tag: int, vr: bytes, value: bytes, *, long: bool = False, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    head = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little") + vr
    return head + (b"\0\0" + size.to_bytes(4, "little") if long else size.to_bytes(2, "little")) + value


PIXELS = element(0x7FE00010, b"OW", b"", long=True, length=1 << 20)


@pytest.mark.parametrize("before", [0, 16_370, 16_376, 16_380, 16_384, 40_000])
def test_values_and_elements_over_the_edge_of_a_window(before: int) -> None:
    sequence = element(0x00081140, b"SQ", b"", long=True, length=0xFFFFFFFF) + bytes.fromhex(
        "feffdde000000000"
    )
    data = (
        element(0x00080005, b"CS", b"ISO_IR 192")
        + element(0x00080070, b"UT", b"x" * before, long=True)
        + sequence
        + element(0x00100010, b"PN", "Müller^Jörg ".encode())
        + element(0x00100020, b"LO", b"")
        + PIXELS
    )
    source = io.BytesIO(b"before" + data)
    source.seek(6)
    found = quick_elements(source, stop_group=0x7FE0, max_value_bytes=1 << 20)
    assert found is not None
    assert [int(tag) for tag in found.elements] == [
        0x00080005,
        0x00080070,
        0x00081140,
        0x00100010,
        0x00100020,
    ]
    name = found.elements[BaseTag(0x00100010)]
    assert isinstance(name, RawDataElement)
    assert (name.value, name.value_tell) == ("Müller^Jörg ".encode(), 6 + data.index(b"PN") + 4)
    assert found.stopped_at == (0x7FE00010, "OW")
    assert source.read() == PIXELS


def test_a_large_value_is_passed_over_and_what_follows_is_read() -> None:
    data = element(0x00091010, b"OB", bytes(100_000), long=True) + element(0x00100020, b"LO", b"P1")
    found = quick_elements(io.BytesIO(data + PIXELS), stop_group=0x7FE0, max_value_bytes=50_000)
    assert found is not None
    assert [getattr(one, "value", 1) for one in found.elements.values()] == [None, b"P1"]


def test_more_elements_than_a_header_has_are_left_to_pydicom() -> None:
    many = b"".join(
        element((0x0011 + 2 * (number >> 15)) << 16 | 0x1000 + (number & 0x7FFF), b"LO", b"")
        for number in range(MAX_ELEMENTS + 1)
    )
    assert quick_elements(io.BytesIO(many), stop_group=0x7FE0, max_value_bytes=1 << 20) is None
