"""Who looked: what a patient is told of the own studies, and what an auditor finds, page by page and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import pytest

from central.access.policy import PatientKey
from central.audit.events import Action, AuditEvent
from central.audit.reading import Wanted
from central.portal import looks as looks_module
from tests.central.access.house import OTHER_STUDY, STUDY, House, open_house, pydicom_file


@pytest.fixture
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("house")) as opened:
        opened.put(pydicom_file("CT_small.dcm"))
        opened.put(
            pydicom_file(
                "MR_small.dcm", StudyInstanceUID=OTHER_STUDY, PatientID="P2", PatientName="Other^Person"
            )
        )
        yield opened


def look(house: House, who: str, study: str = STUDY) -> int:
    with house.client(who) as client:
        return client.get(f"/dicom-web/studies/{study}/metadata").status_code


def test_a_patient_sees_who_looked_and_no_name_of_staff(house: House) -> None:
    assert [look(house, who) for who in ("radiologist", "radiologist", "doctor", "patient")] == [200] * 4
    assert look(house, "doctor-other") == 404  # a refused attempt is the auditor's business
    assert look(house, "radiologist", OTHER_STUDY) == 200
    with house.client("patient") as client:
        answer = client.get("/api/looks")
        assert client.get("/looks").status_code == 200
    found = answer.json()
    assert [(one["who"], one["role"], one["action"]) for one in found["looks"]] == [
        ("you", "patient", "view"),
        ("St. Elsewhere", "doctor", "view"),
        ("St. Elsewhere", "radiologist", "view"),
    ]
    assert {one["study_instance_uid"] for one in found["looks"]} == {STUDY}
    assert found["looks"][0]["study_date"] == "20260102"
    assert found["next_before_id"] is None
    for hidden in (OTHER_STUDY, "doctor-other", "127.0.0.1", "Other"):
        assert hidden not in answer.text
    [own, *_] = house.audit.newest(Wanted(), limit=1)
    assert (own.event.actor, own.event.action, own.event.outcome) == ("patient", Action.READ_AUDIT, "success")


def test_pages_of_a_patient_hold_every_look_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks_module, "PATIENT_PAGE_ROWS", 3)
    for number in range(7):
        event = AuditEvent(
            f"d{number}", "doctor", Action.VIEW, "success", "::1", STUDY, institutions=frozenset({"default"})
        )
        house.audit.record(event)
    found, before = 0, None
    with house.client("patient") as client:
        while True:
            page = client.get("/api/looks", params={"before_id": before} if before else {}).json()
            found += len(page["looks"])
            before = page["next_before_id"]
            if before is None:
                break
    assert found == 7


def test_who_withdraws_consent_is_still_told_who_had_looked(house: House) -> None:
    look(house, "radiologist")
    house.doorkeeper.consents.withdraw(PatientKey("HOSP", "P1"), "admin")
    with house.client("patient") as client:
        assert client.get("/dicom-web/studies").status_code == 204
        told = client.get("/api/looks").json()["looks"]
    with house.client("patient-other") as client:
        assert STUDY not in client.get("/api/looks").text
    assert [(one["role"], one["study_instance_uid"]) for one in told] == [("radiologist", STUDY)]


@pytest.mark.parametrize("who", ["admin", "radiologist", "doctor", "service"])
def test_nobody_else_has_own_studies(house: House, who: str) -> None:
    with house.client(who) as client:
        assert client.get("/api/looks").status_code == 403
        assert client.get("/looks").status_code == 403
    [refused, *_] = house.audit.newest(Wanted(), limit=1)
    assert (refused.event.actor, refused.event.outcome) == (who, "refused")


@pytest.mark.parametrize(
    "path", ["/api/audit/records", "/api/audit/records.csv", "/api/audit/records.ndjson"]
)
@pytest.mark.parametrize("who", ["radiologist", "doctor", "patient", "service"])
def test_who_is_no_auditor_is_refused_and_recorded(house: House, who: str, path: str) -> None:
    with house.client(who) as client:
        answer = client.post(path, data={"patient_id": "P1"})
    assert answer.status_code == 403
    assert STUDY not in answer.text
    [refused, *_] = house.audit.newest(Wanted(), limit=1)
    assert (refused.event.actor, refused.event.outcome) == (who, "refused")


def test_an_auditor_finds_looks_by_patient_study_role_and_time(house: House) -> None:
    look(house, "radiologist")
    look(house, "doctor-other")
    look(house, "radiologist", OTHER_STUDY)
    with house.client("admin") as client:

        def found(**asked: str) -> list[tuple[str, str, str]]:
            rows = client.post("/api/audit/records", data=asked).json()["rows"]
            return [(row["actor"], row["outcome"], row["study_instance_uid"]) for row in rows]

        p1 = {"patient_id": "P1", "issuer_of_patient_id": "HOSP"}
        everything = [("doctor-other", "refused", STUDY), ("radiologist", "success", STUDY)]
        assert found(**p1) == everything
        assert found(study_instance_uid=STUDY) == everything
        assert found(**p1, outcome="refused") == everything[:1]
        assert found(**p1, actor_role="radiologist") == everything[1:]
        assert found(**p1, until="2020-01-01") == []
        assert found(**p1, since="2020-01-01T08:00+02:00") == everything
        assert found(patient_id="P1") == [], "another issuer is another patient"
        assert found(patient_id="P*", issuer_of_patient_id="HOSP") == [], "an ID is no pattern"
    assert "patient_id=P1" in house.audit.newest(Wanted(action=Action.READ_AUDIT), limit=20)[-1].event.detail


def test_the_auditors_pages_go_by_id(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks_module, "PAGE_ROWS", 2)
    for number in range(5):
        house.audit.record(AuditEvent(f"d{number}", "doctor", Action.VIEW, "success", "::1", STUDY))
    asked: dict[str, str] = {"study_instance_uid": STUDY}
    actors = []
    with house.client("admin") as client:
        while True:
            page = client.post("/api/audit/records", data=asked).json()
            actors += [row["actor"] for row in page["rows"]]
            if page["next_before_id"] is None:
                break
            asked["before_id"] = str(page["next_before_id"])
            house.audit.record(AuditEvent("late", "doctor", Action.VIEW, "success", "::1", STUDY))
    assert actors == ["d4", "d3", "d2", "d1", "d0"]


def test_the_csv_holds_all_of_them_and_no_formula(house: House) -> None:
    look(house, "radiologist")
    house.audit.record(
        AuditEvent("=cmd()", "doctor", Action.VIEW, "refused", "::1", STUDY, detail='+1,"x"\n')
    )
    with house.client("admin") as client:
        answer = client.post(
            "/api/audit/records.csv", data={"patient_id": "P1", "issuer_of_patient_id": "HOSP"}
        )
    assert answer.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["actor"] for row in rows] == ["radiologist", "'=cmd()"]
    assert rows[1]["detail"] == '\'+1,"x"\n'
    [exported, *_] = house.audit.newest(Wanted(), limit=1)
    assert (exported.event.actor, exported.event.action) == ("admin", Action.EXPORT)


def test_the_whole_record_comes_with_its_checkpoints_and_a_part_without(house: House) -> None:
    look(house, "radiologist")
    with house.client("admin") as client:
        whole = client.post("/api/audit/records.ndjson", data={"actor": ""})
        part = client.post("/api/audit/records.ndjson", data={"actor": "radiologist"})
    assert whole.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in whole.text.splitlines()]
    records = [line for line in lines if "checkpoint" not in line]
    assert records[-1]["detail"] == "audit record, ndjson"  # the export itself, which is signed with the rest
    assert "checkpoint" in lines[-1]
    assert [json.loads(line)["actor"] for line in part.text.splitlines()] == ["radiologist"]
    with house.client("north-admin") as north:  # whose part of it could not be checked
        theirs = [
            json.loads(line)
            for line in north.post("/api/audit/records.ndjson", data={"actor": ""}).text.splitlines()
        ]
    assert [one["actor"] for one in theirs] == ["north-admin"]


def test_records_are_given_out_as_fhir(house: House) -> None:
    look(house, "radiologist")
    with house.client("admin") as client:
        answer = client.post("/api/audit/records.fhir", data={"study_instance_uid": STUDY, "action": "view"})
    assert answer.headers["content-disposition"] == 'attachment; filename="audit-fhir.ndjson"'
    (event,) = [json.loads(line) for line in answer.text.splitlines()]
    assert (event["resourceType"], event["agent"][0]["requestor"]) == ("AuditEvent", True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"before_id": "x"},
        {"action": "nothing"},
        {"outcome": "maybe"},
        {"since": "yesterday"},
        {"until": "0001-01-01T00:00+14:00"},
        {"issuer_of_patient_id": "HOSP"},
    ],
)
def test_what_cannot_be_is_said(house: House, wrong: dict[str, str]) -> None:
    with house.client("admin") as client:
        answer = client.post("/api/audit/records", data=wrong)
    assert answer.status_code == 400
    assert json.loads(answer.text)["detail"]


def test_what_an_auditor_asks_for_is_on_record_whole_or_not_answered(house: House) -> None:
    patient = {"patient_id": "P1", "issuer_of_patient_id": "HOSP"}
    with house.client("admin") as client:
        assert client.post("/api/audit/records", data={"x": "x" * 2100, **patient}).status_code == 200
        (asked,) = house.audit.newest(Wanted(action=Action.READ_AUDIT), limit=1)
        assert asked.event.detail == "patient_id=P1 issuer_of_patient_id=HOSP"
        long = {"actor": "x" * 8000, **patient}
        assert client.post("/api/audit/records", data=long).status_code == 413
        assert client.post("/api/audit/records.csv", data=long).status_code == 413
    refused = house.audit.newest(Wanted(), limit=2)
    assert {(row.event.action, row.event.outcome) for row in refused} == {
        (Action.READ_AUDIT, "refused"),
        (Action.EXPORT, "refused"),
    }


def test_without_the_record_nothing_is_answered(house: House) -> None:
    tokens = {who: house.client(who) for who in ("admin", "patient")}
    house.audit.close()
    with tokens["admin"] as client:
        assert client.post("/api/audit/records", data={"actor": "x"}).status_code == 503
        assert client.post("/api/audit/records.csv", data={"actor": "x"}).status_code == 503
    with tokens["patient"] as client:
        assert client.get("/api/looks").status_code == 503
