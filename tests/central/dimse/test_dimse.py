"""C-ECHO and C-FIND by pynetdicom and by DCMTK, on a real archive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from central.access.policy import Scope
from central.audit.events import Action
from central.audit.reading import Wanted
from central.dimse.association import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from central.dimse.find import Query
from central.dimse.identifiers import Find, Row, field_name
from central.dimse.settings import DimseSettings, PeerSettings
from central.dimse.worklist import MODALITY_WORKLIST_FIND
from contract.settings import SettingsError, load_settings
from tests.central.access.house import OTHER_STUDY, STUDY, pydicom_file
from tests.central.dimse.house import House, dcmtk, identifier, open_house

VERIFICATION = "1.2.840.10008.1.1"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("central")) as opened:
        for study, name in ((STUDY, "CT_small.dcm"), (OTHER_STUDY, "MR_small.dcm")):
            opened.put(pydicom_file(name, StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1"))
        yield opened


def find(house: House, keys: dict[str, object], *, model: str = STUDY_ROOT_FIND) -> tuple[int, list[Dataset]]:
    return house.find(keys, model)


def test_anyone_may_echo_but_not_under_another_name(house: House) -> None:
    ae = AE("STRANGER")
    ae.add_requested_context(VERIFICATION)
    assoc = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET")
    assert assoc.send_c_echo().Status == 0
    assoc.release()
    assert not ae.associate("127.0.0.1", house.port, ae_title="OTHER").is_established


def test_a_peer_finds_studies(house: House) -> None:
    keys = {
        "QueryRetrieveLevel": "STUDY",
        "PatientName": "doe*",
        "StudyInstanceUID": "",
        "ModalitiesInStudy": "",
    }
    status, found = find(house, keys)
    assert status == 0
    assert {study.StudyInstanceUID for study in found} == {STUDY, OTHER_STUDY}
    assert {str(study.PatientName) for study in found} == {"Doe^Jané"}
    assert all("PatientID" not in study for study in found)  # only what was asked for
    event = house.audit.newest(Wanted(), limit=1)[0].event
    assert (event.actor, event.actor_role, event.action, event.outcome) == (
        "PEER",
        "peer",
        Action.SEARCH,
        "success",
    )
    assert "PatientName=doe*" in event.detail


def test_levels_below(house: House) -> None:
    keys = {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": STUDY, "Modality": "", "SeriesNumber": None}
    _, [series] = find(house, keys)
    assert (series.SeriesInstanceUID, series.Modality) == (f"{STUDY}.1", "CT")
    keys = {
        "QueryRetrieveLevel": "IMAGE",
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": f"{STUDY}.1",
        "Rows": None,
    }
    _, [image] = find(house, keys)
    assert image.SOPInstanceUID
    assert image.Rows == 128
    assert image.RetrieveAETitle == "DICOMNET"


@pytest.mark.parametrize(
    ("keys", "pending"),
    [
        ({"QueryRetrieveLevel": "STUDY", "PatientName": "doe*", "StudyInstanceUID": STUDY}, 0xFF00),
        ({"QueryRetrieveLevel": "STUDY", "PatientBirthDate": "", "StudyInstanceUID": STUDY}, 0xFF00),
        ({"QueryRetrieveLevel": "STUDY", "PatientSex": "F", "StudyInstanceUID": STUDY}, 0xFF01),
        ({"QueryRetrieveLevel": "STUDY", "Modality": "XX", "StudyInstanceUID": STUDY}, 0xFF01),
        ({"QueryRetrieveLevel": "STUDY", "PatientWeight": None, "StudyInstanceUID": STUDY}, 0xFF01),
        ({"QueryRetrieveLevel": "SERIES", "Modality": "C*", "StudyInstanceUID": STUDY}, 0xFF00),
        ({"QueryRetrieveLevel": "IMAGE", "Rows": None, "StudyInstanceUID": STUDY}, 0xFF00),
        ({"QueryRetrieveLevel": "IMAGE", "Rows": 1, "StudyInstanceUID": STUDY}, 0xFF01),
    ],
)
def test_an_optional_key_that_is_not_supported_is_said(
    house: House, keys: dict[str, object], pending: int
) -> None:
    ae = AE("PEER")
    ae.add_requested_context(STUDY_ROOT_FIND)
    assoc = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET")
    answers = [status.Status for status, _ in assoc.send_c_find(identifier(keys), STUDY_ROOT_FIND)]
    assoc.release()
    assert answers == [pending, 0]


@pytest.mark.parametrize(
    ("tag", "vr"),
    [
        (0x7FE00010, "OW"),
        (0x60003000, "OW"),
        (0x00420011, "OB"),
        (0x00281201, "OW"),
        (0x00280106, "US"),
        (0x00020010, "UI"),
    ],
)
def test_what_no_search_knows_may_be_asked_for(house: House, tag: int, vr: str) -> None:
    asked = identifier({"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": STUDY, "SOPInstanceUID": ""})
    asked.add_new(tag, vr, None)
    ae = AE("PEER")
    ae.add_requested_context(STUDY_ROOT_FIND)
    assoc = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET")
    answers = list(assoc.send_c_find(asked, STUDY_ROOT_FIND))
    assoc.release()
    assert [status.Status for status, _ in answers] == [0xFF01, 0]
    assert answers[0][1] is not None
    assert answers[0][1].SOPInstanceUID


def test_zero_is_a_number_to_match(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        for number in (0, 1):
            house.put(
                pydicom_file(
                    "CT_small.dcm", SeriesInstanceUID=f"1.2.{number}", SOPInstanceUID=f"1.2.{number}.9",
                    SeriesNumber=number, InstanceNumber=number,
                )
            )  # fmt: skip
        for level, key in (("SERIES", "SeriesNumber"), ("IMAGE", "InstanceNumber")):
            _, found = find(house, {"QueryRetrieveLevel": level, "StudyInstanceUID": STUDY, key: 0})
            assert [one[key].value for one in found] == [0]


def test_a_patient_is_answered_once(house: House) -> None:
    keys = {"QueryRetrieveLevel": "PATIENT", "PatientID": "P1", "PatientName": "", "StudyDate": ""}
    status, [patient] = find(house, keys, model=PATIENT_ROOT_FIND)
    assert status == 0
    assert (patient.PatientID, patient.IssuerOfPatientID, patient.PatientName) == ("P1", "HOSP", "Doe^Jané")
    assert "StudyDate" not in patient


@pytest.mark.parametrize(
    ("keys", "model"),
    [
        ({"PatientID": "P1"}, STUDY_ROOT_FIND),
        ({"QueryRetrieveLevel": "PATIENT", "PatientID": "P1"}, STUDY_ROOT_FIND),
        ({"QueryRetrieveLevel": "SERIES", "Modality": "CT"}, STUDY_ROOT_FIND),
        ({"QueryRetrieveLevel": "IMAGE", "SeriesInstanceUID": "1.2"}, PATIENT_ROOT_FIND),
        ({"QueryRetrieveLevel": "STUDY", "StudyDate": "20260199-2026-01"}, STUDY_ROOT_FIND),
    ],
)
def test_identifiers_that_do_not_fit(house: House, keys: dict[str, object], model: str) -> None:
    assert find(house, keys, model=model) == (0xA900, [])


def rejected(house: House, ae_title: str, *contexts: str) -> bool:
    ae = AE(ae_title)
    for context in contexts:
        ae.add_requested_context(context)
    assoc = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET")
    was_established = bool(assoc.is_established)
    if was_established:
        assoc.release()
    return not was_established


@pytest.mark.parametrize("model", [STUDY_ROOT_FIND, MODALITY_WORKLIST_FIND])
def test_a_question_of_thousands_of_items_is_not_taken_apart(house: House, model: str) -> None:
    keys = {"QueryRetrieveLevel": "STUDY", "ReferencedImageSequence": [Dataset() for _ in range(20_000)]}
    ae = AE("PEER")
    ae.add_requested_context(model)
    assoc = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET")
    assert not any("Status" in status for status, _ in assoc.send_c_find(identifier(keys), UID(model)))
    assert find(house, {"QueryRetrieveLevel": "STUDY"})[0] == 0, "others are served"


def test_a_stranger_is_rejected_and_recorded(house: House) -> None:
    assert rejected(house, "STRANGER", STUDY_ROOT_FIND)
    event = house.audit.newest(Wanted(), limit=1)[0].event
    assert (event.actor, event.action, event.outcome, event.source_address) == (
        "STRANGER",
        Action.ASSOCIATION_REFUSED,
        "refused",
        "127.0.0.1",
    )
    assert "no peer of this AE title" in event.detail


def test_a_peers_title_from_another_address_is_a_stranger(tmp_path: Path) -> None:
    with open_house(tmp_path, peers=[{"ae_title": "PEER", "address": "192.0.2.0/24"}]) as house:
        assert rejected(house, "PEER", STUDY_ROOT_FIND)
        assert "another address" in house.audit.newest(Wanted(), limit=1)[0].event.detail


def test_without_a_record_no_answer(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.audit.close()
        assert find(house, {"QueryRetrieveLevel": "STUDY"}) == (0xC000, [])


def test_keys_that_the_record_cannot_hold_are_not_searched_for(house: House) -> None:
    keys = {"QueryRetrieveLevel": "STUDY", "PatientComments": "x" * 9000, "PatientName": "Doe*"}
    assert find(house, keys) == (0xA700, [])
    (refused,) = house.audit.newest(Wanted(action=Action.SEARCH), limit=1)
    assert (refused.event.outcome, refused.event.detail.startswith("C-FIND ")) == ("refused", True)


def test_more_than_may_be_answered_is_said(tmp_path: Path) -> None:
    with open_house(tmp_path, max_matches=1) as house:
        for number in (1, 2):
            house.put(
                pydicom_file("CT_small.dcm", StudyInstanceUID=f"1.2.{number}", SOPInstanceUID=f"1.3.{number}")
            )
        status, found = find(house, {"QueryRetrieveLevel": "STUDY"})
        assert (status, len(found)) == (0xA700, 1)


@pytest.mark.parametrize(
    "keys", [{"QueryRetrieveLevel": "STUDY"}, {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": "1.2.1"}]
)
def test_what_arrives_during_a_long_answer_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, object]
) -> None:
    monkeypatch.setattr("central.dimse.find.PAGE_ROWS", 2)
    with open_house(tmp_path) as house:

        def put(study: str, number: int, day: str) -> None:
            uids = {"StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.1"}
            content = pydicom_file(
                "CT_small.dcm",
                SOPInstanceUID=f"{study}.2.{number}",
                InstanceNumber=number,
                StudyDate=day,
                **uids,
            )
            house.put(content)

        for number in range(1, 6):
            put("1.2.1", number, "20260101")
            put(f"1.2.1.{number}", 1, "20260101")
        really_page = Query._page

        def page(self: Query, asked: Find, scope: Scope, offset: int) -> list[Row]:
            if offset == 2:
                put("1.2.9", 1, "20260201")
                put("1.2.1", 0, "20260101")
            return really_page(self, asked, scope, offset)

        monkeypatch.setattr(Query, "_page", page)
        status, found = find(house, {**keys, "SOPInstanceUID": ""})
        assert status == 0
        answered = [str(one.get("SOPInstanceUID") or one.StudyInstanceUID) for one in found]
        assert len(answered) == len(set(answered)) == (6 if keys["QueryRetrieveLevel"] == "STUDY" else 5)


@pytest.mark.parametrize("model", [STUDY_ROOT_FIND, PATIENT_ROOT_FIND])
def test_the_images_of_a_study_are_found_without_their_series(house: House, model: str) -> None:
    keys = {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": STUDY, "SeriesInstanceUID": ""}
    status, found = find(house, keys, model=model)
    assert status == 0
    assert found
    assert {image.StudyInstanceUID for image in found} == {STUDY}
    assert all(image.SeriesInstanceUID and image.SOPInstanceUID for image in found)


def test_relational_queries_where_they_were_agreed(house: House) -> None:
    ae = AE("PEER")
    ae.add_requested_context(PATIENT_ROOT_FIND)
    relational = SOPClassExtendedNegotiation()
    relational.sop_class_uid = UID(PATIENT_ROOT_FIND)
    relational.service_class_application_information = b"\x01\x01\x01"
    assoc = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET", ext_neg=[relational])
    assert assoc.acceptor.sop_class_extended == {PATIENT_ROOT_FIND: b"\x01"}
    keys = identifier({"QueryRetrieveLevel": "IMAGE", "Modality": "CT", "PatientName": "doe*"})
    answers = list(assoc.send_c_find(keys, PATIENT_ROOT_FIND))
    assoc.release()
    assert [status.Status for status, _ in answers] == [0xFF00, 0]
    assert answers[0][1].StudyInstanceUID == STUDY


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("ISO_IR 100", "ISO_IR 100"),
        ("ISO_IR 101", "ISO_IR 101"),
        ("ISO_IR 13", "ISO_IR 192"),
        ("", "ISO_IR 192"),
    ],
)
def test_answers_in_the_character_set_of_the_question(house: House, asked: str, answered: str) -> None:
    keys = {"SpecificCharacterSet": asked, "QueryRetrieveLevel": "STUDY", "PatientName": "DOE^JAN*"}
    status, found = find(house, keys)
    assert (status, len(found)) == (0, 2)
    assert {(one.SpecificCharacterSet, str(one.PatientName)) for one in found} == {(answered, "Doe^Jané")}


def test_a_name_is_asked_for_in_the_questions_character_set(house: House) -> None:
    keys = {"SpecificCharacterSet": "ISO_IR 100", "QueryRetrieveLevel": "STUDY", "PatientName": "DOE^JANÉ"}
    assert len(find(house, keys)[1]) == 2
    keys["PatientName"] = "DOE^JANU"
    assert find(house, keys) == (0, [])


@pytest.mark.needs("dcmtk")
def test_dcmtk_as_the_other_side(house: House) -> None:
    to = ("-aec", "DICOMNET", "127.0.0.1", house.port)
    assert dcmtk("echoscu", "-aet", "ANYONE", *to).returncode == 0
    query = ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID", "-k", "PatientID=P1")
    found = dcmtk("findscu", "-aet", "PEER", *query, *to)
    assert STUDY in found.stdout + found.stderr
    refused = dcmtk("findscu", "-v", "-aet", "X", *query, *to)
    assert refused.returncode != 0
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
        "10.0.0.5/32",
    )
    path.write_text('ae_title = "A TITLE THAT IS TOO LONG"\n')
    with pytest.raises(SettingsError, match="16 characters"):
        load_settings(DimseSettings, path, {})
    with pytest.raises(ValidationError):
        PeerSettings(ae_title="X", address="not an address")  # type: ignore[arg-type]
