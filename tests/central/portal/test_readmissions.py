"""An erased study is taken in again by two people, and by nobody alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from central.access.policy import Role
from central.archive import erasure, second_person
from central.archive.errors import StudyErasedError
from central.audit.events import Action
from central.audit.reading import Wanted
from tests.browser import Browser
from tests.central.access.house import PASSWORD, STUDY, House, house_of_two_patients, pydicom_file
from tests.central.portal.test_in_browser import MARKUP, READY, sign_in

WHY = "the court wants it kept"


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """`STUDY` is erased, and what was on its way then has come."""
    monkeypatch.setattr(erasure, "ON_ITS_WAY_S", 0)
    with house_of_two_patients(tmp_path) as opened:
        opened.accounts.create_user("admin-two", PASSWORD, Role.ADMIN)
        opened.archive.erasures.erase(STUDY, "admin, admin-two")
        yield opened


def ask(client: httpx.Client, study: str = STUDY) -> httpx.Response:
    return client.post("/api/readmissions", json={"study_instance_uid": study, "reason": WHY})


def confirm(client: httpx.Client, request_id: str) -> httpx.Response:
    return client.post(f"/api/readmissions/{request_id}/confirmation")


def is_taken_in(house: House) -> bool:
    try:
        house.put(pydicom_file("CT_small.dcm"))
    except StudyErasedError:
        return False
    return True


def test_one_asks_and_another_confirms(house: House, admin: httpx.Client, second: httpx.Client) -> None:
    request_id = ask(admin).json()["request_id"]
    assert not is_taken_in(house)
    assert admin.get("/api/erasures/waiting").json() == {"waiting": 0}
    assert second.get("/api/erasures/waiting").json() == {"waiting": 1}
    (waiting,) = second.get("/api/erasures").json()["readmissions"]
    assert (waiting["asked_by"], waiting["reason"], waiting["is_mine"]) == ("admin", WHY, False)
    assert "asked_by_id" not in waiting

    own = confirm(admin, request_id)
    assert (own.status_code, "somebody else confirms it" in own.json()["detail"]) == (409, True)
    assert ask(second).status_code == 409
    assert not is_taken_in(house)
    assert confirm(second, request_id).status_code == 204
    assert confirm(second, request_id).status_code == 404
    assert is_taken_in(house)
    assert second.get("/api/erasures").json()["erased"] == []
    said = [
        (row.event.actor, row.event.outcome, row.event.detail)
        for row in reversed(
            house.audit.newest(Wanted(actions=(Action.READMIT_REQUEST, Action.READMIT)), limit=9)
        )
    ]
    assert said[0] == ("admin", "success", f"asked: {WHY}")
    assert ("admin-two", "success", f"confirmed: asked by admin: {WHY}") in said


def test_it_is_taken_back_and_ends_by_itself(
    house: House, admin: httpx.Client, second: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = ask(admin).json()["request_id"]
    answers = [client.delete(f"/api/readmissions/{request_id}").status_code for client in (second, admin)]
    assert answers == [204, 404]
    request_id = ask(admin).json()["request_id"]
    with monkeypatch.context() as later:
        later.setattr(second_person, "LIFE_S", 0)
        assert confirm(second, request_id).status_code == 404
        assert ask(second).status_code == 201  # which takes the place of the old one
    assert not is_taken_in(house)


def test_images_that_may_be_on_their_way_are_waited_for(
    house: House, admin: httpx.Client, second: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "ON_ITS_WAY_S", 3600)
    early = confirm(second, ask(admin).json()["request_id"])
    assert (early.status_code, "try again in 60 minutes" in early.json()["detail"]) == (409, True)
    (waiting,) = admin.get("/api/erasures").json()["readmissions"]  # which then needs no third person
    assert waiting["reason"] == WHY


def test_what_was_not_erased_here_cannot_be_asked_for(house: House, admin: httpx.Client) -> None:
    assert ask(admin, "1.2.3").status_code == 404
    assert admin.post("/api/readmissions", json={"study_instance_uid": STUDY}).status_code == 400
    request_id = ask(admin).json()["request_id"]
    with house.client("north-admin") as north:
        assert ask(north).status_code == 404
        assert confirm(north, request_id).status_code == 404
        assert north.delete(f"/api/readmissions/{request_id}").status_code == 404
    for username in ("radiologist", "doctor", "service"):
        with house.client(username) as client:
            assert (ask(client).status_code, confirm(client, request_id).status_code) == (403, 403)
    house.audit.close()
    with house.client("admin-two") as client:
        assert confirm(client, request_id).status_code == 503
    assert not is_taken_in(house)


@pytest.mark.needs("chromium")
def test_two_administrators_in_a_browser(house: House, admin: httpx.Client) -> None:
    with Browser(width=400, height=800) as browser:
        sign_in(browser, house, "admin-two", "/erasing")
        browser.wait_for(f"location.pathname === '/erasing' && {READY}")
        browser.type_into("#erased input", f"{MARKUP} {WHY}")
        browser.click("[data-ask]")
        browser.wait_for(f"document.querySelector('#erased [data-withdraw]') && {READY}")
        assert browser.eval("document.querySelectorAll('#erased [data-confirm], #erased img').length") == 0
        browser.click("#erased [data-withdraw]")
        browser.wait_for(f"document.querySelector('[data-ask]') && {READY}")
        assert ask(admin).status_code == 201
        browser.open(f"{house.base_url}/erasing")
        browser.wait_for("document.querySelector('nav .badge')?.ariaLabel === '1 to confirm'")
        browser.wait_for(f"document.querySelector('#erased [data-confirm]') && {READY}")
        assert not browser.eval("document.documentElement.scrollWidth > innerWidth")
        browser.eval("window.confirm = () => true")
        browser.click("#erased [data-confirm]")
        browser.wait_for("document.getElementById('erased').textContent.includes('No study was erased')")
    assert is_taken_in(house)
