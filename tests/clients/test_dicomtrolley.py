"""dicomtrolley, with which researchers collect studies: what it finds and downloads is what is archived."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import pytest
import requests
from dicomtrolley.core import Downloader, Query, QueryLevels, Searcher, StudyReference
from dicomtrolley.dicom_qr import DICOMQR
from dicomtrolley.exceptions import DICOMTrolleyError
from dicomtrolley.qido_rs import QidoRS, RelationalQuery
from dicomtrolley.trolley import Trolley
from dicomtrolley.wado_rs import WadoRS, WadoRSMetaData
from dicomtrolley.wado_uri import WadoURI

from central.access.policy import Action
from tests.clients.house import OTHER_STUDY, STUDY, Served, central_with_studies

QR_PEER = {"ae_title": "DICOMTROLLEY", "address": "127.0.0.1", "may": ["query"]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    dicom = {"enabled": True, "port": 0, "peers": [QR_PEER]}
    with central_with_studies(tmp_path_factory.mktemp("central"), dicom=dicom) as opened:
        yield opened


@pytest.fixture(scope="module")
def session(served: Served) -> Iterator[requests.Session]:
    with requests.Session() as opened:
        token = served.api_token("radiologist", Action.SEARCH, Action.VIEW, Action.EXPORT)
        opened.headers["Authorization"] = f"Bearer {token}"
        yield opened


@pytest.fixture(params=["QIDO-RS", "C-FIND"])
def searcher(request: pytest.FixtureRequest, served: Served, session: requests.Session) -> Searcher:
    if request.param == "QIDO-RS":
        return QidoRS(session, f"{served.url}/dicom-web")
    return DICOMQR("127.0.0.1", served.dicom_port, aec="DICOMNET")


@pytest.fixture(params=["WADO-RS", "WADO-RS whole", "WADO-URI"])
def downloader(request: pytest.FixtureRequest, served: Served, session: requests.Session) -> Downloader:
    url = f"{served.url}/dicom-web"
    if request.param == "WADO-URI":
        return WadoURI(session, f"{url}/wado")
    return WadoRS(session, url, request_per_series=request.param == "WADO-RS")


def test_it_finds_what_is_there(searcher: Searcher) -> None:
    everything = searcher.find_studies(Query())
    assert {study.uid for study in everything} == {STUDY, OTHER_STUDY}
    day = datetime(2026, 1, 2)  # noqa: DTZ001  # DICOM's dates have no zone
    [newest] = searcher.find_studies(Query(min_study_date=day, max_study_date=day, PatientID="P1"))
    assert newest.uid == STUDY
    [whole] = searcher.find_studies(Query(StudyInstanceUID=STUDY, query_level=QueryLevels.INSTANCE))
    assert {(series.uid, instance.uid) for series in whole.series for instance in series.instances} == {
        (f"1.2.9.{number}", f"1.2.9.{number}.1") for number in range(4)
    }
    assert list(searcher.find_studies(Query(PatientID="NOBODY"))) == []


def test_what_it_downloads_is_what_is_archived(
    served: Served, searcher: Searcher, downloader: Downloader
) -> None:
    trolley = Trolley(downloader, searcher)
    got = {ds.SOPInstanceUID: ds for ds in trolley.fetch_all_datasets([StudyReference(study_uid=STUDY)])}
    archived = served.data_sets(STUDY)
    assert got == archived
    for uid, ds in got.items():
        assert ds.file_meta == archived[uid].file_meta
        assert ds.get("PixelData") == archived[uid].get("PixelData")


def test_metadata_and_a_relational_search(served: Served, session: requests.Session) -> None:
    url = f"{served.url}/dicom-web"
    metadata = list(WadoRSMetaData(session, url).datasets([StudyReference(study_uid=STUDY)]))
    assert {ds.SOPInstanceUID: ds.PatientName for ds in metadata} == {
        uid: ds.PatientName for uid, ds in served.data_sets(STUDY).items()
    }
    found = QidoRS(session, url).find_studies(RelationalQuery(PatientID="P1", query_level=QueryLevels.SERIES))
    assert [len(study.series) for study in found] == [4]


def test_who_may_not_is_told(served: Served, session: requests.Session) -> None:
    with requests.Session() as nobody:
        with pytest.raises(DICOMTrolleyError, match="401"):
            QidoRS(nobody, f"{served.url}/dicom-web").find_studies(Query())
        with pytest.raises(DICOMTrolleyError, match="401"):
            list(
                WadoRS(nobody, f"{served.url}/dicom-web", request_per_series=False).datasets(
                    [StudyReference(study_uid=STUDY)]
                )
            )
    with pytest.raises(DICOMTrolleyError, match="rejected"):
        DICOMQR("127.0.0.1", served.dicom_port, aet="STRANGER", aec="DICOMNET").find_studies(Query())
