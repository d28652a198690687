from __future__ import annotations

import pytest
from starlette.requests import Request

from central.dicomweb.accept import Offer, choose, takes_gzip
from central.dicomweb.errors import NotAcceptableError

JPEG_LS = "1.2.840.10008.1.2.4.80"
MANY = Offer("application/dicom", True, JPEG_LS)
ONE = Offer("application/dicom", False, JPEG_LS)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, MANY),
        ("", MANY),
        ("*/*", MANY),
        ('multipart/related; type="application/dicom"', MANY),
        ("multipart/related; type=application/dicom; transfer-syntax=*", MANY),
        (f'multipart/related;type="application/dicom";transfer-syntax={JPEG_LS}', MANY),
        ("multipart/related", MANY),
        ("application/dicom", ONE),
        (f"application/dicom; transfer-syntax={JPEG_LS}", ONE),
        ('application/dicom; q=0.5, multipart/related; type="application/dicom"; q=0.9', MANY),
        ('application/dicom, multipart/related; type="application/dicom"; q=0.9', ONE),
        ("image/png, application/dicom", ONE),
        ('multipart/related; type="image/png", application/*', ONE),
    ],
)
def test_what_is_chosen(accept: str | None, chosen: Offer) -> None:
    assert choose(accept, [MANY, ONE]) == chosen


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        'multipart/related; type="image/png"',
        "application/dicom; transfer-syntax=1.2.840.10008.1.2.1",
        "application/dicom; q=0",
        "*/*; q=0",
        "application/dicom; q=high",
        "nonsense",
        "application/dicom;;;=",
        "a/b," * 2000,
    ],
)
def test_what_is_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptableError):
        choose(accept, [MANY, ONE])


def test_a_closer_range_decides_the_quality() -> None:
    offers = [Offer("image/jpeg"), Offer("image/png")]
    assert choose("image/*, image/jpeg;q=0.1", offers).media_type == "image/png"
    browser = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
    assert choose(browser, offers).media_type == "image/jpeg"


@pytest.mark.parametrize(
    ("header", "packed"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("*", True),
        ("gzip;q=0, *", False),
        ("gzip; q=0.0", False),
        ("gzip;q=much", False),
        ("identity", False),
        ("", False),
    ],
)
def test_who_takes_packed_answers(header: str, packed: bool) -> None:
    request = Request({"type": "http", "headers": [(b"accept-encoding", header.encode())]})
    assert takes_gzip(request) == packed
