"""Who may see a study, and why: as the page is told it, against what each of them then gets; and the page itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from central.access.onlookers import HousePeer
from central.access.policy import Action, Principal, Role, Sharing
from central.archive.indexing import ObjectOrigin
from central.audit.reading import Wanted
from tests.browser import Browser
from tests.central.access.house import ORIGIN, STUDY, House, open_house, pydicom_file
from tests.central.portal.test_in_browser import MARKUP, READY, sign_in

PEER = HousePeer(Principal("peer:WS", "WS", Role.PEER), frozenset({Action.SEARCH}))
NORTH = ObjectOrigin("gw-north", "1" * 32, datetime.now(UTC), institution="north")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path, peers=[PEER]) as opened:
        opened.doorkeeper.institutions.add("north")
        opened.put(pydicom_file("CT_small.dcm"), ORIGIN)
        yield opened


@pytest.fixture
def admin(house: House) -> Iterator[httpx.Client]:
    with house.client("admin") as client:
        yield client


def people(client: httpx.Client, **wish: str) -> dict[str, dict[str, Any]]:
    """Each line by who it is about: a name, or role and institution."""
    answer = client.post("/api/study-access", json={"study_instance_uid": STUDY, **wish})
    assert answer.status_code == 200, answer.text
    return {one["who"] or f"{one['role']} of {one['institution']}": one for one in answer.json()["people"]}


def rule(kind: str, username: str) -> dict[str, object]:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    return {
        "kind": kind,
        "username": username,
        "study_instance_uid": STUDY,
        "until_utc": until,
        "reason": "why",
    }


def test_everybody_who_may_see_it_is_listed_with_the_reason(house: House, admin: httpx.Client) -> None:
    found = people(admin)
    assert {who: one["why"] for who, one in found.items()} == {
        "radiologist": ["role"],
        "doctor": ["referring-physician"],
        "technician": ["box"],
        "WS": ["role"],
        "patient of default": ["patient"],  # whose account is not named: that would say whose study it is
    }
    assert found["doctor"]["may"] == ["search", "view", "export", "share"]
    assert found["technician"]["may"] == ["search", "view"]
    assert found["WS"]["may"] == ["search"]  # no more than its settings allow
    # Whoever is listed is let in, and nobody else.
    for username in (
        "radiologist",
        "doctor",
        "technician",
        "doctor-other",
        "technician-other",
        "service",
        "admin",
    ):
        with house.client(username) as client:
            status = client.get(f"/dicom-web/studies/{STUDY}/metadata").status_code
        assert (status == 200) == (username in found), username
    (asked, *_) = house.audit.newest(Wanted(actor="admin", action=Action.SEARCH), limit=9)
    assert (asked.event.study_instance_uid, asked.event.detail) == (STUDY, "who may see the study")


def test_nothing_of_the_patient_is_told(admin: httpx.Client) -> None:
    answer = admin.post("/api/study-access", json={"study_instance_uid": STUDY})
    assert {name: value for name, value in answer.json().items() if name != "people"} == {
        "study_instance_uid": STUDY,
        "institution": "default",
        "study_date": "20260102",
        "modalities": ["CT"],
        "series": 1,
        "instances": 1,
        "consent_withdrawn": False,
    }
    assert "P1" not in answer.text
    assert "Doe" not in answer.text


def test_what_was_said_of_one_person_comes_first_and_can_be_ended(house: House, admin: httpx.Client) -> None:
    with house.client("doctor-other") as doctor:
        opened = {"study_instance_uid": STUDY, "reason": "unconscious in the shock room"}
        assert doctor.post("/api/emergencies", json=opened).status_code == 201
    for one in (rule("grant", "doctor-other"), rule("refusal", "doctor"), rule("grant", "patient-other")):
        assert admin.post("/api/study-rules", json=one).status_code == 201
    found = people(admin)
    assert list(found)[:3] == ["doctor", "doctor-other", "patient-other"]
    assert (found["doctor"]["may"], found["doctor"]["why_not"]) == ([], "refused")
    assert found["doctor"]["why"] == ["referring-physician"]  # what would do but for the refusal
    assert found["doctor-other"]["why"] == ["grant", "emergency"]
    given, opened = found["doctor-other"]["because"]
    assert (given["made_by"], given["said"]) == ("admin", "why")
    assert (opened["said"], opened["ends"]) == ("unconscious in the shock room", None)
    assert admin.delete(given["ends"]).status_code == 204
    assert people(admin)["doctor-other"]["why"] == ["emergency"]


def test_withdrawn_consent_leaves_those_who_are_excepted(house: House, admin: httpx.Client) -> None:
    gone = {"patient_id": "P1", "issuer_of_patient_id": "HOSP", "exceptions": ["doctor"]}
    assert admin.post("/api/consent-withdrawals", json=gone).status_code == 201
    assert list(people(admin)) == ["doctor"]


def test_a_guest_is_there_as_long_as_the_link(house: House, admin: httpx.Client) -> None:
    with house.client("radiologist") as host:
        wish = {"study_instance_uid": STUDY, "note": "Dr. Far", "pin": "123456"}
        assert host.post("/api/guest-links", json=wish).status_code == 201
    (link,) = people(admin)["Dr. Far"]["because"]
    assert (link["made_by"], link["said"]) == ("radiologist", "opened 0 of 5 times, with PIN")
    assert admin.delete(link["ends"]).status_code == 204
    assert "Dr. Far" not in people(admin)


def test_of_another_institution_people_are_counted_and_their_holding_is_theirs(
    house: House, admin: httpx.Client
) -> None:
    house.doorkeeper.institutions.agree(
        Sharing.READING, opened_by="default", opened_to="north", made_by="admin"
    )
    house.accounts.create_user("own-admin", "a password for tests only", Role.ADMIN, institution="default")
    with house.client("own-admin") as own:
        line = people(own)["radiologist of north"]
        assert (line["who"], line["count"], line["why"]) == ("", 1, ["agreement"])
    assert people(admin)["north-radiologist"]["why"] == ["agreement"]  # who is of the whole central

    house.put(pydicom_file("CT_small.dcm"), NORTH)
    both = admin.post("/api/study-access", json={"study_instance_uid": STUDY})
    assert (both.status_code, "say whose" in both.json()["detail"]) == (409, True)
    theirs = people(admin, institution="north")
    assert {"north-radiologist", "north-doctor"} <= set(theirs)
    assert "radiologist" not in theirs
    with house.client("north-admin") as north:
        assert people(north).keys() == {"north-radiologist", "north-doctor"}


def test_who_does_not_manage_access_learns_nothing(house: House) -> None:
    for username in ("radiologist", "doctor", "patient"):
        with house.client(username) as client:
            there = client.post("/api/study-access", json={"study_instance_uid": STUDY})
            absent = client.post("/api/study-access", json={"study_instance_uid": "1.2.3"})
        assert (there.status_code, there.text) == (403, absent.text)
    with house.client("north-admin") as north:
        assert north.post("/api/study-access", json={"study_instance_uid": STUDY}).status_code == 404
    house.audit.close()
    with house.client("admin") as admin:
        assert admin.post("/api/study-access", json={"study_instance_uid": STUDY}).status_code == 503


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page(house: House, admin: httpx.Client, width: int) -> None:
    body = "document.querySelector('#people tbody').textContent"
    with Browser(width=width, height=800) as browser:
        sign_in(browser, house, "admin", f"/access?study={STUDY}")
        browser.wait_for(f"location.pathname === '/access' && {READY}")
        assert "is the referring physician" in browser.eval(body)
        # From the heading of the list on by keys alone: give, see it, undo.
        browser.eval("document.querySelector('#rule [name=username]').focus()")
        browser.type_into("#rule [name=username]", "doctor")
        browser.eval("document.querySelector('#rule [name=kind]').value = 'refusal'")
        browser.type_into("#rule [name=reason]", MARKUP)
        browser.press("Enter")
        browser.wait_for(f"{body}.includes('must not see it') && {READY}")
        assert browser.eval("document.querySelectorAll('#people img').length") == 0
        assert browser.eval("document.activeElement.textContent") == "Undo"
        browser.press("Enter")
        browser.wait_for(f"!{body}.includes('must not see it') && {READY}")
        assert people(admin)["doctor"]["why_not"] is None
        assert browser.eval("document.documentElement.scrollWidth <= innerWidth")
        # What ends a rule is undone by the same rule anew.
        assert admin.post("/api/study-rules", json=rule("grant", "doctor-other")).status_code == 201
        browser.click("#study button")
        browser.wait_for(f"{body}.includes('doctor-other') && {READY}")
        browser.activate(".behind button")
        browser.wait_for(f"!{body}.includes('doctor-other') && {READY}")
        browser.press("Enter")
        browser.wait_for(f"{body}.includes('doctor-other') && {READY}")
        browser.type_into("#study [name=study_instance_uid]", "1.2.3")
        browser.press("Enter")
        browser.wait_for("document.documentElement.dataset.state === 'error'")
        assert "no such study" in browser.eval("document.getElementById('message').textContent")
        assert browser.eval("document.getElementById('found').hidden")
