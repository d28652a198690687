"""Two institutions in one central: what one holds changes nothing of what the other is answered, unless it is agreed.

North sends the Study Instance UID that is here, too, with another patient's images; and one file that is here, too.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pydicom import dcmread

from central.access.policy import Role, Sharing
from central.archive.indexing import ObjectOrigin
from tests.central.access.house import (
    OTHER_STUDY,
    PASSWORD,
    STUDY,
    House,
    open_house,
    pydicom_file,
)

NORTH_STUDY = "1.2.826.0.1.3680043.8.498.3"
NOWHERE = "1.2.826.0.1.3680043.8.498.4"
NORTH = ObjectOrigin("gw-north", "1" * 32, datetime.now(UTC), "north")
CT = pydicom_file("CT_small.dcm", AccessionNumber="A1")
IN_BOTH = pydicom_file("CT_small.dcm", StudyInstanceUID=OTHER_STUDY, SOPInstanceUID="1.2.3.9", PatientID="P2")
SECRET = {"PatientID": "P1", "PatientName": "Secret^North", "AccessionNumber": "A1"}
NORTH_MR = pydicom_file("MR_small.dcm", **SECRET)
NORTH_CT = pydicom_file(
    "CT_small.dcm",
    StudyInstanceUID=NORTH_STUDY,
    SOPInstanceUID="1.2.3.7",
    **{**SECRET, "AccessionNumber": "N1"},
)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        opened.accounts.create_user("here-admin", PASSWORD, Role.ADMIN, institution="default")
        opened.doorkeeper.institutions.add("north", "North Clinic")
        for content in (CT, IN_BOTH):
            opened.put(content)
        yield opened


def north_sends(house: House) -> None:
    for content in (NORTH_MR, IN_BOTH, NORTH_CT):
        house.put(content, NORTH)


def get(house: House, who: str, path: str, **accept: str) -> httpx.Response:
    with house.client(who) as client:
        return client.get(path, headers=accept)


def uids_of(answer: httpx.Response) -> list[str]:
    return sorted(row["0020000D"]["Value"][0] for row in (answer.json() if answer.content else []))


HELD = ((CT, STUDY), (IN_BOTH, OTHER_STUDY), (NORTH_MR, STUDY), (NORTH_CT, NORTH_STUDY))


def paths(held: Sequence[tuple[bytes, str]] = HELD) -> list[str]:
    """Every kind of question about every study, also of those that are not here."""
    found = [
        f"/dicom-web/{level}{query}"
        for level in ("studies", "series", "instances")
        for query in (
            "",
            "?limit=1",
            "?limit=1&offset=1",
            "?limit=1&offset=2",
            "?PatientID=P1",
            "?includefield=all",
        )
    ]
    found += [
        f"/dicom-web/studies?{key}"
        for key in ("AccessionNumber=N1", "PatientName=Secret*", "ModalitiesInStudy=MR")
    ]
    for content, study in held:
        ds = dcmread(BytesIO(content))
        series = f"/dicom-web/studies/{study}/series/{ds.SeriesInstanceUID}"
        instance = f"{series}/instances/{ds.SOPInstanceUID}"
        found += [
            f"/dicom-web/studies/{study}{end}"
            for end in ("", "/metadata", "/series", "/instances", "/thumbnail", "/bulkdata")
        ]
        found += [f"{series}{end}" for end in ("", "/metadata", "/instances", "/thumbnail", "/bulkdata")]
        found += [
            f"{instance}{end}"
            for end in (
                "",
                "/metadata",
                "/thumbnail",
                "/frames/1",
                "/bulkdata",
                "/bulkdata/7FE00010",
                "/frames/1/rendered",
            )
        ]
        found.append(
            f"/dicom-web/wado?requestType=WADO&studyUID={study}&seriesUID={ds.SeriesInstanceUID}"
            f"&objectUID={ds.SOPInstanceUID}"
        )
    return found


def answers(house: House, who: str, held: Sequence[tuple[bytes, str]]) -> dict[str, tuple[int, str, bytes]]:
    """What each question is answered, but for the boundary, which is new each time."""
    found = {}
    with house.client(who) as client:
        for path in paths(held):
            answer = client.get(path)
            kind = answer.headers.get("content-type", "")
            boundary = re.search(r'boundary="?([^";]+)', kind)
            body = answer.content.replace(boundary[1].encode(), b"") if boundary else answer.content
            found[path] = (answer.status_code, kind.partition("boundary")[0], body)
    return found


def test_what_one_institution_holds_changes_no_answer_of_the_other(house: House) -> None:
    asked = {"radiologist": HELD, "patient": HELD[:1], "technician": HELD[2:3], "here-admin": ()}
    before = {who: answers(house, who, held) for who, held in asked.items()}
    assert sum(status == 200 for status, _, _ in before["radiologist"].values()) > 40
    north_sends(house)
    for who, held in asked.items():
        assert answers(house, who, held) == before[who], who
    # And what is another's looks as what is nowhere.
    for path in (path for path in paths() if NORTH_STUDY in path):
        there, nowhere = (
            get(house, "radiologist", one) for one in (path, path.replace(NORTH_STUDY, NOWHERE))
        )
        assert (there.status_code, there.text) == (nowhere.status_code, nowhere.text)


def test_each_has_its_own_of_one_study_instance_uid(house: House) -> None:
    north_sends(house)
    for who, patient, instances in (("radiologist", "Doe^Jané", 1), ("north-radiologist", "Secret^North", 1)):
        rows = get(house, who, f"/dicom-web/studies?StudyInstanceUID={STUDY}").json()
        assert [row["00100010"]["Value"][0]["Alphabetic"] for row in rows] == [patient]
        assert rows[0]["00201208"]["Value"] == [instances]
        (metadata,) = get(house, who, f"/dicom-web/studies/{STUDY}/metadata").json()
        assert metadata["00100010"]["Value"][0]["Alphabetic"] == patient
    assert uids_of(get(house, "north-radiologist", "/dicom-web/studies")) == [STUDY, OTHER_STUDY, NORTH_STUDY]
    assert uids_of(get(house, "radiologist", "/dicom-web/studies")) == [STUDY, OTHER_STUDY]
    # The patient's number is that of the clinic, and north's doctor of the same name is another one.
    assert uids_of(get(house, "patient", "/dicom-web/studies")) == [STUDY]
    assert uids_of(get(house, "north-doctor", "/dicom-web/studies")) == [STUDY, OTHER_STUDY, NORTH_STUDY]


def test_radiologists_read_for_another_institution_as_long_as_it_is_agreed(house: House) -> None:
    north_sends(house)
    agreed = agree(house, Sharing.READING)
    found = get(house, "radiologist", "/dicom-web/studies")
    # A study that both hold is listed as each holds it, and opened as what both have, the own first.
    assert uids_of(found) == [STUDY, STUDY, OTHER_STUDY, OTHER_STUDY, NORTH_STUDY]
    assert [
        uids_of(get(house, "radiologist", f"/dicom-web/studies?limit=2&offset={at}")) for at in (0, 2, 4)
    ] == [sorted(row["0020000D"]["Value"][0] for row in found.json()[at : at + 2]) for at in (0, 2, 4)]
    names = [
        row["00100010"]["Value"][0]["Alphabetic"]
        for row in get(house, "radiologist", f"/dicom-web/studies/{STUDY}/metadata").json()
    ]
    assert sorted(names) == ["Doe^Jané", "Secret^North"]
    assert len(get(house, "radiologist", f"/dicom-web/studies/{OTHER_STUDY}/metadata").json()) == 1
    assert get(house, "radiologist", f"/dicom-web/studies/{NORTH_STUDY}").status_code == 200
    assert uids_of(get(house, "north-radiologist", "/dicom-web/studies")) == [STUDY, OTHER_STUDY, NORTH_STUDY]
    assert uids_of(get(house, "doctor", "/dicom-web/studies")) == [STUDY, OTHER_STUDY]
    # What is opened for reading is not passed on.
    assert post(house, "radiologist", "/api/guest-links", study_instance_uid=NORTH_STUDY).status_code == 404
    assert post(house, "radiologist", "/api/study-rules", **grant(NORTH_STUDY, "doctor")).status_code == 404
    assert house.doorkeeper.institutions.end(agreed)
    assert get(house, "radiologist", f"/dicom-web/studies/{NORTH_STUDY}/metadata").status_code == 404
    assert uids_of(get(house, "radiologist", "/dicom-web/studies")) == [STUDY, OTHER_STUDY]


def test_a_zip_holds_what_the_institution_has_and_what_is_agreed(house: House) -> None:
    north_sends(house)

    def zipped(who: str, study: str) -> tuple[list[bytes], str]:
        """The files, and whom the DICOMDIR says they are of."""
        answer = get(house, who, f"/dicom-web/studies/{study}", Accept="application/zip")
        assert answer.status_code == 200
        with zipfile.ZipFile(BytesIO(answer.content)) as files:
            names = [name for name in files.namelist() if name != "DICOMDIR"]
            patient = dcmread(BytesIO(files.read("DICOMDIR"))).DirectoryRecordSequence[0]
            return sorted(files.read(name) for name in names), str(patient.PatientName)

    assert zipped("radiologist", STUDY) == ([CT], "Doe^Jané")
    assert zipped("north-radiologist", STUDY) == ([NORTH_MR], "Secret^North")
    away = get(house, "radiologist", f"/dicom-web/studies/{NORTH_STUDY}", Accept="application/zip")
    assert away.status_code == 404
    agree(house, Sharing.READING)
    assert zipped("radiologist", STUDY) == (sorted([CT, NORTH_MR]), "Doe^Jané")
    assert zipped("radiologist", OTHER_STUDY)[0] == [IN_BOTH]
    whole = get(house, "radiologist", f"/dicom-web/studies/{OTHER_STUDY}/bulkdata")
    assert whole.content.count(b"Content-Location") == 1


def test_a_patient_finds_studies_elsewhere_only_by_an_identifier_that_has_an_issuer(house: House) -> None:
    house.put(pydicom_file("MR_small.dcm", StudyInstanceUID=NORTH_STUDY, IssuerOfPatientID=""), NORTH)
    house.put(pydicom_file("CT_small.dcm", StudyInstanceUID=NOWHERE, SOPInstanceUID="1.2.3.5"), NORTH)
    assert uids_of(get(house, "patient", "/dicom-web/studies")) == [STUDY]
    agree(house, Sharing.PATIENTS)
    assert uids_of(get(house, "patient", "/dicom-web/studies")) == [STUDY, NOWHERE]


def test_an_emergency_is_of_the_own_institution_unless_agreed(house: House) -> None:
    north_sends(house)
    asked: dict[str, Any] = {"study_instance_uid": NORTH_STUDY, "reason": "unconscious, no history"}
    by_number = {"accession_number": "N1", "reason": "unconscious, no history"}
    for wish in (asked, by_number):
        assert post(house, "doctor-other", "/api/emergencies", **wish).status_code == 404
    agreed = agree(house, Sharing.EMERGENCIES)
    assert post(house, "doctor-other", "/api/emergencies", **by_number).status_code == 201
    assert get(house, "doctor-other", f"/dicom-web/studies/{NORTH_STUDY}/metadata").status_code == 200
    # The auditors of both know of it; the review is the doctor's institution's.
    for who in ("here-admin", "north-admin"):
        with house.client(who) as client:
            rows = client.post("/api/audit/records", data={"action": "break-glass"}).json()["rows"]
        assert [(row["actor"], row["outcome"]) for row in rows if row["outcome"] == "success"] == [
            ("doctor-other", "success")
        ]
    openings = {
        who: get(house, who, "/api/emergencies").json()["openings"] for who in ("here-admin", "north-admin")
    }
    assert (len(openings["here-admin"]), openings["north-admin"]) == (1, [])
    assert get(house, "north-admin", "/api/emergencies/unreviewed").json() == {"unreviewed": 0}
    review = f"/api/emergencies/{openings['here-admin'][0]['opening_id']}/review"
    assert post(house, "north-admin", review, verdict="justified").status_code == 404
    house.doorkeeper.institutions.end(agreed)
    assert get(house, "doctor-other", f"/dicom-web/studies/{NORTH_STUDY}/metadata").status_code == 404


def test_a_grant_is_for_the_study_of_who_gave_it(house: House) -> None:
    north_sends(house)
    assert (
        post(house, "north-radiologist", "/api/study-rules", **grant(STUDY, "doctor-other")).status_code
        == 201
    )
    (metadata,) = get(house, "doctor-other", f"/dicom-web/studies/{STUDY}/metadata").json()
    assert metadata["00100010"]["Value"][0]["Alphabetic"] == "Secret^North"
    # An administrator of all of it says whose is meant, where several hold it.
    assert post(house, "admin", "/api/study-rules", **grant(STUDY, "patient-other")).status_code == 400
    meant = grant(STUDY, "patient-other", institution="default")
    assert post(house, "admin", "/api/study-rules", **meant).status_code == 201
    (metadata,) = get(house, "patient-other", f"/dicom-web/studies/{STUDY}/metadata").json()
    assert metadata["00100010"]["Value"][0]["Alphabetic"] == "Doe^Jané"
    refusal = grant(STUDY, "radiologist", kind="refusal")
    assert post(house, "north-admin", "/api/study-rules", **refusal).status_code == 201
    assert get(house, "radiologist", f"/dicom-web/studies/{STUDY}/metadata").status_code == 200


def test_consent_is_withdrawn_where_it_was_said(house: House) -> None:
    north_sends(house)
    patient = {"patient_id": "P1", "issuer_of_patient_id": "HOSP"}
    made = post(house, "north-admin", "/api/consent-withdrawals", **patient)
    assert made.json()["studies"] == 2  # north's own
    assert uids_of(get(house, "north-radiologist", "/dicom-web/studies")) == [OTHER_STUDY]
    assert uids_of(get(house, "radiologist", "/dicom-web/studies")) == [STUDY, OTHER_STUDY]
    assert get(house, "here-admin", "/api/consent-withdrawals").json() == {"withdrawals": []}
    ended = f"/api/consent-withdrawals/{made.json()['withdrawal_id']}"
    with house.client("here-admin") as client:
        assert client.delete(ended).status_code == 404
    assert (
        post(house, "admin", "/api/consent-withdrawals", **patient).json()["studies"] == 2
    )  # UIDs, anywhere
    assert uids_of(get(house, "radiologist", "/dicom-web/studies")) == [OTHER_STUDY]


def test_auditors_read_of_their_own_institution(house: House) -> None:
    north_sends(house)
    get(house, "north-radiologist", f"/dicom-web/studies/{STUDY}/metadata")
    get(house, "radiologist", f"/dicom-web/studies/{STUDY}/metadata")
    asked = {"study_instance_uid": STUDY}
    for who, seen, unseen in (
        ("here-admin", "radiologist", "north-radiologist"),
        ("north-admin", "north-radiologist", "radiologist"),
    ):
        with house.client(who) as client:
            pages = (
                client.post("/api/audit/records", data=asked).json()["rows"],
                client.post(
                    "/api/audit/records", data={"patient_id": "P1", "issuer_of_patient_id": "HOSP"}
                ).json()["rows"],
            )
            for rows in pages:
                actors = {row["actor"] for row in rows}
                assert seen in actors
                assert unseen not in actors
            export = client.post("/api/audit/records.csv", data=asked).text
            assert f",{seen},radiologist," in export
            assert f",{unseen},radiologist," not in export
    with house.client("admin") as client:
        actors = {row["actor"] for row in client.post("/api/audit/records", data=asked).json()["rows"]}
        assert {"radiologist", "north-radiologist"} <= actors
    # A patient is told of looks at the own study, not at another's under the same UID.
    with house.client("patient") as client:
        assert [one["role"] for one in client.get("/api/looks").json()["looks"]] == ["radiologist"]


def test_administrators_of_one_institution_manage_their_own(house: House) -> None:
    north_sends(house)
    link = post(house, "radiologist", "/api/guest-links", study_instance_uid=STUDY).json()["link_id"]
    token = post(house, "radiologist", "/api/tokens", label="x", actions=["search"]).json()["token_id"]
    rule = post(house, "radiologist", "/api/study-rules", **grant(STUDY, "doctor-other")).json()["rule_id"]
    assigned = post(house, "radiologist", "/api/assignments", **assignment(STUDY, "doctor-other")).json()
    ticket = house.pairings.new_pairing("ct", institution="default")
    assert ticket is not None
    lists = {
        "/api/guest-links": ("links", link),
        "/api/tokens": ("tokens", token),
        "/api/study-rules": ("rules", rule),
        "/api/assignments": ("assignments", assigned["assignment_id"]),
    }
    for path, (key, made) in lists.items():
        assert get(house, "north-admin", path).json()[key] == []
        assert len(get(house, "here-admin", path).json()[key]) == 1
        with house.client("north-admin") as client:
            assert client.delete(f"{path}/{made}").status_code == 404
        with house.client("here-admin") as client:
            assert client.delete(f"{path}/{made}").status_code == 204
    for study in (NOWHERE, OTHER_STUDY):
        doctors = assignment(study, "doctor")  # of another institution than this administrator
        assert post(house, "north-admin", "/api/assignments", **doctors).status_code in (400, 404)
    for path in ("/api/gateways/revocation", "/api/gateways/replacement"):
        assert post(house, "north-admin", path, gateway_id="gw-test").status_code == 404
    for whose in ("doctor", "admin", "here-admin", "nobody"):
        reset = post(house, "north-admin", "/api/factor-resets", username=whose)
        assert (reset.status_code, reset.json()["detail"]) == (404, f"there is no user {whose}")
    assert post(house, "here-admin", "/api/factor-resets", username="admin").status_code == 404
    assert post(house, "north-admin", "/api/factor-resets", username="North-Doctor").status_code == 204
    made = post(house, "here-admin", "/api/institutions", institution="south")
    assert made.status_code == 403
    assert get(house, "north-admin", "/api/institutions").json()["institutions"] == [
        {"institution": "north", "name": "North Clinic"}
    ]


def test_a_refused_agreement_is_on_nobody_elses_record(house: House) -> None:
    refused = post(
        house, "patient", "/api/agreements", sharing="reading", opened_by="north", opened_to="default"
    )
    assert refused.status_code == 403
    for auditor, count in (("north-admin", 0), ("here-admin", 1)):
        with house.client(auditor) as client:
            rows = client.post("/api/audit/records", data={"action": "access-change"}).json()["rows"]
        assert len([row for row in rows if row["actor"] == "patient"]) == count


def test_auditors_know_of_a_guest_who_is_let_in_to_their_study(house: House) -> None:
    north_sends(house)
    made = post(house, "north-admin", "/api/study-rules", **grant(NORTH_STUDY, "doctor-other"))
    assert made.status_code == 201
    link = post(house, "doctor-other", "/api/guest-links", study_instance_uid=NORTH_STUDY)
    with httpx.Client(base_url=house.base_url) as guest:
        knock = {"token": link.json()["path"].partition("#")[2]}
        assert guest.post("/api/guest/session", json=knock).status_code == 200
    for auditor in ("north-admin", "here-admin"):
        with house.client(auditor) as client:
            rows = client.post("/api/audit/records", data={"study_instance_uid": NORTH_STUDY}).json()["rows"]
        assert {"share", "guest-sign-in"} <= {row["action"] for row in rows}


def test_a_patient_is_told_of_looks_at_the_own_studies_alone(house: House) -> None:
    """`STUDY` is the patient's here, and somebody else's at north, where another one is the patient's as well."""
    agree(house, Sharing.PATIENTS)
    own = {"StudyInstanceUID": OTHER_STUDY, "SOPInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.8"}
    house.put(pydicom_file("MR_small.dcm", PatientID="X", SeriesInstanceUID="1.7"), NORTH)
    house.put(pydicom_file("MR_small.dcm", **own), NORTH)
    get(house, "north-radiologist", f"/dicom-web/studies/{STUDY}/metadata")
    with house.client("patient") as client:
        assert client.get("/api/looks").json()["looks"] == []
        get(house, "north-radiologist", f"/dicom-web/studies/{OTHER_STUDY}/metadata")
        get(house, "radiologist", f"/dicom-web/studies/{STUDY}/metadata")
        told = [one["study_instance_uid"] for one in client.get("/api/looks").json()["looks"]]
    assert told == [STUDY, OTHER_STUDY]


def agree(house: House, sharing: Sharing) -> str:
    """North opens its studies to the institution here; the agreement's id."""
    made = post(house, "admin", "/api/agreements", sharing=sharing, opened_by="north", opened_to="default")
    assert made.status_code == 201
    return str(made.json()["agreement_id"])


def post(house: House, who: str, path: str, **wish: object) -> httpx.Response:
    with house.client(who) as client:
        return client.post(path, json=wish)


def grant(study: str, username: str, **changes: object) -> dict[str, Any]:
    wish = {"kind": "grant", "study_instance_uid": study, "username": username, "reason": "asked for"}
    return {**wish, "until_utc": (datetime.now(UTC) + timedelta(hours=1)).isoformat(), **changes}


def assignment(study: str, username: str) -> dict[str, Any]:
    until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    return {"study_instance_uid": study, "username": username, "until_utc": until}


def test_auditors_know_who_came_in_and_what_others_do_to_their_people_and_studies(house: House) -> None:
    north_sends(house)
    link = post(house, "north-radiologist", "/api/guest-links", study_instance_uid=NORTH_STUDY, pin="123456")
    token = post(house, "north-radiologist", "/api/tokens", label="x", actions=["search"]).json()["token_id"]
    with httpx.Client(base_url=house.base_url) as stranger:
        form = {"username": "north-radiologist", "password": PASSWORD}
        assert stranger.post("/api/auth/token", data=form).status_code == 200
        knock = {"token": link.json()["path"].partition("#")[2], "pin": "000000"}
        assert stranger.post("/api/guest/session", json=knock).status_code == 403
    box, _ = house.gateways.register(
        "ct north", ec.generate_private_key(ec.SECP256R1()).public_key(), "north"
    )
    with house.client("admin") as client:
        for path, wish in (
            ("/api/study-rules", grant(NORTH_STUDY, "doctor-other")),
            ("/api/assignments", assignment(NORTH_STUDY, "north-doctor")),
            ("/api/factor-resets", {"username": "north-doctor"}),
            ("/api/gateways/replacement", {"gateway_id": box}),
            ("/api/gateways/revocation", {"gateway_id": box}),
            ("/api/consent-withdrawals", {"patient_id": "P9", "issuer_of_patient_id": "HOSP"}),
        ):
            made = client.post(path, json=wish)
            assert made.status_code in (200, 201, 204), made.text
            for name in ("rule_id", "assignment_id", "withdrawal_id"):
                if made.content and name in made.json():
                    assert client.delete(f"{path}/{made.json()[name]}").status_code == 204
        assert client.delete(f"/api/tokens/{token}").status_code == 204
        assert client.delete(f"/api/guest-links/{link.json()['link_id']}").status_code == 204
    post(house, "radiologist", "/api/study-rules", **grant(OTHER_STUDY, "north-doctor"))

    def told(auditor: str) -> set[tuple[str, str, str]]:
        with house.client(auditor) as client:
            rows = client.post("/api/audit/records", data={"actor": ""}).json()["rows"]
        return {(row["actor"], row["action"], row["detail"].partition(" until ")[0]) for row in rows}

    north_admin, here_admin = told("north-admin"), told("here-admin")
    assert ("north-radiologist", "sign-in", "password") in north_admin - here_admin
    assert any(action == "guest-sign-in" for _, action, _ in north_admin - here_admin)
    assert {detail for actor, _, detail in north_admin if actor == "admin"} == {
        "grant for doctor-other",
        "end the grant for doctor-other",
        f"assign {NORTH_STUDY} to north-doctor",
        "end the assignment to north-doctor",
        "reset the second factors of north-doctor",
        f"replaces {box}",
        box,
        "withdrawn: patient P9 of HOSP, nobody",
        "given again: patient P9 of HOSP",
        f"end {token}: x",
        f"end guest link {link.json()['link_id']}",
    }
    assert {detail for actor, _, detail in here_admin if actor == "admin"} == {
        "grant for doctor-other",  # it is their doctor's, of a study that is not theirs
        "end the grant for doctor-other",
        "withdrawn: patient P9 of HOSP, nobody",  # in all institutions
        "given again: patient P9 of HOSP",
    }
    # A share of one study is on record where it is given, and where it is received.
    assert ("radiologist", "access-change", "grant for north-doctor") in north_admin & here_admin
