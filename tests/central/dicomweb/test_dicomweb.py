"""QIDO-RS and WADO-RS over a real server, read by an outside client (dicomweb-client) and by plain HTTP."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from email.parser import BytesParser
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from dicomweb_client.api import DICOMwebClient
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from central.audit.events import Action
from central.audit.reading import Wanted
from central.dicomweb.errors import BadRequestError
from central.dicomweb.include_fields import ALLOWED
from central.dicomweb.search_parameters import search_parameters
from tests.central.access import house as access_house
from tests.central.access.house import OTHER_STUDY, STUDY, House, open_house, pydicom_file
from tests.central.dicomweb.conftest import IMAGES

JPEG_LS_SERIES = f"1.2.9.{IMAGES.index('emri_small_jpeg_ls_lossless.dcm')}"
ENHANCED_SERIES = f"1.2.9.{IMAGES.index('emri_small.dcm')}"
BIG_ENDIAN_SERIES = f"1.2.9.{IMAGES.index('MR_small_bigendian.dcm')}"


def outside_client(house: House, username: str = "radiologist") -> DICOMwebClient:
    client = DICOMwebClient(f"{house.base_url}/dicom-web")
    client._session.headers["Authorization"] = f"Bearer {house.token(username)}"
    return client


def parts(answer: httpx.Response) -> list[tuple[str, bytes]]:
    message = BytesParser().parsebytes(
        f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode() + answer.content
    )
    return [
        (part["Content-Type"], part.get_payload(decode=True))
        for part in message.get_payload()  # type: ignore[misc, union-attr]
    ]


def stored(house: House, series: str) -> bytes:
    with house.client("radiologist") as client:
        answer = client.get(
            f"/dicom-web/studies/{STUDY}/series/{series}/instances/{series}.1",
            headers={"Accept": "application/dicom"},
        )
    assert answer.status_code == 200
    return answer.content


# Retrieve


@pytest.mark.parametrize("name", IMAGES)
def test_an_instance_comes_back_byte_for_byte(house: House, name: str) -> None:
    series = f"1.2.9.{IMAGES.index(name)}"
    sent = pydicom_file(
        name, SeriesInstanceUID=series, SOPInstanceUID=f"{series}.1", SeriesNumber=IMAGES.index(name)
    )
    assert stored(house, series) == sent
    assert outside_client(house).retrieve_instance(STUDY, series, f"{series}.1") == dcmread(BytesIO(sent))


def test_a_study_comes_back_whole(house: House) -> None:
    with house.client("radiologist") as client:
        answer = client.get(f"/dicom-web/studies/{STUDY}")
        assert int(answer.headers["content-length"]) == len(answer.content)
        found = parts(answer)
    assert len(found) == len(IMAGES)
    for content_type, content in found:
        dataset = dcmread(BytesIO(content))
        syntax = dataset.file_meta.TransferSyntaxUID
        assert content_type == f"application/dicom; transfer-syntax={syntax}"
        assert content == stored(house, dataset.SeriesInstanceUID)


def test_nothing_is_transcoded_unasked(house: House) -> None:
    path = f"/dicom-web/studies/{STUDY}/series/{JPEG_LS_SERIES}"
    with house.client("radiologist") as client:
        for said in (f"; transfer-syntax={JPEGLSLossless}", "; transfer-syntax=*", ""):
            answer = client.get(
                path, headers={"Accept": f'multipart/related; type="application/dicom"{said}'}
            )
            [(content_type, content)] = parts(answer)
            assert content_type == f"application/dicom; transfer-syntax={JPEGLSLossless}"
            assert content == stored(house, JPEG_LS_SERIES)
        # Nothing is compressed for a client: one instance that does not fit is enough to refuse the study.
        study = f"/dicom-web/studies/{STUDY}"
        accept = f'multipart/related; type="application/dicom"; transfer-syntax={JPEGLSLossless}'
        assert client.get(study, headers={"Accept": accept}).status_code == 406
        assert client.get(path, headers={"Accept": "text/html"}).status_code == 406


def test_metadata_is_the_data_set_without_pixels(house: House) -> None:
    client = outside_client(house)
    [metadata] = client.retrieve_series_metadata(STUDY, ENHANCED_SERIES)
    got = Dataset.from_json({tag: value for tag, value in metadata.items() if tag != "7FE00010"})
    sent = dcmread(BytesIO(stored(house, ENHANCED_SERIES)))
    assert got.PatientName == sent.PatientName == "Doe^Jané"
    for element in sent:
        if element.keyword != "PixelData":
            assert got[element.tag].value == element.value, element.keyword
    assert metadata["7FE00010"] == {
        "vr": "OW",
        "BulkDataURI": f"http://127.0.0.1/dicom-web/studies/{STUDY}/series/{ENHANCED_SERIES}"
        f"/instances/{ENHANCED_SERIES}.1/bulkdata/7FE00010",  # without a port, which this client's Host lacks
    }
    assert len(client.retrieve_study_metadata(STUDY)) == len(IMAGES)


def test_metadata_is_packed_for_those_who_take_it(house: House) -> None:
    path = f"/dicom-web/studies/{STUDY}/metadata"
    with house.client("radiologist") as client:
        plain = client.get(path, headers={"Accept-Encoding": "identity"})
        with client.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as packed:
            assert packed.headers["content-encoding"] == "gzip"
            raw = b"".join(packed.iter_raw())
    assert plain.headers["content-type"] == "application/dicom+json"
    assert len(raw) < len(plain.content) / 3
    assert gzip.decompress(raw) == plain.content
    assert len(json.loads(plain.content)) == len(IMAGES)


def test_long_lists_are_packed_too(house: House) -> None:
    path = f"/dicom-web/studies/{STUDY}/instances"
    with house.client("radiologist") as client:
        plain = client.get(path, headers={"Accept-Encoding": "identity"})
        packed = client.get(path)
    assert (packed.headers["content-encoding"], packed.json()) == ("gzip", plain.json())
    assert "content-encoding" not in plain.headers
    assert int(packed.headers["content-length"]) < len(plain.content) / 3


# Frames


def test_frames_compressed_and_plain(house: House) -> None:
    client = outside_client(house)
    sent = dcmread(BytesIO(stored(house, ENHANCED_SERIES)))
    size = 64 * 64 * 2
    frames = client.retrieve_instance_frames(STUDY, ENHANCED_SERIES, f"{ENHANCED_SERIES}.1", [10, 1])
    assert frames == [sent.PixelData[9 * size : 10 * size], sent.PixelData[:size]]
    compressed = client.retrieve_instance_frames(STUDY, JPEG_LS_SERIES, f"{JPEG_LS_SERIES}.1", [3])
    assert compressed[0].startswith(b"\xff\xd8")


def test_frames_say_their_transfer_syntax(house: House) -> None:
    asked = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
    with house.client("radiologist") as client:
        for series, syntax in (
            (JPEG_LS_SERIES, JPEGLSLossless),
            (BIG_ENDIAN_SERIES, ExplicitVRLittleEndian),
        ):
            path = f"/dicom-web/studies/{STUDY}/series/{series}/instances/{series}.1/frames/1"
            [(content_type, _)] = parts(client.get(path, headers={"Accept": asked}))
            assert content_type == f"application/octet-stream; transfer-syntax={syntax}"
        path = f"/dicom-web/studies/{STUDY}/series/{JPEG_LS_SERIES}/instances/{JPEG_LS_SERIES}.1/frames/1"
        jls = client.get(path, headers={"Accept": 'multipart/related; type="image/jls"'})
        assert parts(jls)[0][0] == f"image/jls; transfer-syntax={JPEGLSLossless}"
        assert client.get(path, headers={"Accept": 'multipart/related; type="image/jp2"'}).status_code == 406


@pytest.mark.parametrize(
    ("frames", "status"),
    [("11", 404), ("1,11", 404), ("0", 400), ("x", 400), ("-1", 400), ("1,", 400), ("1" * 12, 400)],
)
def test_frames_that_are_not_there(house: House, frames: str, status: int) -> None:
    path = f"/dicom-web/studies/{STUDY}/series/{ENHANCED_SERIES}/instances/{ENHANCED_SERIES}.1/frames/"
    with house.client("radiologist") as client:
        assert_problem(client.get(path + frames), status)


# Pictures


@pytest.mark.parametrize("name", IMAGES)
def test_every_kind_of_image_is_drawn(house: House, name: str) -> None:
    series = f"1.2.9.{IMAGES.index(name)}"
    base = f"/dicom-web/studies/{STUDY}/series/{series}"
    with house.client("radiologist") as client:
        answer = client.get(f"{base}/instances/{series}.1/rendered")
        assert answer.headers["content-type"] == "image/jpeg"
        picture = Image.open(BytesIO(answer.content))
        dataset = dcmread(BytesIO(stored(house, series)), stop_before_pixels=True)
        assert picture.size == (dataset.Columns, dataset.Rows)
        thumbnail = Image.open(BytesIO(client.get(f"{base}/thumbnail").content))
        assert max(thumbnail.size) == 128


def test_a_picture_as_asked_for(house: House) -> None:
    base = f"/dicom-web/studies/{STUDY}/series/{ENHANCED_SERIES}/instances/{ENHANCED_SERIES}.1"
    with house.client("radiologist") as client:
        query = "?window=200,300,linear&viewport=32,32"
        answer = client.get(f"{base}/frames/2/rendered{query}", headers={"Accept": "image/png"})
        assert answer.headers["content-type"] == "image/png"
        assert Image.open(BytesIO(answer.content)).size == (32, 32)
        assert client.get(f"{base}/frames/2/rendered?window=1,1").content != answer.content
        assert_problem(client.get(f"{base}/rendered?window=x"), 400)
        part = client.get(f"{base}/rendered?viewport=10,20,5,5,10,20&quality=50&annotation=patient,technique")
        assert Image.open(BytesIO(part.content)).size == (10, 20)
        assert part.headers["warning"].endswith('not supported: patient, technique"')
        small, large = (client.get(f"{base}/rendered?quality={quality}") for quality in (10, 95))
        assert len(small.content) < len(large.content)
        assert small.headers["etag"] != large.headers["etag"]
        several = client.get(
            f"{base}/frames/1,2/rendered"
        )  # what is not said is chosen so that it can be had
        assert [media_type for media_type, _ in parts(several)] == ["image/jpeg"] * 2
        assert_problem(client.get(f"{base}/frames/1,2/rendered", headers={"Accept": "image/jpeg"}), 406)
        assert_problem(client.get(f"{base}/frames/1,2/thumbnail"), 400)
        assert_problem(client.get(f"{base}/rendered", headers={"Accept": "video/mp4"}), 406)


def test_a_picture_at_every_level(house: House) -> None:
    """Of one thing one picture; of several, one picture that stands for them, or all of them as parts."""
    base = f"/dicom-web/studies/{STUDY}"
    instance = f"{base}/series/{ENHANCED_SERIES}/instances/{ENHANCED_SERIES}.1"
    frames = 10
    with house.client("radiologist") as client:
        for level in (base, f"{base}/series/{ENHANCED_SERIES}", instance, f"{instance}/frames/2"):
            picture = Image.open(BytesIO(client.get(f"{level}/rendered").content))
            small = Image.open(
                BytesIO(client.get(f"{level}/thumbnail", headers={"Accept": "image/png"}).content)
            )
            assert (picture.format, small.format, max(small.size)) == ("JPEG", "PNG", 128)
            assert_problem(client.get(f"{level}/thumbnail", headers={"Accept": "text/html"}), 406)
        many = {"Accept": 'multipart/related; type="image/png"'}
        for path, count in (
            (f"{instance}/frames/2,1", 2),
            (instance, frames),
            (f"{base}/series/{ENHANCED_SERIES}", frames),
            (base, None),
        ):
            found = parts(client.get(f"{path}/rendered", headers=many))
            assert {content_type for content_type, _ in found} == {"image/png"}
            assert all(Image.open(BytesIO(content)).format == "PNG" for _, content in found)
            assert len(found) == count if count else len(found) > len(IMAGES)
        alone = client.get(f"{instance}/frames/2/rendered", headers={"Accept": "image/png"}).content
        assert parts(client.get(f"{instance}/frames/2,1/rendered", headers=many))[0][1] == alone


def test_a_report_is_no_picture(house: House) -> None:
    base = f"/dicom-web/studies/{OTHER_STUDY}/series/1.2.8.2"
    with house.client("radiologist") as client:
        for path in ("/instances/1.2.8.2.1/rendered", "/instances/1.2.8.2.1/frames/1", "/thumbnail"):
            assert_problem(client.get(base + path), 406)


# Search


def uids(found: list[dict[str, Any]], tag: str = "0020000D") -> list[str]:
    return [each[tag]["Value"][0] for each in found]


def test_the_newest_study_comes_first_and_says_what_it_is(house: House) -> None:
    found = outside_client(house).search_for_studies()
    assert uids(found) == [STUDY, OTHER_STUDY]
    study = Dataset.from_json(found[0])
    assert study.PatientName == "Doe^Jané"
    assert study.NumberOfStudyRelatedSeries == study.NumberOfStudyRelatedInstances == len(IMAGES)
    assert {"CT", "MR", "OT"} <= set(study.ModalitiesInStudy)
    with house.client("radiologist") as client:  # dicomweb-client's Host header lacks the port
        url = client.get("/dicom-web/studies").json()[0]["00081190"]["Value"][0]
        assert url == f"{house.base_url}/dicom-web/studies/{STUDY}"
        assert client.get(url).status_code == 200


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"PatientName": "doe*"}, [STUDY]),
        ({"PatientName": "DOE^JANE"}, [STUDY]),
        ({"PatientName": "*jan?"}, [STUDY]),
        ({"00100010": "doe*"}, [STUDY]),
        ({"PatientName": "%"}, []),
        ({"PatientName": "' OR 1=1 --"}, []),
        ({"PatientID": "P9"}, [OTHER_STUDY]),
        ({"StudyDate": "20250101-20251231"}, [OTHER_STUDY]),
        ({"StudyDate": "20260101-"}, [STUDY]),
        ({"StudyInstanceUID": f"{STUDY},{OTHER_STUDY}"}, [STUDY, OTHER_STUDY]),
        ({"ModalitiesInStudy": "SR"}, [OTHER_STUDY]),
        ({"ReferringPhysicianName": "house^g*"}, [STUDY]),
        ({"ReferringPhysicianName": "g HOUS", "fuzzymatching": "true"}, [STUDY]),
        ({"ReferringPhysicianName": "g HOUS", "fuzzymatching": "false"}, []),
        ({"limit": "1"}, [STUDY]),
        ({"limit": "1", "offset": "1"}, [OTHER_STUDY]),
        ({"limit": "0"}, []),
        ({"PatientID": "nobody"}, []),
    ],
)
def test_matching(house: House, query: dict[str, str], found: list[str]) -> None:
    with house.client("radiologist") as client:
        answer = client.get("/dicom-web/studies", params=query)
    is_cut = query == {"limit": "1"}
    assert ("additional results" in answer.headers.get("warning", "")) == is_cut
    if not found:
        assert (answer.status_code, answer.content) == (204, b"")
        return
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert uids(answer.json()) == found


def test_series_and_instances(house: House) -> None:
    client = outside_client(house)
    assert len(client.search_for_series(STUDY)) == len(IMAGES)
    mr = client.search_for_series(search_filters={"Modality": "MR", "PatientID": "P9"})
    assert uids(mr, "0020000E") == ["1.2.8.1"]
    assert uids(client.search_for_instances(STUDY, ENHANCED_SERIES), "00080018") == [f"{ENHANCED_SERIES}.1"]
    assert len(client.search_for_instances(STUDY)) == len(IMAGES)
    [instance] = client.search_for_instances(search_filters={"SOPInstanceUID": f"{ENHANCED_SERIES}.1"})
    assert Dataset.from_json(instance).NumberOfFrames == 10


@pytest.mark.parametrize(
    ("path", "fields", "said", "absent"),
    [
        ("studies", "includefield=PatientWeight,00100021", {"00101030": [0.0]}, []),
        ("studies", "includefield=StationName&includefield=SliceThickness", {}, ["00081010", "00180050"]),
        (
            "series",
            "includefield=00081010&includefield=PatientWeight",
            {"00081010": ["CT01_OC0"]},
            ["00180050"],
        ),
        ("instances", "includefield=SliceThickness,PixelData", {"00180050": [5.0]}, ["7FE00010"]),
        (
            "instances",
            "includefield=00091001",
            {"00090010": ["GEMS_IDEN_01"], "00091001": ["GE_GENESIS_FF"]},
            [],
        ),
        ("instances", "includefield=OtherPatientIDsSequence.PatientID", {}, []),
        ("instances", "includefield=all", {}, ["00180050"]),
    ],
)
def test_fields_that_are_asked_for(
    tmp_path: Path, path: str, fields: str, said: dict[str, list[object]], absent: list[str]
) -> None:
    with open_house(tmp_path) as house, house.client("radiologist") as client:
        house.put(pydicom_file("CT_small.dcm"))
        answer = client.get(f"/dicom-web/{path}?{fields}")
        assert "warning" not in answer.headers
        [found] = answer.json()
        assert {tag: found[tag]["Value"] for tag in said} == said
        assert not set(absent) & set(found)
        assert list(found) == sorted(found)
        [plain] = client.get(f"/dicom-web/{path}").json()
        assert {tag: found[tag] for tag in plain} == plain
        unknown = client.get(f"/dicom-web/{path}?includefield=Nonsense")
        assert unknown.headers["warning"].endswith('not used: Nonsense"')
        assert unknown.json() == [plain]


def test_the_fields_that_are_listed_are_attributes() -> None:
    listed = [*ALLOWED["study"], *ALLOWED["series"]]
    assert [keyword for keyword in listed if tag_for_keyword(keyword) is None] == []


def test_fields_of_another_patients_image_are_not_told(tmp_path: Path) -> None:
    """The first image of the series names another patient than the study: the patient is told of the next."""
    with open_house(tmp_path) as house:
        own = {"PatientID": "P1", "SeriesInstanceUID": "1.2.5"}
        house.put(pydicom_file("MR_small.dcm", SeriesInstanceUID="1.2.4", SOPInstanceUID="1.2.4.1"))
        house.put(
            pydicom_file(
                "CT_small.dcm", **own | {"PatientID": "X"}, SOPInstanceUID="1.2.5.1", StationName="FOREIGN"
            )
        )
        house.put(pydicom_file("CT_small.dcm", **own, SOPInstanceUID="1.2.5.2", StationName="OWN"))
        for who, station in (("radiologist", "FOREIGN"), ("patient", "OWN")):
            with house.client(who) as client:
                found = client.get(
                    "/dicom-web/series?SeriesInstanceUID=1.2.5&includefield=StationName"
                ).json()
            assert [one["00081010"]["Value"] for one in found] == [[station]]


def test_series_by_request(tmp_path: Path) -> None:
    request = Dataset()
    request.ScheduledProcedureStepID, request.RequestedProcedureID = "SPS7", "RP7"
    with open_house(tmp_path) as house, house.client("radiologist") as client:
        house.put(
            pydicom_file(
                "CT_small.dcm", StudyInstanceUID="1.2.77", SeriesInstanceUID="1.2.77.1", SOPInstanceUID="1.2.77.1.1",
                RequestAttributesSequence=[request], PerformedProcedureStepStartDate="20260102",
            )
        )  # fmt: skip
        house.put(pydicom_file("MR_small.dcm", StudyInstanceUID="1.2.78", SeriesInstanceUID="1.2.78.1"))
        for query in (
            "RequestAttributesSequence.ScheduledProcedureStepID=SPS7",
            "00400275.00401001=RP*&00400275.ScheduledProcedureStepID=SPS7",
            "PerformedProcedureStepStartDate=20260101-20260103",
        ):
            answer = client.get(f"/dicom-web/series?{query}")
            assert "warning" not in answer.headers
            [found] = answer.json()
            series = Dataset.from_json(found)
            assert series.SeriesInstanceUID == "1.2.77.1"
            assert series.PerformedProcedureStepStartDate == "20260102"
            assert [one.RequestedProcedureID for one in series.RequestAttributesSequence] == ["RP7"]
        below = client.get("/dicom-web/studies/1.2.77/instances?00400275.00401001=RP7").json()
        assert [one["00400275"]["vr"] for one in below] == ["SQ"]
        assert client.get("/dicom-web/series?00400275.00401001=RP8").status_code == 204


def test_two_private_tags_are_not_one_that_is_given_twice() -> None:
    found = search_parameters([("00091001", "a"), ("00091002", "b"), ("0009100a", "c")], "study", 100)
    assert found.unused == "00091001, 00091002, 0009100a"
    with pytest.raises(BadRequestError, match="twice"):
        search_parameters([("0009100a", "a"), ("0009100A", "b")], "study", 100)


def test_what_is_not_supported_is_said_and_not_repeated_raw(house: House) -> None:
    with house.client("radiologist") as client:
        answer = client.get("/dicom-web/studies?emptyvalue=true&0020000d=1&PatientWeight=9&includefield=all")
        assert answer.status_code == 204
        assert "emptyvalue, PatientWeight" in answer.headers["warning"]
        for path, key in (
            ("studies", "Modality"),
            ("studies", "SOPInstanceUID"),
            ("series", "InstanceNumber"),
        ):
            below = client.get(f"/dicom-web/{path}", params={key: "1"})
            assert below.headers["warning"].endswith(f'not used: {key}"')
            assert below.json()
        split = client.get("/dicom-web/studies", params={"a\r\nSet-Cookie: x": "1"})
        assert split.headers["warning"].endswith('not used: some"')
        assert "set-cookie" not in split.headers


@pytest.mark.parametrize(
    "query",
    [
        "fuzzymatching=1",
        "fuzzymatching=true&PatientName=a.b^c d e f g h i j k l m n o p q r s",
        "limit=x",
        "limit=-1",
        "offset=x",
        "limit=1&limit=2",
        "StudyDate=yesterday",
        "StudyInstanceUID=../x",
    ],
)
def test_malformed_searches(house: House, query: str) -> None:
    with house.client("radiologist") as client:
        assert_problem(client.get(f"/dicom-web/studies?{query}"), 400)


# Refusals


def assert_problem(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["", "/metadata", "/series/1.2.9.0", "/series/1.2.9.0/instances/1.2.9.0.1/frames/1"]
)
def test_denied_and_absent_look_alike(house: House, path: str) -> None:
    with house.client("doctor-other") as client:
        denied = client.get(f"/dicom-web/studies/{STUDY}{path}")
        absent = client.get(f"/dicom-web/studies/1.2.3.4{path}")
    assert_problem(denied, 404)
    assert_problem(absent, 404)
    assert denied.json() == absent.json()
    absence, denial = house.audit.newest(Wanted(actor="doctor-other"), limit=2)
    assert denial.event.outcome == absence.event.outcome == "refused"
    assert denial.event.study_instance_uid == STUDY
    assert "not-in-scope" in denial.event.detail


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/studies/../../etc/passwd", 404),
        ("/studies/1.2.x", 400),
        ("/studies/" + "1" * 65, 400),
        (f"/studies/{STUDY}/series/%2e%2e", 400),
        (f"/studies/{STUDY}/series/9.9", 404),
        (f"/studies/{STUDY}/series/1.2.9.0/instances/9.9", 404),
        (f"/studies/{STUDY}/series/9.9/metadata", 404),
        (f"/studies/{STUDY}/series/1.2.8.1/instances/1.2.8.1.1", 404),  # of the other study
        ("/nothing", 404),
    ],
)
def test_what_is_not_there(house: House, path: str, status: int) -> None:
    with house.client("radiologist") as client:
        # A bearer's raw path, as httpx would tidy up the dots.
        answer = client.send(client.build_request("GET", "/dicom-web" + path))
    if answer.status_code != 404 or "dicom-web" in str(answer.url):
        assert_problem(answer, status)


def test_the_path_and_the_query_name_the_same(house: House) -> None:
    """As some clients write it; another name in the query is not passed over."""
    path = f"/dicom-web/studies/{STUDY}/series"
    with house.client("radiologist") as client:
        for same in (STUDY, "*", ""):
            assert len(client.get(path, params={"StudyInstanceUID": same}).json()) == len(IMAGES)
        assert_problem(client.get(path, params={"StudyInstanceUID": OTHER_STUDY}), 400)
        assert_problem(client.get(f"{path}/1.2.9.0/instances", params={"SeriesInstanceUID": "1.2.9.1"}), 400)


def test_every_method_that_a_path_has_is_named(house: House) -> None:
    with house.client("radiologist") as client:
        for path in ("/dicom-web/studies", f"/dicom-web/studies/{STUDY}"):
            answer = client.delete(path)
            assert_problem(answer, 405)
            assert answer.headers["allow"] == "GET, HEAD, POST"


def test_nothing_is_changed_or_deleted(house: House) -> None:
    with house.client("radiologist") as client:
        for method in ("PUT", "DELETE", "PATCH"):
            assert_problem(client.request(method, f"/dicom-web/studies/{STUDY}"), 405)


def test_every_look_is_recorded(house: House) -> None:
    base = f"/dicom-web/studies/{STUDY}/series/1.2.9.0"
    with house.client("patient") as client:
        for path, action in (
            (base, Action.EXPORT),
            (f"{base}/metadata", Action.VIEW),
            (f"{base}/instances/1.2.9.0.1/frames/1", Action.VIEW),
            (f"{base}/instances/1.2.9.0.1/rendered", Action.VIEW),
        ):
            assert client.get(path).status_code == 200
            event = house.audit.newest(Wanted(), limit=1)[0].event
            assert (event.actor, event.actor_role, event.action) == ("patient", "patient", action)
            assert (event.study_instance_uid, event.series_instance_uid) == (STUDY, "1.2.9.0")
            assert event.source_address == "127.0.0.1"
        client.get("/dicom-web/studies", params={"PatientName": "Doe*"})
        event = house.audit.newest(Wanted(), limit=1)[0].event
        assert event.action is Action.SEARCH
        assert "PatientName=Doe%2A" in event.detail


@pytest.mark.parametrize("through_the_router", [False, True])
def test_a_search_is_on_record_whole_or_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through_the_router: bool
) -> None:
    if through_the_router:  # as a coroutine's answer
        monkeypatch.setattr(access_house, "at_once", lambda _routes: lambda _request: None)
    with open_house(tmp_path) as house, house.client("radiologist") as client:
        house.put(pydicom_file("CT_small.dcm"))

        def asked(**parameters: str) -> tuple[int, str, str]:
            answer = client.get("/dicom-web/studies", params=parameters)
            event = house.audit.newest(Wanted(action=Action.SEARCH), limit=1)[0].event
            return answer.status_code, event.outcome, event.detail

        padding = dict.fromkeys(("StudyDescription", "StudyID", "AccessionNumber"), "*" * 900)
        padded = asked(x="x" * 9000, PatientName="Doe*")
        assert padded == (200, "success", "QIDO-RS /dicom-web/studies?PatientName=Doe%2A")
        status, outcome, detail = asked(StudyDescription="*" * 900, PatientName="Doe*")
        assert (status, outcome, detail.endswith("&PatientName=Doe%2A")) == (200, "success", True)
        status, outcome, detail = asked(**padding, PatientName="Doe*")
        assert (status, outcome, "Doe" in detail) == (413, "refused", False)
        refused = client.get("/dicom-web/studies", params=padding)
        assert refused.json()["detail"].startswith("ask for less at once")
        uids = ",".join(f"1.2.826.0.1.3680043.8.498.{number:0>24}" for number in range(100))
        assert asked(StudyInstanceUID=uids)[0] == 204


def test_no_record_no_bytes(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        content = pydicom_file("CT_small.dcm", SeriesInstanceUID="1.2.9.0", SOPInstanceUID="1.2.9.0.1")
        house.put(content)
        base = f"/dicom-web/studies/{STUDY}/series/1.2.9.0"
        paths = [
            "/dicom-web/studies",
            base,
            f"{base}/metadata",
            f"{base}/instances/1.2.9.0.1",
            f"{base}/instances/1.2.9.0.1/frames/1",
            f"{base}/instances/1.2.9.0.1/rendered",
            f"{base}/thumbnail",
        ]
        with house.client("radiologist") as client:
            assert all(client.get(path).status_code == 200 for path in paths)
            house.audit.close()
            for path in paths:
                answer = client.get(path)
                assert_problem(answer, 503)
                assert len(answer.content) < 300


@pytest.mark.parametrize(
    "path",
    # A search of its own: the record of one that the same session asked before would stand for it.
    ["/dicom-web/studies?PatientID=HELDBACK", f"/dicom-web/studies/{STUDY}", "/dicom-web/studies/1.2.404"],
)
def test_an_answer_is_prepared_and_held_back_until_its_record_is_durable(house: House, path: str) -> None:
    with house.client("radiologist") as client, ThreadPoolExecutor(1) as asking:
        with house.audit._write_lock:  # as while a commit is synced
            answer = asking.submit(client.get, path)
            with pytest.raises(TimeoutError):
                answer.result(0.5)
        assert answer.result(60).status_code in (200, 204, 404)
        assert house.audit.newest(Wanted(), limit=1)[0].event.action in (Action.SEARCH, Action.EXPORT)


def test_names_with_markup_travel_as_text(house: House) -> None:
    found = outside_client(house).search_for_studies(search_filters={"PatientID": "P9"})
    assert Dataset.from_json(found[0]).PatientName == "<script>alert(1)</script>^X"


def test_a_transfer_syntax_with_line_breaks_makes_no_header(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        dataset = dcmread(BytesIO(pydicom_file("CT_small.dcm")))
        content = pydicom_file("CT_small.dcm").replace(
            b"1.2.840.10008.1.2.1\0", b"1.2\r\nSet-Cookie: a=b\0"[:20]
        )
        assert content != pydicom_file("CT_small.dcm")
        house.put(content)
        uid, series = dataset.SOPInstanceUID, dataset.SeriesInstanceUID
        with house.client("radiologist") as client:
            path = f"/dicom-web/studies/{STUDY}/series/{series}/instances/{uid}"
            answer = client.get(path, headers={"Accept": "application/dicom"})
        assert "set-cookie" not in answer.headers
        assert answer.headers["content-type"] == "application/dicom"
        assert answer.content == content


def test_one_record_stands_for_the_frames_of_a_series_and_a_list_that_stays_open(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        for number in range(4):
            house.put(pydicom_file("CT_small.dcm", SeriesInstanceUID="1.9", SOPInstanceUID=f"1.9.{number}"))
        house.put(pydicom_file("CT_small.dcm", SeriesInstanceUID="1.8", SOPInstanceUID="1.8.1"))

        def recorded(action: Action) -> int:
            return len(house.audit.newest(Wanted(action=action), limit=100))

        with house.client("doctor") as client:
            base = f"/dicom-web/studies/{STUDY}/series"
            for number in range(4):
                assert client.get(f"{base}/1.9/instances/1.9.{number}/frames/1").status_code == 200
            assert recorded(Action.VIEW) == 1
            event = house.audit.newest(Wanted(), limit=1)[0].event
            assert (event.series_instance_uid, event.sop_instance_uid) == ("1.9", None)
            client.get(f"{base}/1.8/instances/1.8.1/frames/1")
            client.get(f"{base}/1.8/instances/1.8.1/rendered")
            assert recorded(Action.VIEW) == 3
            with house.client("doctor-other") as other:  # a refusal each
                for _ in range(2):
                    assert other.get(f"{base}/1.9/instances/1.9.0/frames/1").status_code == 404
            assert recorded(Action.VIEW) == 5

            for _ in range(3):
                found = client.get("/dicom-web/studies").json()
            assert (len(found), recorded(Action.SEARCH)) == (1, 1)
            house.put(pydicom_file("MR_small.dcm", StudyInstanceUID="1.7", SeriesInstanceUID="1.7.1"))
            for _ in range(2):
                assert len(client.get("/dicom-web/studies").json()) == 2
            assert recorded(Action.SEARCH) == 2
            # The policy is asked each time: what is refused now is refused.
            house.doorkeeper.rules.add(
                "refusal", STUDY, "doctor", until_utc=None, reason="x", made_by="admin"
            )
            assert client.get(f"{base}/1.9/instances/1.9.0/frames/1").status_code == 404
            assert len(client.get("/dicom-web/studies").json()) == 1
            assert recorded(Action.SEARCH) == 3
