"""Bulk data: what the metadata names is served, value by value, under the same rules as everything else."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from central.audit.events import Action
from central.audit.reading import Wanted
from tests.central.access.house import STUDY, House, open_house, part10, pydicom_file
from tests.central.dicomweb.conftest import IMAGES
from tests.central.dicomweb.test_dicomweb import JPEG_LS_SERIES, parts, stored

OCTETS = "application/octet-stream"
DOCUMENT = bytes(range(256)) * 40_000  # 10 MB: too large for a header
WORDS = np.arange(5000, dtype="<u2")
SERIES = "1.2.7"


def with_values(name: str, sop_uid: str, **changes: object) -> bytes:
    """An image with a document, a colour table and an icon inside a sequence."""
    ds = dcmread(BytesIO(pydicom_file(name, SeriesInstanceUID=SERIES, SOPInstanceUID=sop_uid)))
    big = ds.file_meta.TransferSyntaxUID == ExplicitVRBigEndian
    words = (WORDS.byteswap() if big else WORDS).tobytes()
    ds.EncapsulatedDocument = DOCUMENT
    ds.RedPaletteColorLookupTableData = words
    icon = Dataset()
    icon.Rows = icon.Columns = 100
    icon.BitsAllocated = 8
    icon.PixelData = bytes(100) * 100
    icon["PixelData"].VR = "OB"
    inner = Dataset()
    inner.add_new(0x00091010, "OW", words)
    other = Dataset()
    other.IconImageSequence = [icon, inner]
    ds.IconImageSequence = [icon]
    ds.ReferencedImageSequence = [Dataset(), other]
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return part10(ds)


@pytest.fixture(scope="module")
def valued(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("valued")) as house:
        for number, name in enumerate(
            ("MR_small.dcm", "MR_small_expb.dcm", "MR_small_implicit.dcm", "image_dfl.dcm"), 1
        ):
            house.put(with_values(name, f"{SERIES}.{number}"))
        yield house


def get(
    house: House, path: str, accept: str = OCTETS, who: str = "radiologist", **headers: str
) -> httpx.Response:
    with house.client(who) as client:
        return client.get(path, headers={"Accept": accept, **headers})


def named(value: Any) -> Iterator[str]:
    """Every BulkDataURI in some metadata."""
    if isinstance(value, dict):
        if "BulkDataURI" in value:
            yield value["BulkDataURI"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from named(each)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_every_name_in_the_metadata_leads_to_its_value(valued: House, number: int) -> None:
    base = f"{valued.base_url}/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.{number}"
    [metadata] = get(valued, f"{base}/metadata", "application/dicom+json").json()
    values = {uri.removeprefix(f"{base}/bulkdata/"): get(valued, uri) for uri in named(metadata)}
    assert {answer.status_code for answer in values.values()} == {200}
    assert {answer.headers["content-type"] for answer in values.values()} == {
        "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
    }
    pixels = values.pop("7FE00010")
    assert {place: answer.content for place, answer in values.items()} == {
        "00281201": WORDS.tobytes(),
        "00420011": DOCUMENT,
        "00880200/1/7FE00010": bytes(10_000),
        "00081140/2/00880200/1/7FE00010": bytes(10_000),
        "00081140/2/00880200/2/00091010": WORDS.tobytes(),
    }
    sent = dcmread(BytesIO(get(valued, base, "application/dicom").content))
    cells = sent.pixel_array
    assert pixels.content == cells.astype(cells.dtype.newbyteorder("<")).tobytes()


def test_the_python_client_gets_bulk_data(valued: House) -> None:
    client = DICOMwebClient(f"{valued.base_url}/dicom-web")
    client._session.headers["Authorization"] = f"Bearer {valued.token('radiologist')}"
    base = f"{valued.base_url}/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1"
    assert client.retrieve_bulkdata(f"{base}/bulkdata/00420011") == [DOCUMENT]
    octets = ((OCTETS, "1.2.840.10008.1.2.1"),)
    assert client.retrieve_bulkdata(f"{base}/bulkdata/00281201", media_types=octets) == [WORDS.tobytes()]


def test_compressed_pixel_data_comes_frame_by_frame(house: House) -> None:
    base = f"/dicom-web/studies/{STUDY}/series/{JPEG_LS_SERIES}/instances/{JPEG_LS_SERIES}.1"
    sent = dcmread(BytesIO(stored(house, JPEG_LS_SERIES)))
    wanted = list(generate_frames(sent.PixelData, number_of_frames=10))
    for accept, media_type in (('multipart/related; type="image/jls"', "image/jls"), ("*/*", OCTETS)):
        found = parts(get(house, f"{base}/bulkdata/7FE00010", accept))
        assert [content for _, content in found] == wanted
        assert found[0][0].startswith(media_type)
    plain = get(
        house,
        f"{base}/bulkdata/7FE00010",
        f'multipart/related; type="{OCTETS}"; transfer-syntax=1.2.840.10008.1.2.1',
    )
    original = dcmread(BytesIO(stored(house, f"1.2.9.{IMAGES.index('emri_small.dcm')}"))).pixel_array
    assert [content for _, content in parts(plain)] == [frame.tobytes() for frame in original]
    assert get(house, f"{base}/bulkdata/7FE00010").status_code == 406  # ten frames are not one part


@pytest.mark.parametrize(
    ("element", "status"),
    [
        ("00080018", 200),
        ("00091010", 404),
        ("00880200", 406),
        ("00880200/2/7FE00010", 404),
        ("00880200/1/00091010", 404),
        ("00080018/1/00080018", 404),
        ("00880200/0/7FE00010", 400),
        ("00880200/1", 400),
        ("PatientName", 400),
        ("0008", 400),
        ("", 400),
        ("/".join(["00081140/1"] * 40) + "/00080018", 400),
        ("00420011/../../../metadata", 400),
    ],
)
def test_what_is_no_value(valued: House, element: str, status: int) -> None:
    base = f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1/bulkdata/"
    with valued.client("radiologist") as client:
        request = client.build_request("GET", f"{valued.base_url}/x", headers={"Accept": OCTETS})
        request.url = request.url.copy_with(raw_path=(base + element).encode())
        assert client.send(request).status_code == status


def test_a_value_that_lies_about_its_length(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        content = with_values("MR_small.dcm", f"{SERIES}.1")
        place = content.rindex(b"OW\0\0", 0, content.rindex(b"\xe0\x7f\x10\x00") + 8)
        house.put(content[: place + 4] + (0xFFFFFFF0).to_bytes(4, "little") + content[place + 8 :])
        base = f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1/bulkdata"
        assert get(house, f"{base}/7FE00010").status_code == 406
        assert get(house, f"{base}/00420011").content == DOCUMENT


def test_who_may_and_the_record(valued: House) -> None:
    path = f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1/bulkdata/00420011"
    assert get(valued, path, who="patient").content == DOCUMENT
    event = valued.audit.newest(Wanted(), limit=1)[0].event
    assert (event.actor, event.action, event.sop_instance_uid) == ("patient", Action.VIEW, f"{SERIES}.1")
    assert event.detail.endswith("00420011")
    assert get(valued, path, who="doctor-other").status_code == 404
    assert get(valued, path, who="service").status_code == 404


# Ranges and entity tags


@pytest.fixture(params=["bulkdata/00420011", ""])
def resource(request: pytest.FixtureRequest, valued: House) -> tuple[str, str, bytes]:
    """A path, what to accept, and the whole of it: located in a file, and a file."""
    path = f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1/{request.param}".rstrip("/")
    accept = OCTETS if request.param else "application/dicom"
    whole = get(valued, path, accept)
    assert whole.headers["accept-ranges"] == "bytes"
    return path, accept, whole.content


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000000-3000000", 1_000_000, 3_000_001),
        ("bytes=10-", 10, None),
        ("bytes=-7", -7, None),
        ("bytes=5-999999999999", 5, None),
        ("bytes=-999999999999", 0, None),
    ],
)
def test_a_range(
    valued: House, resource: tuple[str, str, bytes], asked: str, begin: int, end: int | None
) -> None:
    path, accept, whole = resource
    answer = get(valued, path, accept, Range=asked)
    assert answer.status_code == 206
    assert answer.content == whole[begin:end]
    first = begin if begin >= 0 else len(whole) + begin
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(whole)}"
    assert int(answer.headers["content-length"]) == len(answer.content)


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,5-6", "bytes=5-4", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=", "x"]
)
def test_what_is_no_range_is_passed_over(valued: House, resource: tuple[str, str, bytes], asked: str) -> None:
    path, accept, whole = resource
    answer = get(valued, path, accept, Range=asked)
    assert (answer.status_code, answer.content) == (200, whole)


@pytest.mark.parametrize("asked", ["bytes=999999999999-", "bytes=-0"])
def test_a_range_behind_the_end(valued: House, resource: tuple[str, str, bytes], asked: str) -> None:
    path, accept, whole = resource
    answer = get(valued, path, accept, Range=asked)
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(whole)}"


def test_entity_tags(valued: House, resource: tuple[str, str, bytes]) -> None:
    path, accept, whole = resource
    etag = get(valued, path, accept).headers["etag"]
    for said, status in ((etag, 304), (f'"x", {etag}', 304), ("*", 304), (f"W/{etag}", 304), ('"x"', 200)):
        answer = get(valued, path, accept, **{"If-None-Match": said})
        assert answer.status_code == status
        assert answer.headers["etag"] == etag
        assert bool(answer.content) == (status == 200)
    assert get(valued, path, accept, **{"If-Range": etag, "Range": "bytes=0-1"}).status_code == 206
    assert get(valued, path, accept, **{"If-Range": '"x"', "Range": "bytes=0-1"}).content == whole
    # Who may not see it learns nothing by guessing tags, and a look without bytes is on record as well.
    assert get(valued, path, accept, who="doctor-other", **{"If-None-Match": etag}).status_code == 404
    assert valued.audit.newest(Wanted(), limit=2)[1].event.outcome == "success"


def test_head(valued: House, resource: tuple[str, str, bytes]) -> None:
    path, accept, whole = resource
    with valued.client("radiologist") as client:
        answer = client.head(path, headers={"Accept": accept})
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == len(whole)


def test_implicit_is_one_of_them(valued: House) -> None:
    answer = get(
        valued, f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.3", "application/dicom"
    )
    assert dcmread(BytesIO(answer.content)).file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
