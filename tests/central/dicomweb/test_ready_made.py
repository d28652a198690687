"""What is made once and kept, as clients see it: metadata, pictures, frames for thin lines; and who gets what."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import httpx
import imagecodecs
import numpy as np
import pytest
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, HTJ2KLossless, JPEGLSLossless

from central.archive.object_names import name_of
from central.archive.tables import Rendition
from central.audit.reading import Wanted
from central.dicomweb import frames
from central.dicomweb.conversion import FrameCoding
from central.dicomweb.errors import NotAnImageError
from central.dicomweb.render import Job, Renderer
from tests.central.access.house import STUDY, House, open_house, pydicom_file
from tests.central.databases import change_object

SERIES = "1.2.6"
METADATA = f"/dicom-web/studies/{STUDY}/series/{SERIES}/metadata"
THUMBNAIL = f"/dicom-web/studies/{STUDY}/series/{SERIES}/thumbnail"
PACKED = {"Accept-Encoding": "gzip"}
PLAIN = {"Accept-Encoding": "identity"}
HTJ2K, JPEG_LS = str(HTJ2KLossless), str(JPEGLSLossless)


def image(number: int, name: str = "CT_small.dcm", **changes: object) -> bytes:
    said = {"SeriesInstanceUID": SERIES, "SOPInstanceUID": f"{SERIES}.{number}", "InstanceNumber": number}
    return pydicom_file(name, **{**said, **changes})


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        for number in range(3):
            opened.put(image(number))
        yield opened


@dataclass
class Drawn:
    """What the workers were asked for."""

    jobs: list[Job | FrameCoding] = field(default_factory=list)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    seen, render = Drawn(), Renderer.render

    def counted(self: Renderer, job: Job | FrameCoding) -> bytes:
        seen.jobs.append(job)
        return render(self, job)

    monkeypatch.setattr(Renderer, "render", counted)
    return seen


def raw(client: httpx.Client, path: str, headers: dict[str, str]) -> tuple[httpx.Response, bytes]:
    with client.stream("GET", path, headers=headers) as answer:
        return answer, b"".join(answer.iter_raw())


def uids(packed: bytes) -> list[str]:
    return [one["00080018"]["Value"][0] for one in json.loads(gzip.decompress(packed))]


def renditions(house: House) -> int:
    return len(list(Rendition.select().execute(house.db)))


def test_a_series_metadata_is_packed_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    with house.client("radiologist") as client:
        first, packed = raw(client, METADATA, PACKED)
        monkeypatch.setattr(
            house.archive.reading, "metadata_of", lambda *_args, **_said: pytest.fail("made again")
        )
        again, same = raw(client, METADATA, PACKED)
        plain = client.get(METADATA, headers=PLAIN)
        other = client.get(METADATA, headers=PACKED | {"Accept": "application/json"})
        head = client.head(METADATA, headers=PACKED)
    assert uids(packed) == [f"{SERIES}.{number}" for number in range(3)]
    assert (first.headers["content-encoding"], first.headers["content-length"]) == ("gzip", str(len(packed)))
    assert (packed, first.headers["etag"]) == (same, again.headers["etag"])
    assert plain.content == gzip.decompress(packed)
    assert "content-encoding" not in plain.headers
    assert head.headers["etag"] == first.headers["etag"]
    tags = {answer.headers["etag"] for answer in (first, plain, other)}
    assert len(tags) == 3, "a strong tag is of one coding and one type"
    assert not any(tag.startswith("W/") for tag in tags)
    assert {answer.headers["vary"] for answer in (first, plain)} == {"Accept, Accept-Encoding"}
    assert first.headers["cache-control"] == "no-store"


def test_nothing_is_kept_that_was_made_from_a_damaged_original(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be shown for ever, even when the original was mended."""
    monkeypatch.setattr("central.archive.opening._SAMPLED", 0.0)
    name = name_of(house.db, hashlib.sha256(image(1)).hexdigest())
    change_object(house.root, name, lambda kept: kept[:-400] + bytes(byte ^ 0xFF for byte in kept[-400:]))
    of_image = f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1"
    frame = {"Accept": f"multipart/related; type=application/octet-stream; transfer-syntax={JPEG_LS}"}
    with house.client("radiologist") as client:
        assert client.get(f"{of_image}/frames/1", headers=frame).status_code == 500
        assert client.get(THUMBNAIL).status_code == 500
    assert renditions(house) == 0


def test_who_has_it_is_told_so_and_a_late_image_shows(house: House) -> None:
    with house.client("radiologist") as client:
        etag = client.get(METADATA, headers=PACKED).headers["etag"]
        asked = PACKED | {"If-None-Match": etag}
        same = client.get(METADATA, headers=asked)
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
        assert client.get(METADATA, headers=PLAIN | {"If-None-Match": etag}).status_code == 200
        house.put(image(7))
        late, packed = raw(client, METADATA, asked)
        assert late.status_code == 200
        assert uids(packed)[-1] == f"{SERIES}.7"
        # Another content under a known UID is kept beside it, and what was read stays what is read.
        house.put(image(7, StudyID="9"))
        assert (
            client.get(METADATA, headers=PACKED | {"If-None-Match": late.headers["etag"]}).status_code == 304
        )


def test_each_look_is_on_record_before_it_is_answered(house: House) -> None:
    with house.client("radiologist") as client:
        etag = client.get(METADATA, headers=PACKED).headers["etag"]
        (before,) = house.audit.newest(Wanted(), limit=1)
        assert client.get(METADATA, headers=PACKED | {"If-None-Match": etag}).status_code == 304
    recorded, former = house.audit.newest(Wanted(), limit=2)
    assert (former, recorded.event.outcome, recorded.event.study_instance_uid) == (before, "success", STUDY)


def test_each_host_name_gets_its_own_addresses(house: House) -> None:
    with house.client("radiologist") as client:
        for host in ("one.example", "two.example", "one.example"):
            body = client.get(METADATA, headers=PACKED | {"Host": host}).json()
            uri = body[0]["7FE00010"]["BulkDataURI"]
            assert uri.startswith(f"http://{host}/dicom-web/studies/{STUDY}/series/{SERIES}/instances/")
    assert renditions(house) == 2


def test_what_is_kept_is_shown_to_nobody_else(house: House) -> None:
    house.put(image(5, PatientID="P9"))  # an image in this study that names another patient
    with house.client("radiologist") as client:
        _, everything = raw(client, METADATA, PACKED)
        assert client.get(THUMBNAIL).status_code == 200
    assert len(uids(everything)) == 4
    with house.client("patient") as client:
        _, own = raw(client, METADATA, PACKED)
    assert uids(own) == [f"{SERIES}.{number}" for number in range(3)]
    for stranger in ("doctor-other", "patient-other", "north-radiologist", "admin"):
        with house.client(stranger) as client:
            for path in (METADATA, THUMBNAIL):
                assert client.get(path, headers={"If-None-Match": "*"}).status_code == 404


def test_an_erased_study_answers_as_if_it_had_never_been(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "_THIN_LINE_BYTES_A_SECOND", 1)
    paths = (METADATA, THUMBNAIL, f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.0/frames/1")
    headers = {"Accept": f'multipart/related; type="image/jls"; transfer-syntax={JPEG_LS}, */*;q=0.1'}
    with house.client("radiologist") as client:
        assert [client.get(path, headers=headers).status_code for path in paths] == [200] * 3
        assert renditions(house) == 3
        house.archive.erasures.erase(STUDY, "ann", lambda _: None)
        assert [client.get(path, headers=headers).status_code for path in paths] == [404] * 3
    assert renditions(house) == 0


def test_pictures_as_everybody_wants_them_are_drawn_once(house: House, drawn: Drawn) -> None:
    middle = f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1"
    with house.client("radiologist") as client:
        first = client.get(THUMBNAIL)
        assert client.get(THUMBNAIL).content == first.content == client.get(f"{middle}/thumbnail").content
        assert client.get(THUMBNAIL, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
        assert client.get(THUMBNAIL, headers={"Range": "bytes=0-1"}).content == b"\xff\xd8"
        assert len(drawn.jobs) == 1
        assert client.get(THUMBNAIL, headers={"Accept": "image/png"}).content[1:4] == b"PNG"
        assert [client.get(f"{middle}/rendered").status_code for _ in range(2)] == [200, 200]
        assert len(drawn.jobs) == 3
        for _ in range(2):  # these are one person's
            assert client.get(f"{middle}/rendered?window=40,400").status_code == 200
            assert client.get(f"{middle}/rendered?viewport=50,50").status_code == 200
        assert len(drawn.jobs) == 7
        for number in range(3, 6):
            house.put(image(number, "MR_small.dcm"))
        assert client.get(THUMBNAIL).content != first.content, "another image is in the middle now"


def test_an_image_that_cannot_be_drawn_costs_a_worker_once(house: House, drawn: Drawn) -> None:
    broken = dcmread(BytesIO(image(9, SeriesInstanceUID="1.2.7")))
    broken.PixelData = broken.PixelData[:100]
    content = BytesIO()
    broken.save_as(content, enforce_file_format=True)
    house.put(content.getvalue())
    path = f"/dicom-web/studies/{STUDY}/series/1.2.7/thumbnail"
    with house.client("radiologist") as client:
        answers = [client.get(path) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {NotAnImageError.status}
    assert len({answer.json()["detail"] for answer in answers}) == 1
    assert len(drawn.jobs) == 1


# Unsigned and signed, 8 and 16 bits, big endian, several frames, and compressed without loss.
THIN = (
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "emri_small.dcm",
    "emri_small_RLE.dcm",
    "JPEG-LL.dcm",
    "examples_palette.dcm",
)


@pytest.mark.parametrize("name", THIN)
def test_a_frame_for_a_thin_line_is_the_same_pixels(house: House, drawn: Drawn, name: str) -> None:
    house.put(image(0, name, SeriesInstanceUID="1.2.7", SOPInstanceUID="1.2.7.1"))
    path = f"/dicom-web/studies/{STUDY}/series/1.2.7/instances/1.2.7.1/frames/1"
    signed = bool(dcmread(BytesIO(image(0, name))).PixelRepresentation)
    with house.client("radiologist") as client:
        native = client.get(
            path, headers={"Accept": f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}"}
        )
        assert native.status_code == 200
        for syntax, media_type, decode in (
            (HTJ2K, "image/jphc", imagecodecs.htj2k_decode),
            (JPEG_LS, "image/jls", imagecodecs.jpegls_decode),
        ):
            before = len(drawn.jobs)
            accept = {"Accept": f"{media_type}; transfer-syntax={syntax}"}
            coded = client.get(path, headers=accept)
            assert coded.headers["content-type"] == f"{media_type}; transfer-syntax={syntax}"
            assert client.get(path, headers=accept).content == coded.content
            again = client.get(path, headers=accept | {"If-None-Match": coded.headers["etag"]})
            assert again.status_code == 304
            assert len(drawn.jobs) == before + 1
            cells = decode(coded.content)
            assert cells.astype(cells.dtype.newbyteorder("<")).tobytes() == native.content
            assert not signed or syntax == JPEG_LS or cells.dtype.kind == "i"


def test_nobody_gets_it_who_did_not_ask(house: House, drawn: Drawn) -> None:
    path = f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.0/frames/1"
    stored = dcmread(BytesIO(image(0))).PixelData
    with house.client("radiologist") as client:
        for accept in ("*/*", "multipart/related", 'multipart/related; type="application/octet-stream"'):
            answer = client.get(path, headers={"Accept": accept})
            assert stored in answer.content
        assert (
            client.get(path, headers={"Accept": "image/jls;q=0.5, application/octet-stream"}).content
            == stored
        )
    assert drawn.jobs == []


@pytest.mark.parametrize(
    "name", ["JPGExtended.dcm", "SC_rgb_2frame.dcm", "liver_1frame.dcm", "rtdose_expb.dcm"]
)
def test_what_is_not_coded_is_said_to_be_had_otherwise(house: House, name: str) -> None:
    """With loss already, colour, single bits, 32 bits."""
    house.put(image(0, name, SeriesInstanceUID="1.2.7", SOPInstanceUID="1.2.7.1"))
    path = f"/dicom-web/studies/{STUDY}/series/1.2.7/instances/1.2.7.1/frames/1"
    with house.client("radiologist") as client:
        answer = client.get(path, headers={"Accept": f"image/jphc; transfer-syntax={HTJ2K}"})
    assert answer.status_code == 406
    assert "this can be had as" in answer.json()["detail"]


NOT_FOR_CODING = ("SC_rgb_2frame.dcm", "rtdose_expb.dcm", "emri_small_jpeg_ls_lossless.dcm")
RATHER_CODED = (
    f'multipart/related; type="application/octet-stream"; transfer-syntax={HTJ2K}, '
    'multipart/related; type="application/octet-stream"; transfer-syntax=*; q=0.5'
)


def one_part(client: httpx.Client, series: str, accept: str) -> tuple[str, bytes]:
    """The transfer syntax and the bytes of the one part that is answered."""
    path = f"/dicom-web/studies/{STUDY}/series/{series}/instances/{series}.0/frames/1"
    answer = client.get(path, headers={"Accept": accept})
    assert answer.status_code == 200, answer.text
    header, _, rest = answer.content.partition(b"\r\n\r\n")
    return header.decode().split("transfer-syntax=")[1].split()[0], rest.rpartition(b"\r\n--")[0]


def test_coding_is_not_waited_for_longer_than_stored_bytes_take(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, may_code = dcmread(BytesIO(image(0))), threading.Event()
    render = Renderer.render

    def held_up(self: Renderer, job: Job | FrameCoding) -> bytes:
        assert may_code.wait(60)
        return render(self, job)

    monkeypatch.setattr(Renderer, "render", held_up)
    with house.client("radiologist") as client:
        for _ in range(2):
            assert one_part(client, SERIES, RATHER_CODED) == (ExplicitVRLittleEndian, stored.PixelData)
        monkeypatch.setattr(frames, "_THIN_LINE_BYTES_A_SECOND", 1)
        may_code.set()
        syntax, coded = one_part(client, SERIES, RATHER_CODED)  # who asks next gets what was begun
    assert syntax == HTJ2K
    assert np.array_equal(imagecodecs.htj2k_decode(coded), stored.pixel_array)
    assert renditions(house) == 1


def test_what_cannot_be_coded_comes_as_it_is_stored(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_THIN_LINE_BYTES_A_SECOND", 1)
    for number, name in enumerate(NOT_FOR_CODING):
        series = f"1.2.8{number}"
        house.put(image(0, name, SeriesInstanceUID=series, SOPInstanceUID=f"{series}.0"))
        with house.client("radiologist") as client:
            plain = one_part(
                client, series, 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
            )
            assert one_part(client, series, RATHER_CODED) == plain

    def fails(_self: Renderer, _job: Job | FrameCoding) -> bytes:
        raise NotAnImageError("the coder does not manage")

    monkeypatch.setattr(Renderer, "render", fails)
    with house.client("radiologist") as client:
        syntax, body = one_part(client, SERIES, RATHER_CODED)
    assert (syntax, body) == (ExplicitVRLittleEndian, dcmread(BytesIO(image(0))).PixelData)


def test_an_outside_client_reads_all_of_it(house: House) -> None:
    house.put(image(0, "emri_small.dcm", SeriesInstanceUID="1.2.7", SOPInstanceUID="1.2.7.1"))
    client = DICOMwebClient(
        f"{house.base_url}/dicom-web", headers={"Authorization": f"Bearer {house.token('radiologist')}"}
    )
    for _ in range(2):
        found = client.retrieve_series_metadata(STUDY, SERIES)
        assert [one["00080018"]["Value"] for one in found] == [[f"{SERIES}.{number}"] for number in range(3)]
    sent = dcmread(BytesIO(image(0, "emri_small.dcm"))).pixel_array
    for media_type, syntax, decode in (
        ("image/jls", JPEG_LS, imagecodecs.jpegls_decode),
        ("image/jphc", HTJ2K, imagecodecs.htj2k_decode),
    ):
        if media_type == "image/jphc":  # which this client does not know yet
            with house.client("radiologist") as plain:
                answer = plain.get(
                    f"/dicom-web/studies/{STUDY}/series/1.2.7/instances/1.2.7.1/frames/1,4,10",
                    headers={"Accept": f'multipart/related; type="image/jphc"; transfer-syntax={syntax}'},
                )
            assert answer.headers["content-type"].startswith("multipart/related")
            assert answer.content.count(f"image/jphc; transfer-syntax={syntax}".encode()) == 3
            continue
        frames = client.retrieve_instance_frames(
            STUDY, "1.2.7", "1.2.7.1", [1, 4, 10], media_types=((media_type, syntax),)
        )
        assert all(
            np.array_equal(decode(frame), sent[number - 1])
            for frame, number in zip(frames, (1, 4, 10), strict=True)
        )
