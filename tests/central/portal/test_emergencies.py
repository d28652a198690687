"""Emergency access from the doctor's reason to the administrator's review."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from central.access.emergencies import MAX_A_DAY
from central.access.policy import PatientKey, Principal, Role
from central.audit.events import Action
from central.audit.reading import Wanted
from central.institution import WHOLE_CENTRAL
from tests.browser import Browser
from tests.central.access.house import (
    OTHER_STUDY,
    STUDY,
    House,
    open_house,
    pydicom_file,
)
from tests.central.portal.test_in_browser import READY, sign_in

REASON = "unconscious, on the table now"
METADATA = f"/dicom-web/studies/{STUDY}/metadata"


def stock(house: House) -> None:
    house.put(pydicom_file("CT_small.dcm", AccessionNumber="A17"))
    house.put(
        pydicom_file(
            "MR_small.dcm", StudyInstanceUID=OTHER_STUDY, SeriesInstanceUID="1.9", AccessionNumber="A18"
        )
    )


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        stock(opened)
        yield opened


def wish(**changes: object) -> dict[str, object]:
    return {"study_instance_uid": STUDY, "reason": REASON, **changes}


def test_a_doctor_who_is_denied_looks_for_a_while_with_a_reason(house: House) -> None:
    with house.client("doctor-other") as doctor:
        assert doctor.get(METADATA).status_code == 404
        opened = doctor.post("/api/emergencies", json=wish())
        assert (opened.status_code, opened.json()["study_instance_uid"]) == (201, STUDY)
        found = [row["0020000D"]["Value"][0] for row in doctor.get("/dicom-web/studies").json()]
        assert found == [STUDY]
        assert doctor.get(METADATA).status_code == 200
        # For looking only, and not for passing on.
        assert doctor.get(f"/dicom-web/studies/{STUDY}").status_code == 404
        assert doctor.post("/api/guest-links", json={"study_instance_uid": STUDY}).status_code == 404
        assert doctor.post("/api/emergencies", json=wish()).status_code == 409
        (mine,) = doctor.get("/api/emergencies").json()["openings"]
        assert (mine["reason"], mine["verdict"]) == (REASON, None)
    with house.client("doctor") as other:
        assert other.get("/api/emergencies").json()["openings"] == []
    again, recorded = house.audit.newest(Wanted(action=Action.BREAK_GLASS), limit=9)
    assert (recorded.event.outcome, recorded.event.study_instance_uid) == ("success", STUDY)
    assert recorded.event.detail == REASON
    assert again.event.outcome == "refused"
    view = house.audit.newest(Wanted(action=Action.VIEW, actor="doctor-other"), limit=1)[0]
    assert view.event.detail.endswith("opened in an emergency")
    assert recorded.id < view.id


def test_an_administrator_reviews_it(house: House) -> None:
    with house.client("doctor-other") as doctor:
        doctor.post("/api/emergencies", json=wish())
    with house.client("admin") as admin:
        assert admin.get("/api/emergencies/unreviewed").json() == {"unreviewed": 1}
        (opening,) = admin.get("/api/emergencies").json()["openings"]
        assert (opening["username"], opening["reason"]) == ("doctor-other", REASON)
        path = f"/api/emergencies/{opening['opening_id']}/review"
        verdict = {"verdict": "justified", "comment": "the ward confirms"}
        with house.client("doctor-other") as doctor:
            assert doctor.post(path, json=verdict).status_code == 403
        assert admin.post(path, json={"verdict": "fine"}).status_code == 400
        assert [admin.post(path, json=verdict).status_code for _ in range(2)] == [204, 404]
        (opening,) = admin.get("/api/emergencies").json()["openings"]
        assert (opening["verdict"], opening["reviewed_by"]) == ("justified", "admin")
        assert admin.get("/api/emergencies/unreviewed").json() == {"unreviewed": 0}
    outcomes = [
        row.event.outcome for row in house.audit.newest(Wanted(action=Action.BREAK_GLASS_REVIEW), limit=9)
    ]
    assert outcomes == ["refused", "success", "refused"]


def test_nobody_reviews_what_they_opened_themselves(house: House) -> None:
    """Who signs on at a provider may come back in another role."""
    accounts = house.accounts
    ann = Principal("oidc:ann", "ann", Role.DOCTOR)
    accounts.sign_on(ann)
    with house.client() as client, house.client("admin") as admin:
        client.headers["Authorization"] = f"Bearer {accounts.sessions.start(ann, 'bearer', 3600)}"
        assert client.post("/api/emergencies", json=wish()).status_code == 201
        accounts.sign_on(replace(ann, role=Role.ADMIN, institution=WHOLE_CENTRAL))
        (opening,) = client.get("/api/emergencies").json()["openings"]
        review = f"/api/emergencies/{opening['opening_id']}/review"
        assert opening["is_own"]
        assert client.post(review, json={"verdict": "justified"}).status_code == 409
        (opening,) = admin.get("/api/emergencies").json()["openings"]
        assert (opening["is_own"], opening["verdict"]) == (False, None)
        assert admin.post(review, json={"verdict": "not-justified"}).status_code == 204
    outcomes = [
        row.event.outcome for row in house.audit.newest(Wanted(action=Action.BREAK_GLASS_REVIEW), limit=9)
    ]
    assert outcomes == ["success", "refused"]


def test_an_accession_number_names_a_study_as_well(house: House) -> None:
    with house.client("doctor-other") as doctor:
        for nothing in ("A1*", "?17", "*", "A1\\A17", "A17\n"):
            answer = doctor.post("/api/emergencies", json={"accession_number": nothing, "reason": REASON})
            assert answer.status_code == 400
        answer = doctor.post("/api/emergencies", json={"accession_number": "A99", "reason": REASON})
        assert answer.status_code == 404
        answer = doctor.post("/api/emergencies", json={"accession_number": "A18", "reason": REASON})
        assert (answer.status_code, answer.json()["study_instance_uid"]) == (201, OTHER_STUDY)
        house.put(
            pydicom_file(
                "CT_small.dcm", StudyInstanceUID="1.2.9", SOPInstanceUID="1.2.9.1", AccessionNumber="A17"
            )
        )
        two = doctor.post("/api/emergencies", json={"accession_number": "A17", "reason": REASON})
        assert two.status_code == 404


def test_what_is_refused_stays_closed_and_looks_absent(house: House) -> None:
    house.doorkeeper.rules.add("refusal", STUDY, "doctor-other", until_utc=None, reason="x", made_by="admin")
    with house.client("doctor-other") as doctor:
        absent = doctor.post("/api/emergencies", json=wish(study_instance_uid="1.2.3.4"))
        refused = doctor.post("/api/emergencies", json=wish())
        house.doorkeeper.consents.withdraw(PatientKey("HOSP", "P1"), "admin")
        withdrawn = doctor.post("/api/emergencies", json=wish(study_instance_uid=OTHER_STUDY))
        by_number = doctor.post("/api/emergencies", json={"accession_number": "A17", "reason": REASON})
    assert {(answer.status_code, answer.text) for answer in (absent, refused, withdrawn, by_number)} == {
        (404, absent.text)
    }
    reasons = [row.event.detail for row in house.audit.newest(Wanted(action=Action.BREAK_GLASS), limit=9)]
    assert [detail.partition(":")[0] for detail in reversed(reasons[1:])] == [
        "not here", "refused", "consent-withdrawn",
    ]  # fmt: skip
    assert house.doorkeeper.emergencies.listed() == []


def test_it_takes_a_doctor_and_a_reason(house: House) -> None:
    for username in ("admin", "radiologist", "patient"):
        with house.client(username) as client:
            assert client.post("/api/emergencies", json=wish()).status_code == 403
    with house.client("doctor-other") as doctor:
        for reason in ("", " " * 20, "urgent"):
            assert doctor.post("/api/emergencies", json=wish(reason=reason)).status_code == 400
        for nonsense in ({"reason": 5}, {"study_instance_uid": "x"}, {"study_instance_uid": ""}):
            assert doctor.post("/api/emergencies", json=wish(**nonsense)).status_code == 400
        assert doctor.get(METADATA).status_code == 404
    outcomes = {row.event.outcome for row in house.audit.newest(Wanted(action=Action.BREAK_GLASS), limit=99)}
    assert outcomes == {"refused"}


def test_without_a_reason_nobody_learns_whether_a_study_is_here(house: House) -> None:
    absent = [{"accession_number": "A99"}, {"study_instance_uid": "1.2.3.4"}]
    asked = [{"accession_number": "A17"}, {"study_instance_uid": STUDY}, *absent]
    with house.client("doctor-other") as doctor:
        answers = [doctor.post("/api/emergencies", json={**one, "reason": "x"}) for one in asked]
    assert {(answer.status_code, answer.text) for answer in answers} == {(400, answers[0].text)}


def test_there_is_an_end_to_emergencies(house: House) -> None:
    emergencies, accounts = house.doorkeeper.emergencies, house.accounts
    user_id = accounts.sessions.user_of(house.token("doctor-other"), "bearer")
    assert user_id is not None
    for number in range(MAX_A_DAY):
        emergencies.open_study(f"1.2.{number}", user_id, REASON, 60)
    with house.client("doctor-other") as doctor:
        assert doctor.post("/api/emergencies", json=wish()).status_code == 400
        assert doctor.get(METADATA).status_code == 404


def test_without_a_record_nothing_opens(house: House) -> None:
    house.audit.close()
    with house.client("doctor-other") as doctor:
        assert doctor.post("/api/emergencies", json=wish()).status_code == 503
    assert house.doorkeeper.emergencies.listed() == []


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    with open_house(tmp_path, emergency=False) as house:
        stock(house)
        with house.client("doctor-other") as doctor:
            assert doctor.post("/api/emergencies", json=wish()).status_code == 403
            assert 'id="open"' not in doctor.get("/emergency").text
        assert house.doorkeeper.emergencies.listed() == []


@pytest.mark.needs("chromium")
def test_from_the_reason_to_the_review_in_a_browser(house: House) -> None:
    markup = "<img src=x onerror=document.title=1>"
    with Browser(width=360, height=740) as browser:
        sign_in(browser, house, "doctor-other", "/emergency")
        browser.wait_for(f"location.pathname === '/emergency' && {READY}")
        assert not browser.eval("document.documentElement.scrollWidth > innerWidth")
        browser.type_into("[name=accession_number]", "A17")
        browser.type_into("[name=reason]", f"{markup} {REASON}")
        browser.activate("#open button")
        browser.wait_for(f"location.pathname === '/viewer/' && location.search === '?study={STUDY}'")
        browser.wait_for("document.documentElement.dataset.viewerState === 'ready'", timeout_s=60)
    with Browser(width=360, height=740) as browser:
        sign_in(browser, house, "admin", "/emergency")
        browser.wait_for(f"location.pathname === '/emergency' && {READY}")
        browser.wait_for("document.querySelector('nav .badge')?.textContent === '1'")
        assert markup in browser.eval("document.querySelector('[data-opening]').textContent")
        assert browser.eval("document.querySelectorAll('#openings img').length") == 0
        assert not browser.eval("document.documentElement.scrollWidth > innerWidth")
        browser.activate("[data-verdict=justified]")
        browser.wait_for("document.querySelector('nav .badge') === null")
        browser.wait_for("document.querySelector('[data-opening]').textContent.includes('Justified')")
