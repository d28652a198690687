"""C-ECHO and C-FIND by pynetdicom and by DCMTK, on a real archive."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import peewee
import pytest
from pydantic import ValidationError
from pydicom import Dataset
from pynetdicom import AE

from central.archive.archive import Archive
from central.audit.record import Action, Audit
from central.dimse.identifiers import PATIENT_ROOT_FIND, STUDY_ROOT_FIND, field_name
from central.dimse.server import DimseServer
from central.dimse.settings import DimseSettings, PeerSettings
from contract.settings import SettingsError, load_settings
from tests.central.access.house import ORIGIN, OTHER_STUDY, STUDY, pydicom_file
from tests.central.audit.notary import NOTARY
from tests.peers_installed import program

VERIFICATION = "1.2.840.10008.1.1"


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audit]:
    opened = Audit.open(tmp_path_factory.mktemp("audit") / "audit.sqlite3", NOTARY)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    root = tmp_path_factory.mktemp("archive")
    opened = Archive.open(root, peewee.SqliteDatabase(str(root / "central.sqlite3")))
    for study, name, patient in ((STUDY, "CT_small.dcm", "P1"), (OTHER_STUDY, "MR_small.dcm", "P1")):
        with opened.new_object() as sink:
            sink.write(
                pydicom_file(name, StudyInstanceUID=study, PatientID=patient, SeriesInstanceUID=f"{study}.1")
            )
            opened.index(sink.commit(), ORIGIN)
    return opened


@pytest.fixture(scope="module")
def server(archive: Archive, audit: Audit) -> Iterator[DimseServer]:
    settings = DimseSettings(port=0, peers=[PeerSettings(ae_title="PEER", address="127.0.0.1")])  # type: ignore[arg-type]
    opened = DimseServer(settings, archive, audit)
    opened.start()
    yield opened
    opened.stop()


def find(
    server: DimseServer, keys: dict[str, object], *, model: str = STUDY_ROOT_FIND, ae_title: str = "PEER"
) -> tuple[int, list[Dataset]]:
    """The final status and the identifiers of a C-FIND."""
    ae = AE(ae_title)
    ae.add_requested_context(model)
    assoc = ae.associate("127.0.0.1", server.port, ae_title="DICOMNET")
    assert assoc.is_established
    identifier = Dataset()
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    answers = list(assoc.send_c_find(identifier, model))
    assoc.release()
    return answers[-1][0].Status, [dataset for _, dataset in answers if dataset is not None]


def test_anyone_may_echo_but_not_under_another_name(server: DimseServer) -> None:
    ae = AE("STRANGER")
    ae.add_requested_context(VERIFICATION)
    assoc = ae.associate("127.0.0.1", server.port, ae_title="DICOMNET")
    assert assoc.send_c_echo().Status == 0
    assoc.release()
    assert ae.associate("127.0.0.1", server.port, ae_title="OTHER").is_rejected


def test_a_peer_finds_studies(server: DimseServer, audit: Audit) -> None:
    keys = {
        "QueryRetrieveLevel": "STUDY",
        "PatientName": "doe*",
        "StudyInstanceUID": "",
        "ModalitiesInStudy": "",
    }
    status, found = find(server, keys)
    assert status == 0
    assert {study.StudyInstanceUID for study in found} == {STUDY, OTHER_STUDY}
    assert {str(study.PatientName) for study in found} == {"Doe^Jané"}
    assert all("PatientID" not in study for study in found)  # only what was asked for
    event = audit.search(limit=1)[0].event
    assert (event.actor, event.actor_role, event.action, event.outcome) == (
        "PEER",
        "peer",
        Action.SEARCH,
        "success",
    )
    assert "PatientName=doe*" in event.detail


def test_levels_below(server: DimseServer) -> None:
    keys = {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": STUDY, "Modality": "", "SeriesNumber": None}
    _, [series] = find(server, keys)
    assert (series.SeriesInstanceUID, series.Modality) == (f"{STUDY}.1", "CT")
    keys = {
        "QueryRetrieveLevel": "IMAGE",
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": f"{STUDY}.1",
        "Rows": None,
    }
    _, [image] = find(server, keys)
    assert image.SOPInstanceUID
    assert image.Rows == 128
    assert image.RetrieveAETitle == "DICOMNET"


def test_a_patient_is_answered_once(server: DimseServer) -> None:
    keys = {"QueryRetrieveLevel": "PATIENT", "PatientID": "P1", "PatientName": "", "StudyDate": ""}
    status, [patient] = find(server, keys, model=PATIENT_ROOT_FIND)
    assert status == 0
    assert (patient.PatientID, patient.IssuerOfPatientID, patient.PatientName) == ("P1", "HOSP", "Doe^Jané")
    assert "StudyDate" not in patient


@pytest.mark.parametrize(
    ("keys", "model"),
    [
        ({"PatientID": "P1"}, STUDY_ROOT_FIND),
        ({"QueryRetrieveLevel": "PATIENT", "PatientID": "P1"}, STUDY_ROOT_FIND),
        ({"QueryRetrieveLevel": "SERIES", "Modality": "CT"}, STUDY_ROOT_FIND),
        ({"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": STUDY}, PATIENT_ROOT_FIND),
        ({"QueryRetrieveLevel": "STUDY", "StudyDate": "20260199-2026-01"}, STUDY_ROOT_FIND),
    ],
)
def test_identifiers_that_do_not_fit(server: DimseServer, keys: dict[str, object], model: str) -> None:
    assert find(server, keys, model=model) == (0xA900, [])


def test_a_stranger_finds_nothing_and_is_recorded(server: DimseServer, audit: Audit) -> None:
    keys = {"QueryRetrieveLevel": "STUDY", "PatientName": "*"}
    assert find(server, keys, ae_title="STRANGER") == (0x0124, [])
    event = audit.search(limit=1)[0].event
    assert (event.actor, event.outcome, event.source_address) == ("STRANGER", "refused", "127.0.0.1")


def test_a_peers_title_from_another_address_is_a_stranger(archive: Archive, audit: Audit) -> None:
    settings = DimseSettings(port=0, peers=[PeerSettings(ae_title="PEER", address="192.0.2.1")])  # type: ignore[arg-type]
    server = DimseServer(settings, archive, audit)
    server.start()
    try:
        assert find(server, {"QueryRetrieveLevel": "STUDY"}) == (0x0124, [])
    finally:
        server.stop()


def test_without_a_record_no_answer(archive: Archive, tmp_path: Path) -> None:
    closed = Audit.open(tmp_path / "audit.sqlite3", NOTARY)
    closed.close()
    settings = DimseSettings(port=0, peers=[PeerSettings(ae_title="PEER", address="127.0.0.1")])  # type: ignore[arg-type]
    server = DimseServer(settings, archive, closed)
    server.start()
    try:
        assert find(server, {"QueryRetrieveLevel": "STUDY"}) == (0xC000, [])
    finally:
        server.stop()


@pytest.mark.needs("dcmtk")
def test_dcmtk_as_the_other_side(server: DimseServer) -> None:
    to = ["-aec", "DICOMNET", "127.0.0.1", str(server.port)]
    assert subprocess.run([str(program("echoscu")), "-aet", "ANYONE", *to], check=False).returncode == 0
    query = ["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID", "-k", "PatientID=P1"]
    found = subprocess.run(
        [str(program("findscu")), "-aet", "PEER", *query, *to], check=True, capture_output=True, text=True
    )
    assert STUDY in found.stdout + found.stderr
    refused = subprocess.run(
        [str(program("findscu")), "-v", "-aet", "X", *query, *to], check=False, capture_output=True, text=True
    )
    assert STUDY not in refused.stdout + refused.stderr


def test_field_names() -> None:
    names = ("SOPInstanceUID", "StudyID", "NumberOfStudyRelatedInstances", "IssuerOfPatientID", "Rows")
    assert [field_name(name) for name in names] == [
        "sop_instance_uid",
        "study_id",
        "number_of_study_related_instances",
        "issuer_of_patient_id",
        "rows",
    ]


def test_settings_read_peers_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "dicom.toml"
    path.write_text('ae_title = " PACS "\n[[peers]]\nae_title = "WS1"\naddress = "10.0.0.5"\n')
    settings = load_settings(DimseSettings, path, {})
    assert (settings.ae_title, settings.peers[0].ae_title, str(settings.peers[0].address)) == (
        "PACS",
        "WS1",
        "10.0.0.5",
    )
    path.write_text('ae_title = "A TITLE THAT IS TOO LONG"\n')
    with pytest.raises(SettingsError, match="16 characters"):
        load_settings(DimseSettings, path, {})
    with pytest.raises(ValidationError):
        PeerSettings(ae_title="X", address="not an address")  # type: ignore[arg-type]
