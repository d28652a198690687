"""Accounts on their page: sessions seen and ended, blocked and let in again, departments and boxes; and by whom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from central.access.policy import Role
from central.audit.events import Action
from central.audit.reading import Wanted
from central.portal import accounts as accounts_page
from tests.browser import Browser
from tests.central.access.house import PASSWORD, STUDY, House, open_house, pydicom_file, sees
from tests.central.portal.test_in_browser import READY, sign_in


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        opened.put(pydicom_file("CT_small.dcm", RequestingService="Cardiology"))
        yield opened


@pytest.fixture
def admin(house: House) -> Iterator[httpx.Client]:
    with house.client("admin") as client:
        yield client


def step(client: httpx.Client, what: str, **wish: object) -> httpx.Response:
    return client.post(f"/api/accounts/{what}", json=wish)


def found(client: httpx.Client, name: str = "") -> dict[str, dict[str, Any]]:
    answer = step(client, "search", name=name)
    assert answer.status_code == 200, answer.text
    return {one["username"]: one for one in answer.json()["accounts"]}


def test_accounts_are_found_by_a_part_of_their_name(
    house: House, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(admin, "DOCTOR").keys() == {"doctor", "doctor-other", "north-doctor"}
    assert found(admin, "%") == {}
    assert found(admin)["technician"]["gateway_ids"] == ["gw-test"]
    monkeypatch.setattr(accounts_page, "PAGE_ROWS", 2)
    first = step(admin, "search", name="doctor").json()
    second = step(admin, "search", name="doctor", after=first["next_after"]).json()
    names = [one["username"] for page in (first, second) for one in page["accounts"]]
    assert (names, second["next_after"]) == (["doctor", "doctor-other", "north-doctor"], None)
    row = house.audit.newest(Wanted(action=Action.SEARCH), limit=9)[-1]
    assert (row.event.actor, row.event.detail) == ("admin", "accounts: doctor")


def test_a_session_is_seen_and_ended(house: House, admin: httpx.Client) -> None:
    with house.client("doctor") as doctor:
        assert doctor.get("/api/me").status_code == 200
        (session,) = step(admin, "sessions", username="doctor").json()["sessions"]
        assert session["is_of_a_program"]
        assert house.token("doctor") not in str(session)
        ended = [
            step(admin, "sign-out", username="doctor", session_id=session["session_id"]).status_code
            for _ in range(2)
        ]
        assert ended == [204, 404]
        assert doctor.get("/api/me").status_code == 401
    # Of one person a session of another is none.
    (others,) = step(admin, "sessions", username="admin").json()["sessions"]
    assert step(admin, "sign-out", username="doctor", session_id=others["session_id"]).status_code == 404
    assert admin.get("/api/me").status_code == 200


def test_somebody_is_signed_out_everywhere(house: House, admin: httpx.Client) -> None:
    with house.client("doctor") as doctor:
        assert step(admin, "sign-out", username="Doctor").status_code == 204
        assert doctor.get("/api/me").status_code == 401


def test_a_blocked_account_is_let_in_again(house: House, admin: httpx.Client) -> None:
    with house.client("doctor") as doctor:
        assert step(admin, "block", username="doctor").status_code == 204
        assert doctor.get("/api/me").status_code == 401
    assert found(admin, "doctor")["doctor"]["is_blocked"]
    assert house.accounts.passwords.verify("doctor", PASSWORD, "::1") is None
    assert step(admin, "unblock", username="doctor").status_code == 204
    assert house.accounts.passwords.verify("doctor", PASSWORD, "::1") is not None
    own = step(admin, "block", username="ADMIN")
    assert (own.status_code, "another administrator" in own.json()["detail"]) == (409, True)
    assert admin.get("/api/me").status_code == 200
    said = [
        (row.event.detail, row.event.outcome)
        for row in reversed(house.audit.newest(Wanted(action=Action.USER_CHANGE), limit=9))
    ]
    assert said == [("block doctor", "success"), ("unblock doctor", "success"), ("block admin", "refused")]


def test_a_department_opens_what_it_ordered(house: House, admin: httpx.Client) -> None:
    assert sees(house, "doctor-other") == set()
    wish = {"username": "doctor-other", "departments": [" CARDIOLOGY "], "gateway_ids": []}
    assert step(admin, "places", **wish).json()["departments"] == ["CARDIOLOGY"]
    assert sees(house, "doctor-other") == {STUDY}
    assert step(admin, "places", **{**wish, "departments": []}).status_code == 200
    assert sees(house, "doctor-other") == set()


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"username": "technician", "departments": [], "gateway_ids": ["gw-nowhere"]}, 404),
        ({"username": "nobody", "departments": [], "gateway_ids": []}, 404),
        ({"username": "radiologist", "departments": ["Cardiology"], "gateway_ids": []}, 409),
        ({"username": "doctor", "departments": [str(n) for n in range(51)], "gateway_ids": []}, 400),
        ({"username": "doctor", "departments": "Cardiology", "gateway_ids": []}, 400),
        ({"username": "doctor", "departments": [5], "gateway_ids": []}, 400),
        ({"username": 5, "departments": [], "gateway_ids": []}, 400),
        ({"username": "d" * 65, "departments": [], "gateway_ids": []}, 400),
    ],
)
def test_what_cannot_be_is_refused(admin: httpx.Client, wish: dict[str, object], status: int) -> None:
    before = found(admin)
    answer = step(admin, "places", **wish)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert found(admin) == before


def test_another_institutions_accounts_are_not_there(house: House, admin: httpx.Client) -> None:
    with house.client("north-admin") as north:
        assert found(north).keys() == {"north-admin", "north-doctor", "north-radiologist"}
        for what in ("sessions", "sign-out", "block", "unblock"):
            theirs, absent = step(north, what, username="doctor"), step(north, what, username="nobody")
            assert (theirs.status_code, absent.status_code) == (404, 404)
            assert theirs.json()["detail"] == "there is no user doctor"
        places = {"departments": [], "gateway_ids": []}
        assert step(north, "places", username="admin", **places).status_code == 404  # of the whole central
        assert step(north, "block", username="north-doctor").status_code == 204
    assert step(admin, "unblock", username="north-doctor").status_code == 204
    with house.client("north-admin") as north:  # whose auditors are told what others do with their accounts
        rows = north.post("/api/audit/records", data={"action": "user-change"}).json()["rows"]
    assert (rows[0]["actor"], rows[0]["detail"]) == ("admin", "unblock north-doctor")


def test_other_roles_learn_nothing_and_without_a_record_nothing_changes(house: House) -> None:
    for username in ("radiologist", "doctor", "technician", "patient", "service"):
        with house.client(username) as client:
            for what in ("search", "sessions", "sign-out", "block", "unblock"):
                answer = step(client, what, name="", username="doctor")
                assert (answer.status_code, "doctor" in answer.text) == (403, False)
    house.audit.close()
    with house.client("admin") as admin:
        for what in ("search", "sessions", "sign-out", "block"):
            assert step(admin, what, name="", username="doctor").status_code == 503
    assert house.accounts.passwords.verify("doctor", PASSWORD, "::1") is not None


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page(house: House, admin: httpx.Client, width: int) -> None:
    house.accounts.create_user("admin-two", PASSWORD, Role.ADMIN)
    card = "document.querySelector('[data-account=doctor-other]')"
    with Browser(width=width, height=800) as browser:
        sign_in(browser, house, "admin-two", "/accounts")
        browser.wait_for(f"location.pathname === '/accounts' && {READY}")
        browser.type_into("#search [name=name]", "doctor-o")
        browser.press("Enter")
        browser.wait_for(f"document.getElementById('accounts').children.length === 1 && {READY}")

        def click(text: str) -> None:
            browser.eval(
                f"[...{card}.querySelectorAll('button')].find(one => one.textContent === '{text}').click()"
            )

        click("Departments and boxes")
        assert browser.eval("document.activeElement.name") == "departments"
        browser.type_into("[data-account=doctor-other] [name=departments]", "<b>Ward</b>, Cardiology")
        browser.press("Enter")
        browser.wait_for(f"{card}?.textContent.includes('departments: <b>Ward</b>, Cardiology') && {READY}")
        browser.wait_for("document.activeElement.textContent === 'Undo'")
        browser.press("Enter")
        browser.wait_for(f"!{card}?.textContent.includes('Ward') && {READY}")
        assert found(admin, "doctor-other")["doctor-other"]["departments"] == []

        browser.eval("window.confirm = () => true")
        click("Block")
        browser.wait_for(f"{card}?.textContent.includes('blocked') && {READY}")
        click("Unblock")
        browser.wait_for(f"!{card}?.textContent.includes('blocked') && {READY}")

        house.tokens.pop("doctor-other", None)
        house.token("doctor-other")
        click("Sessions")
        browser.wait_for(f"{card}.textContent.includes('a program') && {READY}")
        click("End")
        browser.wait_for(f"{card}.textContent.includes('Signed in nowhere') && {READY}")
        assert browser.eval("document.documentElement.scrollWidth <= innerWidth")
