"""Passkeys, the authenticator app and the account page in a real browser, with an authenticator of its own.

Over http://localhost, which browsers hold for as safe as TLS.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from central.access.policy import Role
from central.access.sessions import FRESH_S, UserSession
from central.access.totp import STEP_S, code_at
from central.audit.events import Action
from central.audit.reading import Wanted
from tests.browser import Browser
from tests.central.access.house import PASSWORD, House, open_house, pydicom_file
from tests.ports import free_base_port

pytestmark = pytest.mark.needs("chromium")
READY = "document.documentElement.dataset.state === 'ready'"
NOW = time.time()  # central's clock stands still: a busy machine meets no other code
NO_OVERFLOW = "document.documentElement.scrollWidth <= innerWidth"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    port = free_base_port(1)
    url = f"http://localhost:{port}"
    roles = frozenset({Role.RADIOLOGIST})
    with open_house(
        tmp_path, port=port, public_url=url, second_factor_roles=roles, clock=lambda: NOW
    ) as opened:
        opened.base_url = url
        opened.put(pydicom_file("CT_small.dcm"))
        yield opened


def sign_in(browser: Browser, house: House, username: str, code: str = "") -> None:
    browser.open(f"{house.base_url}/signin?next=/account")
    browser.type_into("[name=username]", username)
    browser.type_into("[name=password]", PASSWORD)
    if code:
        browser.type_into("[name=code]", code)
    browser.press("Enter")


def on_account(browser: Browser) -> None:
    browser.wait_for(f"location.pathname === '/account' && {READY}")


def sign_out(browser: Browser) -> None:
    browser.activate(".who button")
    browser.wait_for(
        "location.pathname === '/signin' && !document.getElementById('passkey').hidden "
        "&& document.activeElement?.name === 'username'"
    )


def add_passkey(browser: Browser, name: str) -> None:
    browser.type_into("#passkey [name=name]", name)
    browser.press("Enter")
    browser.wait_for(f"document.getElementById('passkeys')?.textContent.includes({name!r}) && {READY}")


def test_a_passkey_is_made_and_signs_in(house: House) -> None:
    with Browser(width=390, height=844) as browser:
        browser.plug_in_authenticator()
        sign_in(browser, house, "radiologist")
        on_account(browser)
        assert "Your role needs more" in browser.eval("document.querySelector('main').textContent")
        assert browser.eval(NO_OVERFLOW)
        browser.open(f"{house.base_url}/")  # leads back: nothing else opens
        on_account(browser)
        browser.type_into("#passkey [name=name]", "<b>laptop</b>")
        browser.press("Enter")
        browser.wait_for(f"document.getElementById('sessions')?.children.length === 1 && {READY}")
        assert browser.eval("document.querySelector('#passkeys b').textContent") == "<b>laptop</b>"
        (credential,) = browser.credentials()
        assert (credential["isResidentCredential"], credential["rpId"]) == (True, "localhost")
        browser.open(f"{house.base_url}/")
        browser.wait_for(
            "location.pathname === '/' && document.querySelectorAll('#studies tbody tr').length === 1"
        )

        sign_out(browser)
        for _ in range(4):  # from the username over password, code and Sign in
            browser.press("Tab")
        assert browser.eval("document.activeElement.id") == "passkey"
        browser.press("Enter")
        browser.wait_for("location.pathname === '/'")
        assert house.audit.newest(Wanted(action=Action.SIGN_IN), limit=1)[0].event.detail == "passkey"

        sign_out(browser)
        browser.verify_user(False)
        browser.click("#passkey")
        browser.wait_for("!document.getElementById('message').hidden")
        assert browser.eval("document.getElementById('message').textContent").startswith("Nothing came of it")
        browser.verify_user(True)
        (credential,) = browser.credentials()
        browser.put_credential({**credential, "signCount": 0})  # a copy, made before it was used
        browser.eval("document.getElementById('message').hidden = true")
        browser.click("#passkey")
        browser.wait_for("!document.getElementById('message').hidden")
        assert "does not sign you in" in browser.eval("document.getElementById('message').textContent")
        assert browser.eval("location.pathname") == "/signin"
    (refused,) = house.audit.newest(Wanted(action=Action.SIGN_IN_FAILED), limit=1)
    assert "may have been copied" in refused.event.detail
    assert refused.event.actor == "radiologist"


def test_an_app_is_set_up_used_and_removed(house: House) -> None:
    with Browser(width=1280, height=720) as browser:
        sign_in(browser, house, "doctor")
        on_account(browser)
        browser.eval("document.getElementById('app-begin').focus()")
        browser.press("Enter")
        browser.wait_for("document.activeElement?.name === 'code' && document.querySelector('#qr svg')")
        drawn = "document.querySelector('#qr svg path:last-of-type').getBoundingClientRect()"
        frame = "document.querySelector('#qr svg').getBoundingClientRect()"
        for edge in ("right", "bottom"):  # a code that is cut off is read by no telephone
            assert browser.eval(f"{drawn}.{edge} < {frame}.{edge}")
        secret = base64.b32decode(browser.eval("document.getElementById('app-key').value").replace(" ", ""))
        browser.type_into("#app-confirm [name=code]", "12345")
        browser.press("Enter")
        browser.wait_for("!document.getElementById('message').hidden")
        browser.eval("document.querySelector('#app-confirm').reset()")
        used = int(NOW) // STEP_S
        browser.type_into("#app-confirm [name=code]", code_at(secret, used))
        browser.press("Enter")
        browser.wait_for("document.getElementById('recovery-codes').children.length === 10")
        browser.wait_for("document.getElementById('app-state').textContent.includes('10 recovery codes')")
        assert browser.eval("document.activeElement.id") == "recovery"
        recovery = browser.eval("document.querySelector('#recovery-codes li').textContent")
        assert browser.eval("document.getElementById('qr').childElementCount") == 0
        assert browser.eval("document.getElementById('app-key').value") == ""

        sign_out(browser)
        sign_in(browser, house, "doctor")
        browser.wait_for("document.querySelector('.signin [role=alert]:not([hidden])')")
        sign_in(
            browser, house, "doctor", code_at(secret, used + 1)
        )  # at most one step from now, and not used
        on_account(browser)
        sign_out(browser)
        sign_in(browser, house, "doctor", recovery)
        on_account(browser)
        assert "9 recovery codes" in browser.eval("document.getElementById('app-state').textContent")
        browser.click("#app-remove")
        browser.wait_for("document.getElementById('app-state').textContent === 'No app is set up.'")
        sign_out(browser)
        sign_in(browser, house, "doctor")
        on_account(browser)


def test_a_page_that_was_left_open_says_what_to_do(house: House) -> None:
    with Browser(width=390, height=844) as browser:
        sign_in(browser, house, "admin")
        on_account(browser)
        changes = "[...document.querySelectorAll('button.changes:not([hidden])')].map(one => one.disabled)"
        assert browser.eval(changes) == [False] * 3  # an app, a passkey, a reset
        UserSession.update(started_at_utc=int(NOW) - FRESH_S - 1).execute(house.db)
        browser.click("#app-begin")  # from the page as it was
        browser.wait_for("document.getElementById('message').textContent.startsWith('sign in again')")
        browser.open(f"{house.base_url}/account")
        on_account(browser)
        assert browser.eval(changes) == [True] * 3
        browser.click("#stale a")
        browser.wait_for(
            "location.pathname === '/signin' && document.querySelector('[name=next]').value === '/account'"
        )


def test_sessions_and_password_on_a_telephone(house: House) -> None:
    house.token("doctor")
    with Browser(width=390, height=844) as browser:
        sign_in(browser, house, "doctor")
        on_account(browser)
        assert browser.eval(NO_OVERFLOW)
        sessions = "document.querySelectorAll('#sessions li')"
        assert browser.eval(f"{sessions}.length") == 2
        browser.eval(
            "[...document.querySelectorAll('#sessions li')].find(li => !li.textContent.includes('this one'))"
            ".querySelector('button').click()"
        )
        browser.wait_for(f"{sessions}.length === 1")
        browser.type_into("#password [name=current]", PASSWORD)
        browser.type_into("#password [name=new]", "another password for tests")
        browser.press("Enter")
        browser.wait_for("location.pathname === '/signin'")
    assert house.accounts.passwords.verify("doctor", "another password for tests", "::1") is not None
