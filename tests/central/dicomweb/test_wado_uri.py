"""WADO-URI over a real server: the old way of asking, the same rules."""

from __future__ import annotations

from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from central.audit.events import Action
from central.audit.reading import Wanted
from tests.central.access.house import OTHER_STUDY, STUDY, House
from tests.central.dicomweb.conftest import IMAGES
from tests.central.dicomweb.test_dicomweb import ENHANCED_SERIES, JPEG_LS_SERIES, assert_problem, stored

CT_SERIES = f"1.2.9.{IMAGES.index('CT_small.dcm')}"


def wado(
    house: House, series: str = CT_SERIES, who: str = "radiologist", accept: str = "*/*", **query: str
) -> httpx.Response:
    names = {"requestType": "WADO", "studyUID": STUDY, "seriesUID": series, "objectUID": f"{series}.1"}
    with house.client(who) as client:
        return client.get("/dicom-web/wado", params={**names, **query}, headers={"Accept": accept})


def test_the_instance_as_it_is_stored(house: House) -> None:
    for series in (CT_SERIES, JPEG_LS_SERIES):
        answer = wado(house, series, contentType="application/dicom")
        assert answer.status_code == 200
        assert answer.content == stored(house, series)
        assert answer.headers["content-type"].startswith("application/dicom; transfer-syntax=")
    assert wado(house, accept="application/dicom").content == stored(house, CT_SERIES)


def test_another_transfer_syntax(house: House) -> None:
    plain = wado(
        house, JPEG_LS_SERIES, contentType="application/dicom", transferSyntax=ExplicitVRLittleEndian
    )
    got = dcmread(BytesIO(plain.content))
    assert got.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    original = dcmread(BytesIO(stored(house, f"1.2.9.{IMAGES.index('emri_small.dcm')}")))
    np.testing.assert_array_equal(got.pixel_array, original.pixel_array)
    assert_problem(wado(house, contentType="application/dicom", transferSyntax=JPEGLSLossless), 406)


def test_pictures(house: House) -> None:
    picture = wado(house, contentType="image/png", rows="64", windowCenter="40", windowWidth="400")
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(BytesIO(picture.content)).size == (64, 64)
    assert wado(house, contentType="image/png", rows="64").content != picture.content
    part = wado(house, contentType="image/png", region="0.5,0,1,0.25")
    assert Image.open(BytesIO(part.content)).size == (64, 32)
    small, large = (wado(house, contentType="image/jpeg", imageQuality=quality) for quality in ("10", "95"))
    assert len(small.content) < len(large.content)
    frames = [
        wado(house, ENHANCED_SERIES, contentType="image/jpeg", frameNumber=str(number)).content
        for number in (1, 2)
    ]
    assert frames[0] != frames[1]
    with house.client("radiologist") as client:
        base = f"/dicom-web/studies/{STUDY}/series/{ENHANCED_SERIES}/instances/{ENHANCED_SERIES}.1"
        assert client.get(f"{base}/frames/2/rendered").content == frames[1]


def test_what_it_is_when_nothing_is_said(house: House) -> None:
    assert wado(house).headers["content-type"] == "image/jpeg"
    assert wado(house, ENHANCED_SERIES).headers["content-type"].startswith("application/dicom")
    report = wado(house, studyUID=OTHER_STUDY, seriesUID="1.2.8.2", objectUID="1.2.8.2.1")
    assert report.headers["content-type"].startswith("application/dicom")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"requestType": "Wado"}, 400),
        ({"studyUID": "../x"}, 400),
        ({"objectUID": ""}, 400),
        ({"objectUID": "1.2.3"}, 404),
        ({"studyUID": "1.2.3"}, 404),
        ({"contentType": "text/html"}, 406),
        ({"contentType": "image/png", "frameNumber": "0"}, 400),
        ({"contentType": "image/png", "frameNumber": "1,2"}, 400),
        ({"contentType": "image/png", "frameNumber": "2"}, 406),
        ({"contentType": "image/png", "windowCenter": "40"}, 400),
        ({"contentType": "image/png", "rows": "0"}, 400),
        ({"contentType": "image/png", "transferSyntax": "1.2.840.10008.1.2.1"}, 400),
        ({"contentType": "application/dicom", "rows": "64"}, 400),
        ({"anonymize": "yes"}, 400),
        ({"annotation": "patient"}, 400),
        ({"contentType": "image/jpeg", "region": "0,0,0.5"}, 400),
        ({"contentType": "image/jpeg", "imageQuality": "0"}, 400),
        ({"contentType": "application/dicom", "region": "0,0,0.5,0.5"}, 400),
    ],
)
def test_refusals(house: House, query: dict[str, str], status: int) -> None:
    assert_problem(wado(house, **query), status)


def test_twice_the_same_parameter(house: House) -> None:
    with house.client("radiologist") as client:
        assert_problem(client.get(f"/dicom-web/wado?requestType=WADO&studyUID={STUDY}&studyUID=1.2.3"), 400)


def test_who_may_and_the_record(house: House) -> None:
    for who, status in (
        ("doctor", 200),
        ("patient", 200),
        ("doctor-other", 404),
        ("admin", 404),
        ("service", 404),
    ):
        assert wado(house, who=who, contentType="image/png").status_code == status
        event = house.audit.newest(Wanted(), limit=1)[0].event
        assert (event.actor, event.outcome) == (who, "success" if status == 200 else "refused")
        assert (event.study_instance_uid, event.sop_instance_uid) == (STUDY, f"{CT_SERIES}.1")
    for content_type, action in (
        ("image/png", Action.VIEW),
        ("application/dicom", Action.EXPORT),
        ("", Action.EXPORT),
    ):
        wado(house, contentType=content_type)
        assert house.audit.newest(Wanted(), limit=1)[0].event.action is action
