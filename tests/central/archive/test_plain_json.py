"""The short way from bytes to DICOM JSON says what pydicom says, or nothing; pydicom itself is the oracle."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from central.archive import attributes
from central.archive import dicom_json as whole
from central.archive.errors import NotDicomError
from central.archive.header import Header, read_header
from central.archive.plain_json import plain_text

VRS = "AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST SV TM UC UI UL UN UR US UT UV OB OW".split()  # noqa: SIM905  # a table
PIECES = [b"1", b"-2.50", b"007", b" ", b"\0", b"\\", b"A^B", b"~", b"\x1b$B", b"1e5", b"1e999", b"+", b".", b"\xe4",
          b"1.2.840", b"20240101", b"\x00\x00\xc0\x7f", b"\r\n", b"0", b"x", b"12345678901234567"]  # fmt: skip


def test_real_files_give_the_same_json_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    folder = Path(str(get_testdata_file("CT_small.dcm", download=False))).parent
    for name in sorted(folder.glob("*.dcm")):
        try:
            short = whole.dicom_json(read_header(name), {})
        except NotDicomError:
            continue
        with monkeypatch.context() as patch:
            patch.setattr(whole, "_plain", lambda *_: None)
            patch.setattr(whole, "_stands_alone", lambda _: False)
            assert short == whole.dicom_json(read_header(name), {}), name
        compared += 1
    assert compared > 50


def test_what_is_remembered_of_one_image_is_not_said_of_another() -> None:
    """The same bytes mean something else in another character set, byte order or VR, and for another element."""
    value = b"\xb1\xb2"
    said = set()
    for charset, vr, little, tag in (
        ("iso8859", "LO", True, 0x00100020),
        ("iso8859", "LO", True, 0x00100021),
        ("shift_jis", "LO", True, 0x00100020),
        ("shift_jis", "PN", True, 0x00100020),
        ("iso8859", "US", True, 0x00100020),
        ("iso8859", "US", False, 0x00100020),
    ):
        dataset = Dataset({BaseTag(tag): RawDataElement(BaseTag(tag), vr, 2, value, 0, False, little)})
        dataset.set_original_encoding(False, little, charset)
        header = Header(dataset, "", "", "", little, {}, "")
        first = whole.dicom_json(header, {})
        assert whole.dicom_json(header, {}) == first
        said.add(first)
    assert len(said) == 6


@pytest.mark.parametrize("charset", ["iso8859", "shift_jis", "iso2022_jp", "utf8", "gb18030"])
def test_bytes_of_any_kind_give_what_pydicom_gives_or_nothing(charset: str) -> None:
    chance = random.Random(charset)
    plain = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's opinion of the values
        for _ in range(4000):
            vr = chance.choice(VRS)
            value = b"".join(chance.choices(PIECES, k=chance.randrange(5)))
            tag, little = BaseTag(0x00091001), chance.random() < 0.8
            element = RawDataElement(tag, vr, len(value), value, 0, False, little)
            _text_is_the_same(element, charset)
            dataset = Dataset({tag: element})
            dataset.set_original_encoding(False, little, charset)
            said = whole._plain(element, little, ())
            if said is None:
                continue
            plain += 1
            assert said == whole._element(dataset, tag, little, ()), (vr, value)
    assert plain > 500


def _text_is_the_same(element: RawDataElement, charset: str) -> None:
    def header() -> Header:
        dataset = Dataset({element.tag: element})
        dataset.set_original_encoding(False, element.is_little_endian, charset)
        return Header(dataset, "", "", "", element.is_little_endian, {}, "")

    asked = header()
    if plain_text(element) is not None:
        short = attributes.text_of(asked, element.tag)
        assert isinstance(asked.dataset.get_item(element.tag), RawDataElement), "pydicom was asked"
        other = header()
        other.dataset[element.tag]  # makes it pydicom's
        assert short == attributes.text_of(other, element.tag), (element.VR, element.value)
