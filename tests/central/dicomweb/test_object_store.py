"""What a client of DICOMweb sees when the object store is away, or returns something else than was archived."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import obstore
import pytest

from central.archive.object_names import name_of
from tests.central.access.house import STUDY, House, open_house, pydicom_file
from tests.central.databases import change_object, storage
from tests.seaweed import S3Server, s3_server

SERIES = "1.2.6"
PATHS = [
    f"/dicom-web/studies/{STUDY}",
    f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1",
    f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1/frames/1",
    f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1/rendered?window=40,400",  # which is not kept
    f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.1/bulkdata/7FE00010",
]


@pytest.fixture
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def house(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("DICOMNET_TEST_OBJECTS", "s3")
    monkeypatch.setattr("tests.central.databases._s3", lambda: server)
    with open_house(tmp_path) as opened:
        opened.put(CONTENT)
        for copy in (tmp_path / "objects-at-hand").glob("??"):
            shutil.rmtree(copy)  # nothing is at hand, as at another central
        yield opened


CONTENT = pydicom_file("MR_small.dcm", SeriesInstanceUID=SERIES, SOPInstanceUID=f"{SERIES}.1")


def get(house: House, path: str) -> httpx.Response:
    with house.client("radiologist") as client:
        return client.get(path, headers={"Accept": "*/*"})


@pytest.mark.parametrize("path", PATHS)
def test_what_comes_from_the_store_is_served(house: House, path: str) -> None:
    assert get(house, path).status_code == 200


def test_while_the_store_is_away_that_is_said_and_then_it_goes_on(house: House, server: S3Server) -> None:
    server.stop()
    for path in PATHS:
        answer = get(house, path)
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert "Retry-After" in answer.headers
        assert server.endpoint not in answer.text
    server.start()
    for path in PATHS:
        assert get(house, path).status_code == 200


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "other bytes"])
def test_a_damaged_object_is_an_error_and_nothing_of_it_is_shown(
    house: House, server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, lost: bool
) -> None:
    s3, sha256 = storage(tmp_path).s3, name_of(house.db, hashlib.sha256(CONTENT).hexdigest())
    name = f"{s3.prefix}{sha256[:2]}/{sha256[2:4]}/{sha256}.dcm"
    if lost:
        obstore.delete(server.bucket(s3.bucket), name)
    else:
        obstore.put(server.bucket(s3.bucket), name, CONTENT[:-1] + b"\xff")
    for path in PATHS:
        answer = get(house, path)
        assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
        assert "damaged" in answer.json()["detail"]
    assert sha256 in caplog.text


def test_an_encrypted_object_that_the_disk_changed_is_an_error_in_central_and_in_its_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMNET_TEST_OBJECTS", "files")
    monkeypatch.setenv("DICOMNET_TEST_AT_REST", "encrypted")
    monkeypatch.setattr("central.archive.opening._SAMPLED", 0.0)  # else one in 64 looks finds it at once
    with open_house(tmp_path) as house:
        house.put(CONTENT)
        assert [get(house, path).status_code for path in PATHS] == [200] * len(PATHS)
        name = name_of(house.db, hashlib.sha256(CONTENT).hexdigest())
        change_object(tmp_path, name, lambda kept: kept[:40] + bytes([kept[40] ^ 1]) + kept[41:])
        for path in PATHS[2:]:
            answer = get(house, path)
            assert (answer.status_code, "damaged" in answer.text) == (500, True), path
        assert [get(house, path).status_code for path in PATHS[:2]] == [500, 500]
        monkeypatch.setattr("central.dicomweb.multipart.CHUNK_BYTES", 1)  # as if they were long
        for path in PATHS[:2]:  # these have begun when it is noticed: they break off
            with pytest.raises(httpx.RemoteProtocolError):
                get(house, path)
        change_object(tmp_path, name, lambda kept: kept[:-1])  # this shows when it is opened
        assert get(house, PATHS[3]).status_code == 500
