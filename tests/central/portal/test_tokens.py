"""API tokens from the portal's page to a DICOMweb client."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import create_session

from central.access.sessions import FRESH_S, UserSession
from central.audit.events import Action
from central.audit.reading import Wanted
from tests.browser import Browser
from tests.central.access.house import PASSWORD, STUDY, House, meanwhile, open_house, pydicom_file
from tests.central.portal.test_in_browser import READY, sign_in

ALL = ["search", "view", "export"]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        opened.put(pydicom_file("CT_small.dcm"))
        yield opened


def make(house: House, owner: str = "doctor", **wish: object) -> httpx.Response:
    with house.client(owner) as client:
        return client.post("/api/tokens", json={"label": "a script", "actions": ALL, "days": 30, **wish})


def bearer(house: House, secret: str) -> httpx.Client:
    return httpx.Client(base_url=house.base_url, headers={"Authorization": f"Bearer {secret}"}, timeout=60)


def test_a_screen_left_open_gives_nobody_a_token(house: House) -> None:
    house.token("doctor")
    UserSession.update(started_at_utc=int(time.time()) - FRESH_S - 1).execute(house.db)
    refused = make(house)
    assert (refused.status_code, "sign in again" in refused.json()["detail"]) == (403, True)
    (recorded,) = house.audit.newest(Wanted(action=Action.TOKEN_CHANGE), limit=9)
    assert (recorded.event.outcome, house.doorkeeper.tokens.listed()) == ("refused", [])


def test_a_new_password_ends_a_token_that_is_about_to_be_made(house: House) -> None:
    with meanwhile(house, Action.TOKEN_CHANGE, lambda: house.accounts.set_password("doctor", PASSWORD + "!")):
        made = make(house)
    assert (made.status_code, house.doorkeeper.tokens.listed()) == (409, [])
    said = house.audit.newest(Wanted(action=Action.TOKEN_CHANGE), limit=9)
    assert [row.event.outcome for row in said] == ["refused", "success"]


def test_a_dicomweb_client_uses_a_token(house: House) -> None:
    made = make(house)
    assert made.status_code == 201
    session = create_session()
    session.headers["Authorization"] = f"Bearer {made.json()['token']}"
    client = DICOMwebClient(f"{house.base_url}/dicom-web", session=session)
    (found,) = client.search_for_studies()
    assert found["0020000D"]["Value"] == [STUDY]
    (retrieved,) = client.retrieve_study(STUDY)
    assert retrieved.PatientID == "P1"
    (export,) = house.audit.newest(Wanted(action=Action.EXPORT), limit=9)
    assert export.event.actor == "doctor"
    assert export.event.detail.startswith(f"API token {made.json()['token_id']}: ")
    with house.client("doctor") as owner:
        (listed,) = owner.get("/api/tokens").json()["tokens"]
        assert listed["last_used_at_utc"] is not None
        assert "token" not in listed
        assert owner.delete(f"/api/tokens/{listed['token_id']}").status_code == 204
        assert owner.delete(f"/api/tokens/{listed['token_id']}").status_code == 404
    with bearer(house, made.json()["token"]) as program:
        assert program.get("/dicom-web/studies").status_code == 401
    changes = house.audit.newest(Wanted(action=Action.TOKEN_CHANGE), limit=9)
    assert [row.event.outcome for row in changes] == ["refused", "success", "success"]


def test_a_token_does_no_more_than_it_was_made_for(house: House) -> None:
    secret = make(house, actions=["search"]).json()["token"]
    with bearer(house, secret) as program:
        assert len(program.get("/dicom-web/studies").json()) == 1
        assert program.get(f"/dicom-web/studies/{STUDY}/metadata").status_code == 404
        assert program.get(f"/dicom-web/studies/{STUDY}").status_code == 404
        assert program.get("/api/me").json()["username"] == "doctor"
        for method, path in (
            ("GET", "/"),
            ("GET", "/api/tokens"),
            ("POST", "/api/tokens"),
            ("POST", "/api/guest-links"),
            ("POST", "/api/emergencies"),
            ("POST", "/signout"),
            ("GET", "/api/mess"),
        ):
            assert program.request(method, path, json={}).status_code == 403, path


def test_a_token_does_no_more_than_its_owner_may(house: House) -> None:
    secret = make(house, "radiologist").json()["token"]
    rules = house.doorkeeper.rules
    with bearer(house, secret) as program:
        assert program.get(f"/dicom-web/studies/{STUDY}").status_code == 200
        rules.add("refusal", STUDY, "radiologist", until_utc=None, reason="x", made_by="admin")
        assert program.get(f"/dicom-web/studies/{STUDY}").status_code == 404
        assert program.get("/dicom-web/studies").status_code == 204


def test_administrators_end_tokens_and_have_none(house: House) -> None:
    token_id = make(house).json()["token_id"]
    assert make(house, "admin").status_code == 403
    with house.client("radiologist") as other:
        assert other.get("/api/tokens").json()["tokens"] == []
        assert other.delete(f"/api/tokens/{token_id}").status_code == 404
    with house.client("admin") as admin:
        assert [token["owner"] for token in admin.get("/api/tokens").json()["tokens"]] == ["doctor"]
        assert admin.delete(f"/api/tokens/{token_id}").status_code == 204


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"actions": ["view", "share"]}, 403),
        ({"actions": ["break-glass"]}, 403),
        ({"actions": ["everything"]}, 400),
        ({"actions": [["view"]]}, 400),
        ({"actions": "view"}, 400),
        ({"actions": []}, 400),
        ({"label": ""}, 400),
        ({"days": 366}, 400),
        ({"days": "30"}, 400),
    ],
)
def test_tokens_that_are_refused(house: House, wish: dict[str, object], status: int) -> None:
    assert make(house, **wish).status_code == status
    assert house.doorkeeper.tokens.listed() == []


def test_without_a_record_no_token_is_made(house: House) -> None:
    house.audit.close()
    assert make(house).status_code == 503
    assert house.doorkeeper.tokens.listed() == []


def test_the_secret_is_in_no_log_and_no_record(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = make(house).json()["token"]
    with bearer(house, secret) as program:
        program.get("/dicom-web/studies")
    assert secret not in caplog.text + repr(house.audit.newest(Wanted(), limit=99))


@pytest.mark.needs("chromium")
def test_a_token_is_made_and_ended_in_a_browser(house: House) -> None:
    with Browser(width=360, height=740) as browser:
        sign_in(browser, house, "doctor", "/tokens")
        browser.wait_for(f"location.pathname === '/tokens' && {READY}")
        assert not browser.eval("document.documentElement.scrollWidth > innerWidth")
        browser.type_into("[name=label]", "<img src=x onerror=document.title=1>")
        browser.activate("#token button")
        browser.wait_for("document.querySelector('#made input').value.startsWith('dicomnet_')")
        browser.wait_for("document.querySelectorAll('#tokens li button').length === 1")
        assert browser.eval("document.querySelectorAll('#tokens img').length") == 0
        browser.eval("window.confirm = () => true")  # what cannot be had back is asked about
        browser.activate("#tokens li button")
        browser.wait_for("document.querySelectorAll('#tokens li button').length === 0")
    assert house.doorkeeper.tokens.listed() == []
