from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from central.access.throttle import FAILURES_PER_USERNAME
from central.access.web import COOKIE_NAME
from central.audit.events import Action
from central.audit.reading import Wanted
from central.portal.sign_in import local_path
from tests.central.access.house import PASSWORD, House, meanwhile, open_house


def sign_in(client: httpx.Client, username: str, password: str = PASSWORD, **fields: str) -> httpx.Response:
    return client.post("/signin", data={"username": username, "password": password, **fields})


def test_a_browser_signs_in_and_out(house: House) -> None:
    with house.client() as client:
        assert client.get("/").headers["location"] == "/signin?next=%2F"
        answer = sign_in(client, "doctor", next="/viewer/?study=1.2.3")
        assert (answer.status_code, answer.headers["location"]) == (303, "/viewer/?study=1.2.3")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"{COOKIE_NAME}=")
        assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
        assert "Secure" not in cookie  # plain HTTP on loopback
        assert client.get("/").status_code == 200
        assert client.get("/api/me").json() == {"username": "doctor", "role": "doctor"}
        token = client.cookies[COOKIE_NAME]
        answer = client.post("/signout", headers={"Sec-Fetch-Site": "same-origin"})
        assert answer.headers["location"] == "/signin"
        client.cookies.set(COOKIE_NAME, token)
        assert client.get("/api/me").status_code == 401


def test_somebody_signs_out_everywhere(house: House) -> None:
    with house.client() as here, house.client() as there, house.client() as another:
        for client, username in ((here, "doctor"), (there, "doctor"), (another, "radiologist")):
            sign_in(client, username)
        assert here.delete("/api/me/sessions").status_code == 403  # not from our own page
        own_page = {"Sec-Fetch-Site": "same-origin"}
        assert here.delete("/api/me/sessions", headers=own_page).status_code == 204
        assert [one.get("/api/me").status_code for one in (here, there, another)] == [401, 401, 200]
    (ended,) = house.audit.newest(Wanted(action=Action.SIGN_OUT), limit=1)
    assert (ended.event.actor, ended.event.detail) == ("doctor", "everywhere")
    house.tokens.pop("doctor", None)  # the house's own token for other tests has ended as well


def test_a_wrong_password_says_nothing_about_the_user(house: House) -> None:
    with house.client() as client:
        known = sign_in(client, "radiologist", "wrong password")
        unknown = sign_in(client, "nobody", "wrong password")
    assert known.status_code == unknown.status_code == 401
    assert "Wrong username, password or code" in known.text
    assert known.text.replace("radiologist", "?") == unknown.text.replace("nobody", "?")
    assert COOKIE_NAME not in known.cookies
    assert "wrong password" not in known.text


def test_what_was_typed_comes_back_escaped(house: House) -> None:
    with house.client() as client:
        page = sign_in(client, '"><script>alert(1)</script>', "wrong password", next='/"><script>').text
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    "elsewhere",
    [
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "/\t/evil.example",
        "/\n/evil.example",
        " //evil.example",
        "evil.example",
        "",
    ],
)
def test_next_leads_nowhere_else(house: House, elsewhere: str) -> None:
    assert local_path(elsewhere) == "/"
    with house.client() as client:
        assert sign_in(client, "radiologist", next=elsewhere).headers["location"] == "/"


@pytest.mark.parametrize("path", ["/", "/fleet", "/viewer/?study=1.2&x=//y", "/a%2Fb#c"])
def test_next_leads_to_our_pages(path: str) -> None:
    assert local_path(path) == path


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"username=a&username=b&password=c", "application/x-www-form-urlencoded"),
        (b"username=%ff&password=c", "application/x-www-form-urlencoded"),
        (b"username=a%00&password=c", "application/x-www-form-urlencoded"),
        (b"username=a&password=" + b"x" * 9000, "application/x-www-form-urlencoded"),
        (b'{"username": "a"}', "application/json"),
    ],
)
def test_forms_that_are_none_are_refused(house: House, body: bytes, content_type: str) -> None:
    with house.client() as client:
        for path in ("/signin", "/api/auth/token"):
            assert client.post(path, content=body, headers={"Content-Type": content_type}).status_code == 400


def test_a_foreign_page_signs_nobody_in(house: House) -> None:
    with house.client() as client:
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
            form = {"username": "radiologist", "password": PASSWORD}
            assert client.post("/signin", data=form, headers=headers).status_code == 403


def test_a_cookie_needs_our_own_page_to_change_anything(house: House) -> None:
    with house.client() as client:
        sign_in(client, "admin")
        own_origin = str(client.base_url).rstrip("/")
        for headers in (
            {},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": own_origin, "Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            assert (
                client.post("/api/gateways/pairing", json={"name": ""}, headers=headers).status_code == 403
            ), headers
        for headers in ({"Origin": own_origin}, {"Sec-Fetch-Site": "same-origin", "Origin": "null"}):
            assert (
                client.post("/api/gateways/pairing", json={"name": ""}, headers=headers).status_code == 201
            ), headers


def test_a_bearer_token_needs_no_page_and_outweighs_the_cookie(house: House) -> None:
    with house.client() as client:
        sign_in(client, "admin")
        bearer = {"Authorization": f"Bearer {house.token('doctor')}"}
        assert client.get("/api/me", headers=bearer).json()["username"] == "doctor"
        assert client.post("/api/gateways/pairing", json={"name": ""}, headers=bearer).status_code == 403
        assert client.get("/api/me", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/api/me", headers={"Authorization": "Basic eA=="}).status_code == 401


def test_the_token_form_is_oauth(house: House) -> None:
    with house.client() as client:
        form = {"grant_type": "password", "username": "doctor", "password": PASSWORD}
        answer = client.post("/api/auth/token", data=form).json()
        assert (answer["token_type"], answer["expires_in"]) == ("bearer", 3600)
        headers = {"Authorization": f"Bearer {answer['access_token']}"}
        assert client.get("/api/me", headers=headers).json() == {"username": "doctor", "role": "doctor"}
        refused = client.post("/api/auth/token", data=form | {"password": "wrong password"})
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
        other = client.post("/api/auth/token", data=form | {"grant_type": "client_credentials"})
        assert (other.status_code, other.json()["error"]) == (400, "unsupported_grant_type")
        missing = client.post("/api/auth/token", data={"username": "doctor"})
        assert (missing.status_code, missing.json()["error"]) == (400, "invalid_request")


def test_a_new_password_ends_a_sign_in_that_is_under_way(tmp_path: Path) -> None:
    new = "another password for tests"
    with open_house(tmp_path) as house, house.client() as thief:
        with meanwhile(house, Action.SIGN_IN, lambda: house.accounts.set_password("doctor", new)):
            answer = sign_in(thief, "doctor")
        assert (answer.status_code, COOKIE_NAME in answer.cookies) == (401, False)
        assert answer.text == sign_in(thief, "doctor").text  # as a wrong password, which it is now
        with meanwhile(house, Action.SIGN_IN, lambda: house.accounts.block("doctor")):
            form = {"username": "doctor", "password": new}
            program = thief.post("/api/auth/token", data=form)
        assert (program.status_code, program.json()["error"]) == (400, "invalid_grant")
        assert program.json() == thief.post("/api/auth/token", data=form).json()
        doctor = house.accounts.named("doctor")
        assert doctor is not None
        assert house.accounts.sessions.of(doctor.user_id) == []
        rows = house.audit.newest(Wanted(action=Action.SIGN_IN_FAILED, actor="doctor"), limit=9)
    said = [row.event.detail.partition(" by ")[0] for row in reversed(rows)]
    wrong = "wrong username or password"
    assert said == ["password: ended meanwhile", wrong] * 2


def test_guessing_ends_in_429_alike_for_all(tmp_path: Path) -> None:
    with open_house(tmp_path) as house, house.client() as client:
        refusals = {}
        for username in ("doctor", "nobody"):
            for _ in range(FAILURES_PER_USERNAME):
                assert sign_in(client, username, "wrong password").status_code == 401
            page = sign_in(client, username)
            assert page.status_code == 429
            assert int(page.headers["retry-after"]) > 0
            assert sign_in(client, username).status_code == 429
            refusals[username] = page.text.replace(username, "?")
            token = client.post("/api/auth/token", data={"username": username, "password": PASSWORD})
            assert token.status_code == 429
            assert int(token.headers["retry-after"]) > 0
        assert refusals["doctor"] == refusals["nobody"]
        rows = house.audit.newest(Wanted(actor="doctor"), limit=50)
        assert {row.event.action for row in rows} == {Action.SIGN_IN_FAILED}
        # Who is told to wait is on record once a minute and address on each way, and fills no disk.
        waiting = [row for row in rows if row.event.detail == "too many failed sign-ins"]
        assert (len(waiting), len(rows)) == (2, FAILURES_PER_USERNAME + 2)
        for number in range(50):
            sign_in(client, f"somebody{number}", "wrong password")
        waiting = [row for row in house.audit.newest(Wanted(), limit=99) if "too many" in row.event.detail]
        assert len(waiting) == 2


def lock_out(client: httpx.Client, username: str) -> None:
    while sign_in(client, username, "wrong password").status_code != 429:
        pass


def test_strangers_lock_nobody_out_of_the_own_browser(tmp_path: Path) -> None:
    with open_house(tmp_path) as house, house.client() as own, house.client() as stranger:
        for username in ("radiologist", "doctor"):  # who share it
            assert sign_in(own, username).status_code == 303
        lock_out(stranger, "doctor")
        lock_out(stranger, "radiologist")
        known = own.cookies["dicomnet_known"]
        cookie = next(one for one in own.cookies.jar if one.name == "dicomnet_known")
        assert (cookie.path, "doctor" in known) == ("/signin", False)
        for username in ("doctor", "radiologist"):
            assert sign_in(own, username).status_code == 303
        assert sign_in(own, "patient").status_code == 303, "who is a stranger there is counted as one"
        lock_out(stranger, "patient")
        # A mark is no way to guess faster, and of no use to anybody else.
        lock_out(own, "doctor")
        assert sign_in(own, "doctor").status_code == 429
        _, mark, others = own.cookies["dicomnet_known"].split(".")  # the last who came in is the first
        for forged in (mark[1:] + mark[0], mark[32:] + mark[:32], others, mark.upper(), f"{mark}." * 9):
            stranger.cookies.set("dicomnet_known", forged, path="/signin")
            assert sign_in(stranger, "radiologist").status_code == 429
        # A new password ends it.
        house.accounts.set_password("patient", f"{PASSWORD} another")
        assert sign_in(own, "patient", f"{PASSWORD} another").status_code == 429


def test_without_a_record_nobody_signs_in(tmp_path: Path) -> None:
    with open_house(tmp_path) as house, house.client() as client:
        house.audit.close()
        answer = sign_in(client, "doctor")
        assert (answer.status_code, "set-cookie" in answer.headers) == (503, False)
        token = client.post("/api/auth/token", data={"username": "doctor", "password": PASSWORD})
        assert token.status_code == 503
        assert "access_token" not in token.text
