"""All bulk data of a study, a series or an instance: what the metadata names, each value under its name."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from email.parser import BytesParser
from functools import cache
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate

from central.audit.events import Action
from central.audit.reading import Wanted
from tests.central.access.house import OTHER_STUDY, STUDY, House, open_house, part10, pydicom_file
from tests.central.dicomweb.test_bulk_data import DOCUMENT, SERIES, WORDS, named, with_values
from tests.central.dicomweb.test_dicomweb import outside_client

MULTIPART = 'multipart/related; type="application/octet-stream"'
EXPLICIT = f"{MULTIPART}; transfer-syntax=1.2.840.10008.1.2.1"
COMPRESSED, SINGLE = "1.2.6.1", "1.2.6.2"
PLAIN = f"{SERIES}.1"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A study of native, deflated and compressed images with other values, and a report in another study."""
    with open_house(tmp_path_factory.mktemp("filled")) as house:
        for number, name in enumerate(("MR_small.dcm", "MR_small_expb.dcm", "image_dfl.dcm"), 1):
            house.put(with_values(name, f"{SERIES}.{number}"))
        for name, series in (("emri_small_jpeg_ls_lossless.dcm", COMPRESSED), ("JPEG-LL.dcm", SINGLE)):
            house.put(pydicom_file(name, SeriesInstanceUID=series, SOPInstanceUID=f"{series}.1"))
        house.put(pydicom_file("test-SR.dcm", StudyInstanceUID=OTHER_STUDY))
        yield house


def get(house: House, path: str, accept: str = MULTIPART, who: str = "radiologist") -> httpx.Response:
    with house.client(who) as client:
        return client.get(f"/dicom-web/studies/{path}", headers={"Accept": accept})


def values(answer: httpx.Response) -> list[tuple[str, str, bytes]]:
    """Content-Location, Content-Type and content of each part."""
    assert answer.status_code == 200, answer.text
    message = BytesParser().parsebytes(
        f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode() + answer.content
    )
    return [
        (part["Content-Location"], part["Content-Type"], part.get_payload(decode=True))
        for part in message.get_payload()  # type: ignore[misc, union-attr]
    ]


@pytest.fixture(scope="module")
def by_itself(filled: House) -> Callable[[str, str], list[tuple[str, str, bytes]]]:
    """What a BulkDataURI gives, asked once for each."""
    return cache(lambda uri, accept: values(get(filled, uri.partition("/studies/")[2], accept)))


def expected_locations(house: House, path: str) -> list[str]:
    """The metadata's BulkDataURIs, those of ten compressed frames written out."""
    locations: list[str] = []
    for uri in named(get(house, f"{path}/metadata", "application/dicom+json").json()):
        of_frames = COMPRESSED in uri and uri.endswith("7FE00010")
        locations += [f"{uri}/frames/{number}" for number in range(1, 11)] if of_frames else [uri]
    return locations


@pytest.mark.parametrize(
    "below", ["", f"/series/{SERIES}", f"/series/{COMPRESSED}", f"/series/{SERIES}/instances/{PLAIN}"]
)
@pytest.mark.parametrize("accept", [MULTIPART, EXPLICIT, "*/*"])
def test_everything_that_the_metadata_names(
    filled: House, by_itself: Callable[[str, str], list[tuple[str, str, bytes]]], below: str, accept: str
) -> None:
    found = values(get(filled, f"{STUDY}{below}/bulkdata", accept))
    assert [location for location, _, _ in found] == expected_locations(filled, f"{STUDY}{below}")
    if accept != "*/*":  # instances in this media type are the same
        assert values(get(filled, f"{STUDY}{below}", accept)) == found
    accepted = EXPLICIT if accept == EXPLICIT else MULTIPART
    wanted = [
        part
        for uri in dict.fromkeys(location.partition("/frames/")[0] for location, _, _ in found)
        for part in by_itself(uri, accepted)
    ]
    assert found == wanted


def test_the_values_are_those_that_were_sent(filled: House) -> None:
    found = {location.partition("/bulkdata/")[2]: content for location, _, content in
             values(get(filled, f"{STUDY}/series/{SERIES}/instances/{PLAIN}/bulkdata"))}  # fmt: skip
    assert found["00420011"] == DOCUMENT
    assert found["00081140/2/00880200/2/00091010"] == WORDS.tobytes()
    assert found["7FE00010"] == dcmread(BytesIO(pydicom_file("MR_small.dcm"))).PixelData
    decoded = values(get(filled, f"{STUDY}/series/{COMPRESSED}/bulkdata", EXPLICIT))
    frames = dcmread(BytesIO(pydicom_file("emri_small.dcm"))).pixel_array
    assert [content for _, _, content in decoded] == [frame.tobytes() for frame in frames]
    [(location, media_type, _)] = values(get(filled, f"{STUDY}/series/{SINGLE}/bulkdata"))
    assert location.endswith("/bulkdata/7FE00010")
    assert media_type.startswith("application/octet-stream; transfer-syntax=1.2.840.10008.1.2.4.")


def test_the_python_client_gets_all_of_it(filled: House) -> None:
    url = f"{filled.base_url}/dicom-web/studies/{STUDY}/bulkdata"
    assert outside_client(filled).retrieve_bulkdata(url) == [
        content for _, _, content in values(get(filled, f"{STUDY}/bulkdata"))
    ]


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        (f"{STUDY}/bulkdata", "application/octet-stream", 406),
        (f"{STUDY}/bulkdata", 'multipart/related; type="image/jls"', 406),
        (f"{STUDY}/bulkdata", f"{MULTIPART}; transfer-syntax=1.2.840.10008.1.2.4.80", 406),
        (f"{OTHER_STUDY}/bulkdata", MULTIPART, 404),  # a report has none
        (f"{STUDY}/series/1.2.3/bulkdata", MULTIPART, 404),
        ("1.2.3/bulkdata", MULTIPART, 404),
        ("x/bulkdata", MULTIPART, 400),
    ],
)
def test_what_cannot_be_had(filled: House, path: str, accept: str, status: int) -> None:
    assert get(filled, path, accept).status_code == status


def test_who_may_and_the_record(filled: House) -> None:
    assert get(filled, f"{STUDY}/series/{SINGLE}/bulkdata", who="patient").status_code == 200
    [row] = filled.audit.newest(Wanted(), limit=1)
    assert (row.event.actor, row.event.action, row.event.outcome) == ("patient", Action.EXPORT, "success")
    assert (row.event.study_instance_uid, row.event.series_instance_uid) == (STUDY, SINGLE)
    for who in ("patient-other", "doctor-other", "admin", "service"):
        assert get(filled, f"{STUDY}/bulkdata", who=who).status_code == 404
        assert filled.audit.newest(Wanted(), limit=1)[0].event.outcome == "refused"


def test_what_is_compressed_inside_a_sequence_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ds = dcmread(BytesIO(pydicom_file("JPEG-LL.dcm", SeriesInstanceUID=SINGLE, SOPInstanceUID=f"{SINGLE}.1")))
    icon = Dataset()
    icon.Rows = icon.Columns = 64
    icon.PixelData = encapsulate([bytes(range(256)) * 32])
    icon["PixelData"].VR = "OB"
    icon["PixelData"].is_undefined_length = True
    ds.IconImageSequence = [icon]
    ds.EncapsulatedDocument = DOCUMENT
    with open_house(tmp_path) as house:
        house.put(part10(ds))
        assert len(expected_locations(house, STUDY)) == 3
        found = [
            location.partition("/bulkdata/")[2] for location, _, _ in values(get(house, f"{STUDY}/bulkdata"))
        ]
    assert found == ["00420011", "7FE00010"]
    assert "bulk-data-left-out" in caplog.text


def damaged(offsets: tuple[int, int, int]) -> bytes:
    """Three compressed frames, with an extended offset table (PS3.3 C.7.6.3.1.8) that says where they are."""
    ds = dcmread(
        BytesIO(
            pydicom_file(
                "emri_small_jpeg_ls_lossless.dcm",
                SeriesInstanceUID=COMPRESSED,
                SOPInstanceUID=f"{COMPRESSED}.1",
            )
        )
    )
    ds.NumberOfFrames = 3
    ds.PixelData = encapsulate([bytes(100)] * 3, has_bot=False)
    ds.ExtendedOffsetTable = struct.pack("<3Q", *offsets)
    ds.ExtendedOffsetTableLengths = struct.pack("<3Q", 100, 100, 100)
    return part10(ds)


def test_damage_that_shows_late_cuts_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes the frames before it for all of them."""
    with open_house(tmp_path) as house:
        house.put(damaged((0, 108, 1 << 40)))
        assert get(house, f"{STUDY}/bulkdata").status_code == 406, "it shows before a short answer begins"
        monkeypatch.setattr("central.dicomweb.multipart.CHUNK_BYTES", 1)  # as if it were long
        with pytest.raises(httpx.RemoteProtocolError):
            get(house, f"{STUDY}/bulkdata")


def test_where_nothing_can_be_given_out_the_reason_is_said(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.put(damaged((1 << 40, 1 << 40, 1 << 40)))
        answer = get(house, f"{STUDY}/bulkdata")
        frame = f"{STUDY}/series/{COMPRESSED}/instances/{COMPRESSED}.1/frames/1"
        assert get(house, frame).status_code == 406  # and not an empty frame
    assert (answer.status_code, answer.json()["detail"]) == (
        406,
        "the file does not hold frame 1 whole",
    )
