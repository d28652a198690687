"""A box becomes another institution's: by whom, on what record, and what the page says of it before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from central.access.policy import Role
from central.audit.events import Action, AuditEvent
from central.audit.reading import Wanted
from tests.browser import Browser
from tests.central.access.house import PASSWORD, House, open_house
from tests.central.portal.test_in_browser import READY, sign_in

MOVE = {"gateway_id": "ct", "former": "default", "institution": "north"}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        opened.accounts.create_user("here-admin", PASSWORD, Role.ADMIN, institution="default")
        opened.doorkeeper.institutions.add("north", "North Clinic")
        with opened.db.writing():
            opened.gateways.register("ct", ec.generate_private_key(ec.SECP256R1()).public_key())
        yield opened


def move(house: House, who: str, **changes: object) -> httpx.Response:
    with house.client(who) as client:
        return client.post("/api/gateways/institution", json={**MOVE, **changes})


def newest(house: House, institution: str) -> AuditEvent:
    return house.audit.newest(Wanted(institutions=(institution,)), limit=1)[0].event


def test_a_box_is_moved_and_both_institutions_have_it_on_record(house: House) -> None:
    answer = move(house, "admin")
    assert (answer.status_code, answer.json()) == (200, {"gateway_id": "ct", "institution": "north"})
    assert house.gateways.institution_of("ct") == "north"
    for institution in ("default", "north"):
        event = newest(house, institution)
        assert (event.actor, event.action, event.outcome) == ("admin", Action.ACCESS_CHANGE, "success")
        assert event.detail == "gateway ct is moved from default to institution north"
    with house.client("admin") as client:
        assert client.get("/api/gateways/institutions").json() == {
            "gateways": [{"gateway_id": "ct", "name": "ct", "institution": "north", "is_revoked": False}]
        }


@pytest.mark.parametrize(
    ("who", "changes", "status", "why"),
    [
        ("here-admin", {}, 403, "administrators of the whole central"),
        ("north-admin", {}, 403, "administrators of the whole central"),
        ("radiologist", {}, 403, "administrators of the whole central"),
        ("admin", {"gateway_id": "nobody"}, 404, "no such gateway"),
        ("admin", {"institution": "south"}, 400, "no institution south"),
        ("admin", {"institution": "default"}, 400, "default's already"),
        # Somebody else was quicker: what was confirmed is not what would happen.
        ("admin", {"former": "north", "institution": "default"}, 409, "is not north's"),
    ],
)
def test_what_may_not_be_moved_stays_and_the_try_is_on_record(
    house: House, who: str, changes: dict[str, object], status: int, why: str
) -> None:
    answer = move(house, who, **changes)
    assert answer.status_code == status
    assert why in answer.json()["detail"]
    assert house.gateways.institution_of("ct") == "default"
    event = house.audit.newest(Wanted(), limit=1)[0].event
    assert (event.actor, event.action, event.outcome) == (who, Action.ACCESS_CHANGE, "refused")


def test_only_of_two_who_move_a_box_at_once_one_does(house: House) -> None:
    assert house.gateways.move("ct", "north", former="default")
    assert not house.gateways.move("ct", "default", former="default")
    assert house.gateways.institution_of("ct") == "north"


def test_a_page_of_another_site_moves_nothing(house: House) -> None:
    admitted = house.accounts.passwords.verify("admin", PASSWORD, "127.0.0.1")
    assert admitted is not None
    cookie = {"dicomnet_session": house.accounts.sessions.start(admitted.principal, "cookie", 3600)}
    with httpx.Client(base_url=house.base_url, cookies=cookie, timeout=60) as client:
        for said in ({}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            assert client.post("/api/gateways/institution", json=MOVE, headers=said).status_code == 403
        assert house.gateways.institution_of("ct") == "default"
        own = {"Sec-Fetch-Site": "same-origin"}
        assert client.post("/api/gateways/institution", json=MOVE, headers=own).status_code == 200


def test_without_a_record_nothing_is_moved(house: House) -> None:
    with house.client("admin") as client:
        house.audit.close()
        assert client.post("/api/gateways/institution", json=MOVE).status_code == 503
    assert house.gateways.institution_of("ct") == "default"


def test_administrators_of_one_institution_see_their_own_boxes_and_move_none(house: House) -> None:
    for who, boxes, may_move in (("admin", 1, True), ("here-admin", 1, False), ("north-admin", 0, False)):
        with house.client(who) as client:
            assert len(client.get("/api/gateways/institutions").json()["gateways"]) == boxes
            assert ('id="move"' in client.get("/institutions").text) == may_move


@pytest.mark.needs("chromium")
def test_the_page_says_what_a_move_means_and_moves_when_it_is_confirmed(house: House) -> None:
    with Browser() as browser:
        sign_in(browser, house, "admin", "/institutions")
        browser.wait_for("document.querySelectorAll('#gateways button').length === 1")
        browser.click("#gateways button")
        browser.wait_for("document.getElementById('move').open")
        said = browser.eval("document.getElementById('move').innerText.replace(/\\s+/g, ' ')")
        assert "sends from now on is filed at north" in said
        assert "has sent stays at default" in said
        browser.click("#stay")
        browser.wait_for("!document.getElementById('move').open")
        assert house.gateways.institution_of("ct") == "default"
        browser.click("#gateways button")
        browser.wait_for("document.getElementById('move').open")
        browser.click("#moving [type=submit]")
        browser.wait_for("document.getElementById('gateways').textContent.includes('ct is of north')")
        browser.wait_for(READY)
        assert house.gateways.institution_of("ct") == "north"
        assert "ct is north's from now on" in browser.eval("document.getElementById('done').textContent")
        assert not browser.eval("document.documentElement.scrollWidth > innerWidth")
