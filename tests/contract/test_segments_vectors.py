"""The committed coded streams, read by this program and by a reader written from the document alone."""

import base64
import json
from pathlib import Path

import pytest

from contract.pixel_rows import PixelLayout
from contract.segments import SegmentError, pixel_segment, read_segments
from tests.contract.document_reader import RefusedError, read_coded
from tests.contract.pixels import ct_slice

VECTORS = json.loads((Path(__file__).parent / "vectors" / "segments-1.json").read_text())


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_both_readers_give_the_content(case: dict[str, str]) -> None:
    coded, content = base64.b64decode(case["coded"]), base64.b64decode(case["content"])
    assert b"".join(read_segments(iter([coded]))) == content
    assert read_coded(2, coded) == content


@pytest.mark.parametrize("case", VECTORS["must_be_refused"], ids=lambda case: case["name"])
def test_both_readers_refuse(case: dict[str, str]) -> None:
    coded = base64.b64decode(case["coded"])
    with pytest.raises(SegmentError):
        list(read_segments(iter([coded])))
    with pytest.raises(RefusedError):
        read_coded(2, coded)


def test_what_is_written_today_is_what_the_document_says() -> None:
    """The coder's own choices, over vectors frozen when they were made: a new library must not write another form."""
    for samples, sample_bytes, signed in ((1, 1, False), (1, 2, True), (3, 1, False), (3, 2, True)):
        layout = PixelLayout(48, samples, sample_bytes, signed)
        raw = ct_slice(layout, rows=40)
        parts = pixel_segment(raw, layout)
        assert parts is not None
        assert read_coded(2, b"".join(bytes(part) for part in parts)) == raw
