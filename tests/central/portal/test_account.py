"""The account page's routes: second factors, passkeys, sessions, the password; and who must have a second factor."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from central.access.policy import Role
from central.access.sessions import FRESH_S, UserSession, browser_of
from central.access.throttle import FAILURES_PER_USERNAME
from central.access.totp import STEP_S, code_at
from central.access.web import COOKIE_NAME
from central.audit.events import Action
from central.audit.reading import Wanted
from tests.central.access.authenticator import Authenticator
from tests.central.access.conftest import Clock
from tests.central.access.house import PASSWORD, STUDY, House, meanwhile, open_house, pydicom_file
from tests.central.portal.test_sign_in import sign_in

ORIGIN = "https://central.example"
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


CLOCK = Clock()  # stands still: a test that takes long meets no other code


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(
        tmp_path, second_factor_roles=frozenset({Role.RADIOLOGIST}), public_url=ORIGIN, clock=CLOCK
    ) as opened:
        opened.put(pydicom_file("CT_small.dcm"))
        yield opened


@contextmanager
def signed_in(house: House, username: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=house.base_url, headers=OWN_PAGE, timeout=60) as client:
        assert sign_in(client, username).status_code == 303
        yield client


def code(key: str, steps: int = 0) -> str:
    secret = base64.b32decode(key.replace(" ", ""))
    return code_at(secret, int(CLOCK.now) // STEP_S + steps)


def set_up_app(client: httpx.Client) -> tuple[str, list[str]]:
    """The app's key and the recovery codes. The code of the step before is used up, so that the present one counts."""
    begun = client.post("/api/account/app")
    assert begun.status_code == 201, begun.text
    confirmed = client.post("/api/account/app/confirmation", json={"code": code(begun.json()["key"], -1)})
    assert confirmed.status_code == 200, confirmed.text
    return begun.json()["key"], confirmed.json()["recovery_codes"]


def details(house: House, action: Action) -> list[tuple[str, str, str]]:
    rows = house.audit.newest(Wanted(action=action), limit=50)
    return [(row.event.actor, row.event.outcome, row.event.detail) for row in reversed(rows)]


def test_an_app_is_set_up_and_asked_for_from_then_on(house: House) -> None:
    with signed_in(house, "doctor") as here, signed_in(house, "doctor") as there:
        begun = here.post("/api/account/app").json()
        assert begun["qr_svg"].startswith("<svg")
        wrong = here.post("/api/account/app/confirmation", json={"code": "000000"})
        assert (wrong.status_code, here.get("/api/account").json()["app"]) == (409, False)
        key, recovery = set_up_app(here)
        state = here.get("/api/account").json()
        assert (state["app"], state["recovery_codes"]) == (True, 10)
        assert there.get("/api/me").status_code == 401  # what was begun by the password alone has ended
        assert here.post("/api/account/app").status_code == 409
    with house.client() as client:
        without = sign_in(client, "doctor")
        wrong_code = sign_in(client, "doctor", code="000000")
        wrong_password = sign_in(client, "doctor", "wrong password", code="000000")
        assert {one.status_code for one in (without, wrong_code, wrong_password)} == {401}
        assert without.text == wrong_code.text == wrong_password.text
        assert sign_in(client, "doctor", code=code(key)).status_code == 303
        assert sign_in(client, "doctor", code=recovery[0]).status_code == 303
    reasons = [detail for _, _, detail in details(house, Action.SIGN_IN_FAILED)]
    assert reasons == ["the right password with a wrong code"] * 2 + ["wrong username or password"]
    means = [detail for _, _, detail in details(house, Action.SIGN_IN)]
    assert means[-2:] == ["password and code", "password and recovery code"]
    changes = [detail for _, _, detail in details(house, Action.USER_CHANGE)]
    tried = "begin to set up an authenticator app"  # the last one, which was refused: there is one
    assert changes[-2:] == [tried, f"{tried}: not done, answered 409"]
    everything = repr(details(house, Action.USER_CHANGE))
    assert key.replace(" ", "") not in everything
    assert recovery[0] not in everything


def test_a_program_sends_the_code_with_the_password(house: House) -> None:
    with signed_in(house, "doctor") as client:
        key, recovery = set_up_app(client)
    form = {"username": "doctor", "password": PASSWORD}
    with house.client() as program:
        answers = [
            program.post("/api/auth/token", data=form | more)
            for more in (
                {},
                {"code": "000000"},
                {"code": code(key)},
                {"code": code(key)},
                {"code": recovery[0]},
            )
        ]
        assert [one.status_code for one in answers] == [400, 400, 200, 400, 200]
        wrong = program.post("/api/auth/token", data=form | {"password": "wrong password", "code": "1"})
        assert answers[0].json() == answers[1].json() == wrong.json()
        bearer = {"Authorization": f"Bearer {answers[4].json()['access_token']}"}
        assert len(program.get("/dicom-web/studies", headers=bearer).json()) == 1


def test_who_must_have_a_second_factor_reaches_nothing_else(house: House) -> None:
    study = f"/dicom-web/studies/{STUDY}/metadata"
    with signed_in(house, "radiologist") as client:
        for path in ("/", "/sharing", "/tokens", "/nothing"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["location"]) == (303, "/account"), path
        for method, path in (
            ("GET", study),
            ("GET", "/api/fleet"),
            ("POST", "/api/tokens"),
            ("POST", "/api/account/password"),
            ("DELETE", "/api/me/sessions"),
            ("DELETE", "/api/account/sessions/0000000000000000"),
        ):
            answer = client.request(method, path, headers=OWN_PAGE)
            assert answer.status_code == 403, path
            assert "/account" in answer.json()["detail"]
        page = client.get("/account").text
        assert "Your role needs more than a password" in page
        assert "Password now" not in page
        assert client.get("/api/account").json()["must_enrol"]
        set_up_app(client)
        assert client.get(study).status_code == 200
        assert "Password now" in client.get("/account").text
        assert client.delete("/api/account/app").status_code == 204
        assert client.get(study).status_code == 403
    with signed_in(house, "doctor") as client:
        assert client.get(study).status_code == 200
        assert not client.get("/api/account").json()["must_enrol"]


def test_a_token_of_somebody_who_must_have_a_factor_opens_nothing(house: House) -> None:
    owner = house.accounts.passwords.verify("radiologist", PASSWORD, "::1")
    assert owner is not None
    looks = frozenset({Action.SEARCH})
    _, secret = house.doorkeeper.tokens.make(owner.principal.user_id, "a script", looks, 1)
    with house.client() as program:
        bearer = {"Authorization": f"Bearer {secret}"}
        assert program.get("/dicom-web/studies", headers=bearer).status_code == 403


def add_passkey(client: httpx.Client, device: Authenticator, name: str = "laptop") -> httpx.Response:
    options = client.post("/api/account/passkeys/options").json()
    wish = {"name": name, "credential": device.make(options)}
    return client.post("/api/account/passkeys", json=wish)


def show_passkey(client: httpx.Client, device: Authenticator) -> httpx.Response:
    options = client.post("/api/signin/passkey/options").json()
    return client.post("/api/signin/passkey", json={"credential": device.show(options)})


def test_a_passkey_signs_in_by_itself_and_is_both_factors(house: House) -> None:
    device = Authenticator(ORIGIN, "central.example", sign_count=1)
    with signed_in(house, "radiologist") as client:
        made = add_passkey(client, device)
        assert made.status_code == 201, made.text
        (listed,) = client.get("/api/account").json()["passkeys"]
        assert (listed["name"], listed["passkey_id"]) == ("laptop", made.json()["passkey_id"])
        assert client.get("/dicom-web/studies").status_code == 200
    with httpx.Client(base_url=house.base_url, timeout=60) as client:
        # A session with the password alone would be less than this role needs, and could set up a factor of its own.
        assert sign_in(client, "radiologist").status_code == 401
        device.sign_count = 2
        answer = show_passkey(client, device)
        assert answer.status_code == 204, answer.text
        cookies = answer.headers.get_list("set-cookie")
        assert any(COOKIE_NAME in one and "HttpOnly" in one and "SameSite=strict" in one for one in cookies)
        assert client.get("/api/me").json()["username"] == "radiologist"
        sessions = client.get("/api/account").json()["sessions"]
        assert [one["means"] for one in sessions if one["is_this"]] == ["passkey"]
        copied = show_passkey(client, device)  # the counter stands still
        assert copied.status_code == 403
        assert "copied" not in copied.text
        house.accounts.block("radiologist")
        device.sign_count = 3
        assert show_passkey(client, device).status_code == 403
    assert [why for who, _, why in details(house, Action.SIGN_IN_FAILED) if who == "radiologist"][:2] == [
        "the right password alone, where a passkey is needed",
        f"passkey: the counter of passkey {listed['passkey_id']} did not go on, it says 2: it may have been copied",
    ]


def test_an_answer_counts_in_the_browser_that_asked(house: House) -> None:
    device = Authenticator(ORIGIN, "central.example")
    with signed_in(house, "doctor") as client:
        assert add_passkey(client, device).status_code == 201
        options = client.post("/api/account/passkeys/options").json()
        with signed_in(house, "doctor") as other:
            wish = {"name": "x", "credential": Authenticator(ORIGIN, "central.example").make(options)}
            assert other.post("/api/account/passkeys", json=wish).status_code == 400
    with house.client() as client, house.client() as thief:
        options = client.post("/api/signin/passkey/options").json()
        answer = {"credential": device.show(options)}
        assert thief.post("/api/signin/passkey", json=answer).status_code == 403
        foreign = {"Origin": "https://evil.example"}
        assert client.post("/api/signin/passkey", json=answer, headers=foreign).status_code == 403
        assert client.post("/api/signin/passkey/options", headers=foreign).status_code == 403
        assert client.post("/api/signin/passkey", json=answer).status_code == 204
        replayed = client.post("/api/signin/passkey", json=answer)
        assert (replayed.status_code, COOKIE_NAME in replayed.headers.get("set-cookie", "")) == (403, False)


def test_who_guesses_with_a_passkey_and_is_told_to_wait_is_on_record(house: House) -> None:
    device = Authenticator(ORIGIN, "central.example")  # which nobody here has registered
    device.user_handle = b"somebody's id"
    with house.client() as client:
        answers = [show_passkey(client, device).status_code for _ in range(FAILURES_PER_USERNAME + 3)]
    assert answers == [403] * FAILURES_PER_USERNAME + [429] * 3
    waits = [why for _, _, why in details(house, Action.SIGN_IN_FAILED) if "too many" in why]
    assert waits == ["too many failed sign-ins"]


def test_the_name_by_which_a_request_calls_central_changes_nothing(house: House) -> None:
    device = Authenticator("https://evil.example", "evil.example")
    with signed_in(house, "doctor") as client:
        client.headers["Host"] = "evil.example"
        options = client.post("/api/account/passkeys/options").json()
        assert options["rp"]["id"] == "central.example"
        wish = {"name": "x", "credential": device.make(options)}
        assert client.post("/api/account/passkeys", json=wish).status_code == 400


def test_without_a_record_no_passkey_signs_in_and_nothing_is_set_up(house: House) -> None:
    device = Authenticator(ORIGIN, "central.example")
    with signed_in(house, "doctor") as client:
        assert add_passkey(client, device).status_code == 201
        house.audit.close()
        assert client.post("/api/account/app").status_code == 503
        assert show_passkey(client, device).status_code == 503
        assert len(client.get("/api/account").json()["sessions"]) == 1


def test_a_screen_left_open_is_no_way_to_stay_in(house: House) -> None:
    with signed_in(house, "admin") as client:
        passkey_id = add_passkey(client, Authenticator(ORIGIN, "central.example")).json()["passkey_id"]
        long_ago = int(CLOCK.now) - FRESH_S - 1
        UserSession.update(started_at_utc=long_ago).execute(house.db)
        assert not client.get("/api/account").json()["is_fresh"]
        for method, path, wish in (
            ("POST", "/api/account/app", None),
            ("POST", "/api/account/app/confirmation", {"code": "000000"}),
            ("DELETE", "/api/account/app", None),
            ("POST", "/api/account/app/recovery-codes", None),
            ("POST", "/api/account/passkeys/options", None),
            ("POST", "/api/account/passkeys", {"name": "x", "credential": {}}),
            ("DELETE", f"/api/account/passkeys/{passkey_id}", None),
            ("POST", "/api/factor-resets", {"username": "doctor"}),
        ):
            answer = client.request(method, path, json=wish)
            assert answer.status_code == 403, path
            assert "sign in again" in answer.json()["detail"]
    refused = [one for one in details(house, Action.USER_CHANGE) if one[1] == "refused"]
    assert len(refused) == 8


def test_an_administrator_resets_somebodys_factors(house: House) -> None:
    with signed_in(house, "doctor") as owner, signed_in(house, "admin") as admin:
        set_up_app(owner)
        add_passkey(owner, Authenticator(ORIGIN, "central.example"))
        assert owner.post("/api/factor-resets", json={"username": "admin"}).status_code == 403
        assert admin.post("/api/factor-resets", json={"username": "nobody"}).status_code == 404
        assert admin.post("/api/factor-resets", json={"username": "Doctor"}).status_code == 204
        assert owner.get("/api/me").status_code == 401
    with signed_in(house, "doctor") as owner:
        state = owner.get("/api/account").json()
        assert (state["app"], state["passkeys"]) == (False, [])
    resets = [one for one in details(house, Action.USER_CHANGE) if "reset" in one[2]]
    assert resets == [
        ("doctor", "refused", "reset the second factors of admin"),
        ("admin", "success", "reset the second factors of nobody"),
        ("admin", "refused", "reset the second factors of nobody: not done, answered 404"),
        ("admin", "success", "reset the second factors of Doctor"),
    ]


def test_people_see_and_end_their_own_sessions(house: House) -> None:
    with signed_in(house, "doctor") as here, house.client() as there, signed_in(house, "patient") as other:
        sign_in(there, "doctor")
        house.token("doctor")
        here.headers["User-Agent"] = FIREFOX
        assert sign_in(here, "doctor").status_code == 303  # instead of the session that this browser had
        sessions: list[dict[str, Any]] = here.get("/api/account").json()["sessions"]
        assert len(sessions) == 3
        (this,) = [one for one in sessions if one["is_this"]]
        assert (this["browser"], this["source_address"]) == ("Firefox on Linux", "127.0.0.1")
        assert this["means"] == "password"
        assert [one["is_of_a_program"] for one in sessions].count(True) == 1
        named = f"/api/account/sessions/{this['session_id']}"
        assert other.delete(named).status_code == 404
        for one in sessions:
            if not one["is_this"]:
                assert here.delete(f"/api/account/sessions/{one['session_id']}").status_code == 204
        assert (there.get("/api/me").status_code, here.get("/api/me").status_code) == (401, 200)
        assert here.delete("/api/account/sessions/%25").status_code == 404
        assert here.delete(named).status_code == 204
        assert here.get("/api/me").status_code == 401
    token = repr(details(house, Action.SIGN_OUT))
    assert "end session" in token


def test_a_new_password_needs_the_old_one_and_ends_every_session(house: House) -> None:
    with signed_in(house, "doctor") as here, signed_in(house, "doctor") as there:
        change = {"current": PASSWORD, "new": "another password for tests"}
        wrong = here.post("/api/account/password", json=change | {"current": "wrong password"})
        assert (wrong.status_code, wrong.json()["detail"]) == (403, "that is not your password")
        short = here.post("/api/account/password", json=change | {"new": "short"})
        assert (short.status_code, "12 to" in short.json()["detail"]) == (400, True)
        half_a_pair = b'{"current": "\\ud800", "new": "\\ud800"}'
        assert here.post("/api/account/password", content=half_a_pair).status_code == 400
        assert here.post("/api/account/password", json=change).status_code == 204
        assert [one.get("/api/me").status_code for one in (here, there)] == [401, 401]
        assert sign_in(here, "doctor").status_code == 401
        assert sign_in(here, "doctor", change["new"]).status_code == 303
        for _ in range(5):
            here.post("/api/account/password", json=change | {"current": "wrong password"})
        assert here.post("/api/account/password", json=change).status_code == 429


def test_who_is_signed_out_meanwhile_changes_nothing_to_sign_in_with(house: House) -> None:
    device = Authenticator(ORIGIN, "central.example")
    doctor = house.accounts.named("doctor")
    assert doctor is not None

    def sign_out() -> None:
        house.accounts.sign_out("doctor")

    with signed_in(house, "doctor") as owner:
        recovery = set_up_app(owner)[1]
        passkey_id = add_passkey(owner, device).json()["passkey_id"]
    held = house.accounts.factors.held(doctor.user_id)
    for at, (method, path, wish) in enumerate(
        (
            ("DELETE", "/api/account/app", None),
            ("POST", "/api/account/app/recovery-codes", None),
            ("DELETE", f"/api/account/passkeys/{passkey_id}", None),
            ("POST", "/api/account/password", {"current": PASSWORD, "new": PASSWORD + "!"}),
        )
    ):
        with httpx.Client(base_url=house.base_url, headers=OWN_PAGE, timeout=60) as thief:
            assert sign_in(thief, "doctor", code=recovery[at]).status_code == 303
            with meanwhile(house, Action.USER_CHANGE, sign_out):
                answer = thief.request(method, path, json=wish)
            assert (answer.status_code, "ended meanwhile" in answer.json()["detail"]) == (409, True)
        now = house.accounts.factors.held(doctor.user_id)
        assert (now.app, now.passkeys, now.recovery_codes) == (True, held.passkeys, 9 - at)
    assert house.accounts.passwords.verify("doctor", PASSWORD, "::1", recovery[9]) is not None


def test_who_is_signed_out_meanwhile_sets_nothing_up(house: House) -> None:
    doctor = house.accounts.named("doctor")
    assert doctor is not None
    with signed_in(house, "doctor") as thief:
        begun = thief.post("/api/account/app").json()
        with meanwhile(house, Action.USER_CHANGE, lambda: house.accounts.sign_out("doctor")):
            answer = thief.post("/api/account/app/confirmation", json={"code": code(begun["key"])})
        assert answer.status_code == 409
    with signed_in(house, "doctor") as thief:
        options = thief.post("/api/account/passkeys/options").json()
        wish = {"name": "x", "credential": Authenticator(ORIGIN, "central.example").make(options)}
        with meanwhile(house, Action.USER_CHANGE, lambda: house.accounts.sign_out("doctor")):
            answer = thief.post("/api/account/passkeys", json=wish)
        assert answer.status_code == 409
    assert str(house.accounts.factors.held(doctor.user_id)) == ""


def test_an_app_that_is_set_up_ends_a_sign_in_without_it(house: House) -> None:
    with signed_in(house, "doctor") as owner, house.client() as thief:
        with meanwhile(house, Action.SIGN_IN, lambda: set_up_app(owner)):
            assert sign_in(thief, "doctor").status_code == 401
        assert thief.get("/api/me").status_code == 401
        assert len(owner.get("/api/account").json()["sessions"]) == 1


def test_a_reset_ends_a_sign_in_by_passkey_that_is_under_way(house: House) -> None:
    device = Authenticator(ORIGIN, "central.example")
    with signed_in(house, "doctor") as owner, house.client() as thief:
        add_passkey(owner, device)
        with meanwhile(house, Action.SIGN_IN, lambda: house.accounts.reset_factors("doctor")):
            answer = show_passkey(thief, device)
        assert (answer.status_code, COOKIE_NAME in answer.cookies) == (403, False)
    failed = details(house, Action.SIGN_IN_FAILED)
    assert [(who, why.startswith("passkey: ended meanwhile")) for who, _, why in failed] == [("doctor", True)]


@pytest.mark.parametrize(
    ("user_agent", "browser"),
    [
        (FIREFOX, "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1",
            "Safari on iPhone",
        ),
        ("python-httpx/0.28", ""),
        ("", ""),
    ],
)
def test_browsers_are_called_what_people_call_them(user_agent: str, browser: str) -> None:
    assert browser_of(user_agent) == browser
