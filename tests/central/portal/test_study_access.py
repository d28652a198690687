"""Access to single studies and withdrawn consent, by the portal's own interface, against what DICOMweb then shows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from central.access.policy import Role
from central.audit.events import Action
from central.audit.reading import Wanted
from tests.central.access.house import (
    OTHER_STUDY,
    PASSWORD,
    STUDY,
    House,
    house_of_two_patients,
    sees,
)

METADATA = f"/dicom-web/studies/{STUDY}/metadata"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with house_of_two_patients(tmp_path) as opened:
        yield opened


def wish(kind: str = "grant", username: str = "doctor-other", **changes: object) -> dict[str, object]:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    return {
        "kind": kind,
        "username": username,
        "study_instance_uid": STUDY,
        "until_utc": until,
        "reason": "second opinion",
        **changes,
    }


@pytest.mark.parametrize("giver", ["radiologist", "admin"])
def test_access_to_one_study_is_given_and_taken_back(house: House, giver: str) -> None:
    assert sees(house, "doctor-other") == set()
    with house.client(giver) as client:
        made = client.post("/api/study-rules", json=wish())
        assert made.status_code == 201
        assert sees(house, "doctor-other") == {STUDY}
        assert [rule["username"] for rule in client.get("/api/study-rules").json()["rules"]] == [
            "doctor-other"
        ]
        assert client.delete(f"/api/study-rules/{made.json()['rule_id']}").status_code == 204
        assert client.delete(f"/api/study-rules/{made.json()['rule_id']}").status_code in (403, 404)
    assert sees(house, "doctor-other") == set()
    rows = house.audit.newest(Wanted(action=Action.ACCESS_CHANGE), limit=9)
    assert [(row.event.outcome, row.event.study_instance_uid) for row in rows[1:]] == [("success", STUDY)] * 2
    assert "second opinion" in rows[-1].event.detail
    assert (rows[0].event.actor, rows[0].event.outcome) == (giver, "refused")


def test_a_refusal_wins_over_role_and_grant_alike(house: House) -> None:
    with house.client("admin") as client:
        assert client.post("/api/study-rules", json=wish()).status_code == 201
        for username in ("radiologist", "doctor", "doctor-other", "patient"):
            refusal = wish("refusal", username, until_utc=None)
            assert client.post("/api/study-rules", json=refusal).status_code == 201
    assert sees(house, "radiologist") == {OTHER_STUDY}
    assert sees(house, "doctor") == {OTHER_STUDY}
    for username in ("doctor-other", "patient"):
        assert sees(house, username) == set()
    (refused,) = [
        row
        for row in house.audit.newest(Wanted(action=Action.VIEW, actor="patient"), limit=99)
        if row.event.study_instance_uid == STUDY
    ]
    assert refused.event.detail.endswith(": refused")


def test_withdrawn_consent_closes_a_patients_studies_but_for_the_excepted(house: House) -> None:
    patient = {"patient_id": "P1", "issuer_of_patient_id": "HOSP", "exceptions": ["doctor"]}
    with house.client("admin") as client:
        made = client.post("/api/consent-withdrawals", json=patient)
        assert (made.status_code, made.json()["studies"]) == (201, 1)
        assert sees(house, "radiologist") == {OTHER_STUDY}
        assert sees(house, "doctor") == {STUDY, OTHER_STUDY}
        assert sees(house, "patient") == set()
        (listed,) = client.get("/api/consent-withdrawals").json()["withdrawals"]
        assert (listed["exceptions"], listed["studies"]) == (["doctor"], 1)
        elsewhere = client.post("/api/consent-withdrawals", json=patient | {"issuer_of_patient_id": "X"})
        assert elsewhere.json()["studies"] == 0
        assert client.post("/api/consent-withdrawals", json=patient).status_code == 400
        ended = f"/api/consent-withdrawals/{made.json()['withdrawal_id']}"
        assert [client.delete(ended).status_code for _ in range(2)] == [204, 404]
    assert sees(house, "patient") == {STUDY}
    # Neither a log line nor an address of ours names the patient; the protected record does.
    events = [row.event for row in house.audit.newest(Wanted(action=Action.CONSENT_CHANGE), limit=9)]
    assert any("P1 of HOSP, nobody but doctor" in event.detail for event in events)


def test_an_institutions_exception_lifts_no_withdrawal_for_all_of_them(house: House) -> None:
    house.accounts.create_user("here-admin", PASSWORD, Role.ADMIN, institution="default")
    patient = {"patient_id": "P1", "issuer_of_patient_id": "HOSP"}
    excepting = patient | {"exceptions": ["radiologist"]}
    with house.client("admin") as admin, house.client("here-admin") as here:
        made = admin.post("/api/consent-withdrawals", json=patient)
        assert here.post("/api/consent-withdrawals", json=excepting).status_code == 201
        assert sees(house, "radiologist") == {OTHER_STUDY}
        admin.delete(f"/api/consent-withdrawals/{made.json()['withdrawal_id']}")
    assert sees(house, "radiologist") == {STUDY, OTHER_STUDY}


def test_who_is_excepted_from_withdrawn_consent_is_on_record_however_often_others_are_named(
    house: House,
) -> None:
    names = [("north-radiologist", "technician-other")[at % 2] for at in range(99)]
    wish = {"patient_id": "P1", "issuer_of_patient_id": "HOSP", "exceptions": [*names, "radiologist"]}
    with house.client("admin") as client:
        assert client.post("/api/consent-withdrawals", json=wish).status_code == 201
    assert sees(house, "radiologist") == {STUDY, OTHER_STUDY}
    (withdrawn,) = house.audit.newest(Wanted(action=Action.CONSENT_CHANGE), limit=9)
    assert withdrawn.event.detail.endswith("nobody but north-radiologist, technician-other, radiologist")


def test_who_may_not_see_a_study_gives_no_access_to_it_and_learns_nothing(house: House) -> None:
    with house.client("admin") as client:
        client.post("/api/study-rules", json=wish("refusal", "radiologist", until_utc=None))
    with house.client("radiologist") as client:
        hidden = client.post("/api/study-rules", json=wish())
        absent = client.post("/api/study-rules", json=wish(study_instance_uid="1.2.3.4"))
        assert (hidden.status_code, hidden.text) == (absent.status_code, absent.text)
        assert hidden.status_code == 404
        assert client.post("/api/study-rules", json=wish("refusal")).status_code == 403
    for username in ("doctor", "patient"):
        with house.client(username) as client:
            assert client.post("/api/study-rules", json=wish()).status_code == 403
            assert client.post("/api/consent-withdrawals", json={"patient_id": "P1"}).status_code == 403
    refused = [
        row for row in house.audit.newest(Wanted(), limit=99) if row.event.action is Action.ACCESS_CHANGE
    ]
    assert {row.event.actor for row in refused if row.event.outcome == "refused"} == {
        "radiologist",
        "doctor",
        "patient",
    }


def test_a_radiologist_ends_own_rules_only(house: House) -> None:
    with house.client("admin") as client:
        rule_id = client.post("/api/study-rules", json=wish()).json()["rule_id"]
    with house.client("radiologist") as client:
        assert client.get("/api/study-rules").json()["rules"] == []
        assert client.delete(f"/api/study-rules/{rule_id}").status_code == 403
    assert sees(house, "doctor-other") == {STUDY}


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "gift"},
        {"username": 5},
        {"username": "nobody"},
        {"reason": ""},
        {"study_instance_uid": "1.2/.."},
        {"study_instance_uid": None},
        {"until_utc": "tomorrow"},
        {"until_utc": "2036-01-01T00:00:00"},
        {"until_utc": "2006-01-01T00:00:00+00:00"},
        {"until_utc": None},
        {"until_utc": []},
    ],
)
def test_nonsense_is_refused(house: House, changes: dict[str, object]) -> None:
    with house.client("admin") as client:
        answer = client.post("/api/study-rules", json=wish(**changes))  # type: ignore[arg-type]
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


def test_without_a_record_nothing_changes(house: House) -> None:
    house.audit.close()
    with house.client("admin") as client:
        assert client.post("/api/study-rules", json=wish()).status_code == 503
        assert client.post("/api/consent-withdrawals", json={"patient_id": "P1"}).status_code == 503
    assert house.doorkeeper.rules.listed() == []
    assert house.doorkeeper.consents.listed() == []
