"""A link from the host's form to the guest's picture, and every way in which it must not open."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from central.access.throttle import FAILURES_PER_USERNAME
from central.access.web import COOKIE_NAME
from central.audit.events import Action
from central.audit.reading import Wanted
from tests.browser import Browser
from tests.central.access.house import (
    OTHER_STUDY,
    STUDY,
    House,
    house_of_two_patients,
    pydicom_file,
)
from tests.central.portal.test_in_browser import READY, sign_in

PIN = "271828"
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with house_of_two_patients(tmp_path) as opened:
        yield opened


def make(house: House, host: str = "doctor", **wish: object) -> tuple[str, str]:
    """A link's id and token."""
    with house.client(host) as client:
        answer = client.post("/api/guest-links", json={"study_instance_uid": STUDY, **wish})
    assert answer.status_code == 201, answer.text
    path, _, token = answer.json()["path"].partition("#")
    assert path == "/guest"
    return answer.json()["link_id"], token


def enter(client: httpx.Client, token: str, pin: str = "", **headers: str) -> httpx.Response:
    return client.post("/api/guest/session", json={"token": token, "pin": pin}, headers=headers)


def test_a_guest_sees_that_one_study_and_takes_nothing_away(house: House) -> None:
    link_id, token = make(house, pin=PIN, note="Dr Wilson")
    with house.client() as guest:
        answer = enter(guest, token, PIN)
        assert (answer.status_code, answer.json()) == (200, {"study_instance_uid": STUDY})
        assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
        assert guest.get("/api/me").json()["role"] == "guest"
        found = guest.get("/dicom-web/studies").json()
        assert [row["0020000D"]["Value"] for row in found] == [[STUDY]]
        assert guest.get(f"/dicom-web/studies/{STUDY}/metadata").status_code == 200
        assert guest.get(f"/dicom-web/studies/{STUDY}").status_code == 404
        assert guest.get(f"/dicom-web/studies/{OTHER_STUDY}/metadata").status_code == 404
        wish = {"study_instance_uid": STUDY}
        assert guest.post("/api/guest-links", json=wish, headers=OWN_PAGE).status_code == 404
        assert guest.get("/sharing").status_code == 403
        # Ended by the host: nothing from the next request on.
        with house.client("doctor") as host:
            (listed,) = host.get("/api/guest-links").json()["links"]
            assert (listed["uses"], listed["has_pin"], listed["note"]) == (1, True, "Dr Wilson")
            assert host.delete(f"/api/guest-links/{link_id}").status_code == 204
            assert host.delete(f"/api/guest-links/{link_id}").status_code == 404
        assert guest.get(f"/dicom-web/studies/{STUDY}/metadata").status_code == 401
    (came,) = house.audit.newest(Wanted(action=Action.GUEST_SIGN_IN), limit=9)
    assert (came.event.actor, came.event.study_instance_uid) == (f"guest:{link_id}", STUDY)
    shared = [row.event for row in house.audit.newest(Wanted(action=Action.SHARE, actor="doctor"), limit=9)]
    assert ("success", STUDY) in {(event.outcome, event.study_instance_uid) for event in shared}
    views = house.audit.newest(Wanted(action=Action.VIEW, actor=f"guest:{link_id}"), limit=9)
    assert {row.event.outcome for row in views} == {"success", "refused"}


@pytest.mark.parametrize("host", ["radiologist", "doctor"])
def test_a_guest_sees_no_other_patients_image(house: House, host: str) -> None:
    house.put(pydicom_file("MR_small.dcm", PatientID="P2", SeriesInstanceUID="1.8", SOPInstanceUID="1.8.1"))
    _, token = make(house, host)
    with house.client() as guest:
        assert enter(guest, token).status_code == 200
        images = guest.get(f"/dicom-web/studies/{STUDY}/metadata").json()
        (series,) = guest.get(f"/dicom-web/studies/{STUDY}/series").json()
    assert [image["00100020"]["Value"] for image in images] == [["P1"]]
    assert series["00080060"]["Value"] == ["CT"]


def test_what_does_not_open_says_the_same_whatever_the_reason(house: House) -> None:
    _, with_pin = make(house, pin=PIN)
    _, used_up = make(house, max_uses=1)
    ended_id, ended = make(house)
    with house.client("doctor") as host:
        host.delete(f"/api/guest-links/{ended_id}")
    with house.client() as first:
        assert enter(first, used_up).status_code == 200
    answers = {}
    for token, pin in ((with_pin, ""), (with_pin, "314159"), (used_up, ""), (ended, ""), ("unknown", "")):
        with house.client() as guest:
            answer = enter(guest, token, pin)
            assert COOKIE_NAME not in answer.cookies
            answers[token, pin] = (answer.status_code, answer.text)
    assert len(set(answers.values())) == 1
    assert next(iter(answers.values()))[0] == 403
    refused = house.audit.newest(Wanted(action=Action.GUEST_SIGN_IN), limit=9)
    assert [row.event.outcome for row in refused].count("refused") == 5


def test_a_guest_goes_when_the_host_may_not_share_any_more(house: House) -> None:
    _, token = make(house)
    rules = house.doorkeeper.rules
    with house.client() as guest:
        assert enter(guest, token).status_code == 200
        rule = rules.add("refusal", STUDY, "doctor", until_utc=None, reason="x", made_by="admin")
        assert guest.get(f"/dicom-web/studies/{STUDY}/metadata").status_code == 404
        assert guest.get("/dicom-web/studies").status_code == 204
    with house.client() as guest:
        assert enter(guest, token).status_code == 403
        rules.end(rule.rule_id)
        assert enter(guest, token).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"), [("admin", 404), ("doctor-other", 404), ("patient", 404), ("radiologist", 201)]
)
def test_who_may_share(house: House, host: str, status: int) -> None:
    with house.client(host) as client:
        assert client.post("/api/guest-links", json={"study_instance_uid": STUDY}).status_code == status
        absent = client.post("/api/guest-links", json={"study_instance_uid": "1.2.3.4"})
        assert absent.status_code == 404
    assert house.audit.newest(Wanted(action=Action.SHARE), limit=1)[0].event.outcome == "refused"


def test_an_administrator_sees_and_ends_links_and_others_do_not(house: House) -> None:
    link_id, _ = make(house)
    with house.client("radiologist") as other:
        assert other.get("/api/guest-links").json()["links"] == []
        assert other.delete(f"/api/guest-links/{link_id}").status_code == 404
    with house.client("admin") as admin:
        assert [link["host"] for link in admin.get("/api/guest-links").json()["links"]] == ["doctor"]
        assert 'id="link"' not in admin.get("/sharing").text  # who sees no images passes none on
        assert admin.delete(f"/api/guest-links/{link_id}").status_code == 204


@pytest.mark.parametrize(
    "wish",
    [
        {"days": 31},
        {"days": "7"},
        {"days": True},
        {"max_uses": 0},
        {"pin": "123"},
        {"pin": 123456},
        {"note": ["x"]},
        {"study_instance_uid": "1.2/3"},
    ],
)
def test_links_that_are_refused(house: House, wish: dict[str, object]) -> None:
    with house.client("doctor") as client:
        assert client.post("/api/guest-links", json={"study_instance_uid": STUDY, **wish}).status_code == 400


def test_who_guesses_a_pin_and_is_told_to_wait_is_on_record(house: House) -> None:
    link_id, token = make(house, pin=PIN)
    with house.client() as client:
        answers = [
            enter(client, token, str(number)).status_code for number in range(FAILURES_PER_USERNAME + 3)
        ]
    assert answers == [403] * FAILURES_PER_USERNAME + [429] * 3
    rows = house.audit.newest(Wanted(action=Action.GUEST_SIGN_IN), limit=99)
    assert [row.event.detail for row in rows if not row.event.actor] == ["too many failed sign-ins"]
    assert sum(row.event.actor.endswith(link_id) for row in rows) == FAILURES_PER_USERNAME


def test_somebody_elses_page_brings_no_guest(house: House) -> None:
    _, token = make(house)
    with house.client() as guest:
        assert enter(guest, token, **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert guest.get("/api/me").status_code == 401


def test_without_a_record_nobody_enters_and_no_use_is_lost(house: House) -> None:
    link_id, token = make(house)
    house.audit.close()
    with house.client() as guest:
        answer = enter(guest, token)
        assert (answer.status_code, "set-cookie" in answer.headers) == (503, False)
    with house.client("doctor") as host:
        assert host.post("/api/guest-links", json={"study_instance_uid": STUDY}).status_code == 503
    link = house.doorkeeper.guests.live(link_id)
    assert link is not None
    assert link.uses == 0


def test_the_secret_is_in_no_log_and_no_record(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    _, token = make(house, pin=PIN)
    with house.client() as guest:
        enter(guest, token, "314159")
        enter(guest, token, PIN)
        guest.get("/guest")
    everything = caplog.text + repr(house.audit.newest(Wanted(), limit=99))
    assert token not in everything
    assert PIN not in everything


@pytest.mark.needs("chromium")
def test_from_the_hosts_form_to_the_guests_picture(house: House) -> None:
    with Browser(width=360, height=740) as browser:
        sign_in(browser, house, "doctor", f"/sharing?study={STUDY}")
        browser.wait_for(f"location.pathname === '/sharing' && {READY}")
        assert browser.eval("document.querySelector('#link [name=study_instance_uid]').value") == STUDY
        assert not browser.eval("document.documentElement.scrollWidth > innerWidth")
        browser.type_into("#link [name=pin]", PIN)
        browser.type_into("#link [name=note]", "<img src=x onerror=document.title=1>")
        browser.activate("#link button")
        browser.wait_for("document.getElementById('made-link').value.includes('/guest#')")
        link = browser.eval("document.getElementById('made-link').value")
        browser.wait_for("document.querySelectorAll('#links li button').length === 1")
        assert browser.eval("document.querySelectorAll('#links img').length") == 0
    with Browser(width=360, height=740) as browser:
        browser.open(link)
        browser.wait_for(READY)
        assert (
            browser.eval("location.href") == f"{house.base_url}/guest"
        )  # the token has left the address line
        assert not browser.eval("document.documentElement.scrollWidth > innerWidth")
        browser.click("button.primary")
        browser.wait_for("!document.getElementById('message').hidden")
        browser.type_into("[name=pin]", PIN)
        browser.press("Enter")
        browser.wait_for(f"location.pathname === '/viewer/' && location.search === '?study={STUDY}'")
        browser.wait_for("document.documentElement.dataset.viewerState === 'ready'", timeout_s=60)
