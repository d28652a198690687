"""Signing on at a real OpenID provider (npm oidc-provider), which is another site than central to the browser."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from central.access import oidc
from central.access.claims import ClaimRules, principal_from
from central.access.oidc import (
    ASKING_AT_ONCE,
    AWAY_S,
    Attempt,
    Client,
    Provider,
    ProviderAwayError,
    SignOnRefusedError,
)
from central.access.oidc_settings import OidcSettings
from central.access.policy import PatientKey, Role
from central.audit.events import Action
from central.audit.reading import Wanted
from central.config import Settings
from central.errors import StartError
from central.people_app import sign_ons_of
from central.portal.sign_in import at_provider
from central.portal.single_sign_on import SignOn
from contract.settings import SettingsError, load_settings
from tests.browser import Browser
from tests.central.access.conftest import Clock
from tests.central.access.house import STUDY, House, meanwhile, open_house, pydicom_file
from tests.peers_installed import PROVIDER
from tests.ports import free_base_port

NODE = Path(sysconfig.get_path("scripts")) / "node"
SECRET = "a client secret, +100% for tests: only"  # with what RFC 6749 section 2.3.1 wants encoded
PEOPLE: dict[str, dict[str, object]] = {
    "gregory": {"roles": ["staff", "referrers"], "physician_name": "House^Gregory"},
    "jane": {"roles": ["patients"], "national_id": "P1"},
    "eve": {"roles": ["staff"]},
    "mallory": {"roles": ["referrers", "patients"], "national_id": "P1"},
    "admin": {"roles": ["referrers"], "physician_name": "House^Gregory"},  # a local account has this name
}


def new_key(kid: str) -> dict[str, Any]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return {**json.loads(RSAAlgorithm.to_jwk(key)), "kid": kid, "use": "sig", "alg": "RS256"}


@dataclass(frozen=True)
class Place:
    """Where provider and central listen, and what both know of each other. `key`: of a provider beside the first."""

    provider_port: int
    central_port: int
    key: str = ""

    @property
    def issuer(self) -> str:
        return f"http://localhost:{self.provider_port}"

    @property
    def public_url(self) -> str:
        return f"http://127.0.0.1:{self.central_port}"

    def settings(self, secret: Path) -> OidcSettings:
        return OidcSettings(
            issuer=self.issuer,
            name="<b>the hospital</b>",
            client_id="central",
            client_secret=secret,
            public_url=self.public_url,
            doctor=["referrers"],
            patient=["patients"],
            physician_name_claim="physician_name",
            patient_id_claim="national_id",
            issuer_of_patient_id="HOSP",
        )

    @contextmanager
    def provider(self, key: dict[str, Any], auth_method: str = "client_secret_basic") -> Iterator[None]:
        """The provider with this signing key, accepting, for as long as the block lasts. `auth_method`: the one by
        which a client proves itself there."""
        what = {
            "auth_method": auth_method,
            "port": self.provider_port,
            "redirect_uri": self.public_url + at_provider("/signin/oidc/callback", self.key),
            "back_to": f"{self.public_url}/signin",
            "backchannel_logout_uri": self.public_url + at_provider("/signin/oidc/back-channel", self.key),
            "secret": SECRET,
            "jwks": {"keys": [key]},
            "people": PEOPLE,
        }
        process = subprocess.Popen(
            [NODE, PROVIDER / "provider.mjs", json.dumps(what)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # node runs as a child of what is called node
        )
        try:
            assert process.stdout is not None
            said: list[str] = []
            while "LISTENING\n" not in said:
                said.append(process.stdout.readline())
                assert said[-1], f"the provider does not start: {''.join(said)}"
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


@pytest.fixture(scope="module")
def place() -> Place:
    port = free_base_port(2)
    return Place(port, port + 1)


@pytest.fixture
def house(place: Place, tmp_path: Path) -> Iterator[House]:
    secret = tmp_path / "client-secret"
    secret.write_text(SECRET + "\n")
    sign_ons = sign_ons_of(place.settings(secret))
    with open_house(tmp_path, port=place.central_port, sign_ons=sign_ons) as opened:
        opened.put(pydicom_file("CT_small.dcm"))
        yield opened


def go_to_provider(client: httpx.Client, house: House, name: str, path: str = "/", key: str = "") -> str:
    """Sign on there as `name`; the address with which the provider sends the browser back."""
    answer = client.get(house.base_url + at_provider(f"/signin/oidc?next={quote(path, safe='')}", key))
    assert answer.status_code == 303, answer.text
    url = answer.headers["location"]
    for _ in range(12):
        if url.startswith(house.base_url):
            return url
        answer = client.get(url)
        if answer.status_code == 200:
            prompt = "login" if 'value="login"' in answer.text else "consent"
            answer = client.post(url, data={"prompt": prompt, "login": name, "password": "x"})
        assert answer.status_code in (302, 303), answer.text
        url = str(httpx.URL(url).join(answer.headers["location"]))
    raise AssertionError("the provider goes round in circles")


def sign_on(house: House, name: str, path: str = "/", key: str = "") -> tuple[httpx.Client, httpx.Response]:
    client = httpx.Client(base_url=house.base_url, timeout=60)
    return client, client.get(go_to_provider(client, house, name, path, key))


@pytest.mark.needs("oidc-provider")
def test_a_doctor_and_a_patient_sign_on_and_see_what_their_claims_say(place: Place, house: House) -> None:
    with place.provider(new_key("one")):
        for name, role in (("gregory", "doctor"), ("jane", "patient")):
            client, answer = sign_on(house, name, f"/viewer/?study={STUDY}")
            assert answer.status_code == 200, answer.text
            assert f'content="0; url=/viewer/?study={STUDY}"' in answer.text
            cookies = answer.headers.get_list("set-cookie")
            assert any("dicomnet_session=" in one and "SameSite=strict" in one for one in cookies)
            assert client.get("/api/me").json() == {"username": name, "role": role}
            assert len(client.get("/dicom-web/studies").json()) == 1
            signed_in = house.audit.newest(Wanted(action=Action.SIGN_IN, actor=name), limit=9)
            assert [(row.event.outcome, row.event.actor_role) for row in signed_in] == [("success", role)]
        # The account has no password, and is blocked like any other.
        assert house.accounts.passwords.verify("jane", "", "::1") is None
        house.accounts.block("jane")
        assert client.get("/api/me").status_code == 401
        assert sign_on(house, "jane")[1].status_code == 403


@pytest.mark.needs("oidc-provider")
@pytest.mark.parametrize(
    ("name", "why"),
    [("eve", "no role"), ("mallory", "several roles"), ("admin", "belongs to another account")],
)
def test_claims_that_say_nobody_of_ours_let_nobody_in(
    place: Place, house: House, name: str, why: str
) -> None:
    with place.provider(new_key("one")):
        client, answer = sign_on(house, name)
    assert answer.status_code == 403
    assert client.get("/api/me").status_code == 401
    (failed,) = house.audit.newest(Wanted(action=Action.SIGN_IN_FAILED), limit=9)
    assert why in failed.event.detail
    assert why not in answer.text


@pytest.mark.needs("oidc-provider")
def test_another_name_at_the_provider_is_on_record(
    place: Place, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.provider(new_key("one")):
        assert sign_on(house, "gregory")[1].status_code == 200
    monkeypatch.setitem(PEOPLE, "gregory", {**PEOPLE["gregory"], "preferred_username": "greg"})
    with place.provider(new_key("two")):
        for _ in range(2):
            assert sign_on(house, "gregory")[1].status_code == 200
    rows = house.audit.newest(Wanted(action=Action.SIGN_IN), limit=9)
    assert [(row.event.actor, row.event.detail) for row in reversed(rows)] == [
        ("gregory", "OpenID Connect"),
        ("greg", "OpenID Connect; was called gregory"),
        ("greg", "OpenID Connect"),
    ]


@pytest.mark.needs("oidc-provider")
def test_the_providers_keys_rotate_without_a_restart_of_central(place: Place, house: House) -> None:
    for kid in ("one", "two"):
        with place.provider(new_key(kid)):
            assert sign_on(house, "gregory")[1].status_code == 200
    client = httpx.Client(base_url=house.base_url, timeout=60)
    with place.provider(new_key("three")):
        back = go_to_provider(client, house, "gregory")
    answer = client.get(back)  # the provider is gone meanwhile
    assert answer.status_code == 503
    assert client.get("/api/me").status_code == 401


@pytest.mark.needs("oidc-provider")
def test_an_answer_counts_once_and_in_the_browser_that_asked(place: Place, house: House) -> None:
    with place.provider(new_key("one")):
        client = httpx.Client(base_url=house.base_url, timeout=60)
        back = go_to_provider(client, house, "gregory")
        somebody_else = httpx.Client(base_url=house.base_url, timeout=60)
        assert somebody_else.get(back).status_code == 403
        go_to_provider(somebody_else, house, "jane")
        assert somebody_else.get(back).status_code == 403  # with a cookie of another attempt
        go_to_provider(somebody_else, house, "jane")
        assert somebody_else.get(back.replace("state=", "state=%C3%A9")).status_code == 403
        cookie = client.cookies["dicomnet_signon"]
        forged = back.replace("code=", "code=x")
        assert client.get(forged).status_code == 403
        client.cookies.set("dicomnet_signon", cookie, path="/signin/oidc", domain="127.0.0.1")
        assert client.get(back + "&iss=http://evil.example").status_code == 403
        client.cookies.set("dicomnet_signon", cookie, path="/signin/oidc", domain="127.0.0.1")
        # This provider says that it names itself (RFC 9207 section 2.4).
        assert client.get(re.sub("&iss=[^&]*", "", back)).status_code == 403
        client.cookies.set("dicomnet_signon", cookie, path="/signin/oidc", domain="127.0.0.1")
        assert client.get(back).status_code == 200
        client.cookies.set("dicomnet_signon", cookie, path="/signin/oidc", domain="127.0.0.1")
        assert client.get(back).status_code == 403
        made_up = [httpx.get(back).status_code for _ in range(9)]
    rows = house.audit.newest(Wanted(action=Action.SIGN_IN_FAILED), limit=50)
    assert {row.event.outcome for row in rows} == {"refused"}
    # What anybody can make up is on record once a minute.
    without_cookie = [row for row in rows if "without the cookie" in row.event.detail]
    assert (made_up, len(without_cookie) < 9) == ([403] * 9, True)


@pytest.mark.needs("oidc-provider")
def test_a_provider_that_wants_the_secret_in_the_form_gets_it_there(place: Place, house: House) -> None:
    with place.provider(new_key("one"), "client_secret_post"):
        assert sign_on(house, "gregory")[1].status_code == 200


@pytest.mark.needs("oidc-provider")
def test_who_is_blocked_while_signing_on_is_not_signed_in(place: Place, house: House) -> None:
    with place.provider(new_key("one")):
        assert sign_on(house, "gregory")[1].status_code == 200
        with meanwhile(house, Action.SIGN_IN, lambda: house.accounts.sign_out("gregory")):
            client, answer = sign_on(house, "gregory")
        assert (answer.status_code, client.get("/api/me").status_code) == (403, 401)
        assert sign_on(house, "gregory")[1].status_code == 200
    (failed,) = house.audit.newest(Wanted(action=Action.SIGN_IN_FAILED), limit=9)
    assert "ended meanwhile" in failed.event.detail


@pytest.mark.needs("oidc-provider")
def test_without_a_record_nobody_signs_on(place: Place, house: House) -> None:
    with place.provider(new_key("one")):
        client = httpx.Client(base_url=house.base_url, timeout=60)
        back = go_to_provider(client, house, "gregory")
        house.audit.close()
        answer = client.get(back)
    assert answer.status_code == 503
    assert client.get("/api/me").status_code == 401


@pytest.mark.needs("chromium", "oidc-provider")
def test_in_a_browser_in_and_out(place: Place, house: House) -> None:
    with place.provider(new_key("one")), Browser(width=360, height=740) as browser:
        browser.open(f"{house.base_url}/viewer-is-not-this?x=1")
        browser.wait_for("location.pathname === '/signin'")
        browser.wait_for("document.querySelector('.signin .button')")
        assert (
            browser.eval("document.querySelector('.signin .button').textContent")
            == "Sign in with <b>the hospital</b>"
        )
        assert not browser.eval("document.documentElement.scrollWidth > innerWidth")
        browser.open(f"{house.base_url}/signin?next=/tokens")
        browser.activate(".signin .button")
        browser.wait_for(
            f"location.port === '{place.provider_port}' && document.querySelector('[name=login]')"
        )
        browser.type_into("[name=login]", "gregory")
        browser.type_into("[name=password]", "x")
        browser.press("Enter")
        browser.wait_for("document.querySelector('[name=prompt][value=consent]')")
        browser.activate("form [type=submit]")
        browser.wait_for("location.pathname === '/tokens'")
        browser.wait_for("document.documentElement.dataset.state === 'ready'")
        assert browser.eval("document.querySelector('.who .user').textContent") == "gregory"
        browser.click(".who button")
        browser.wait_for("location.pathname === '/signin/oidc/out'")
        browser.activate(".signin a[rel=noreferrer]")
        browser.wait_for(f"location.port === '{place.provider_port}'")
        assert "/session/end" in browser.eval("location.pathname")


def rules(**changes: Any) -> ClaimRules:
    values = {Role.DOCTOR: frozenset({"d"}), Role.PATIENT: frozenset({"p"})}
    return ClaimRules("roles", values, **changes)


def test_a_patients_identifier_counts_with_its_issuer() -> None:
    claims = {"iss": "i", "sub": "s", "roles": "p", "id": ["P1", "", 5], "name": "House^Gregory"}
    made = principal_from(
        claims, rules(patient_id_claim="id", issuer_of_patient_id="HOSP", physician_name_claim="name")
    )
    assert (made.role, made.patient_ids) == (Role.PATIENT, (PatientKey("HOSP", "P1"),))
    assert made.referring_physician_names == ()  # a patient's name makes no doctor
    assert principal_from({**claims, "roles": ["d"]}, rules(patient_id_claim="id")).patient_ids == ()


def test_the_same_subject_of_another_issuer_is_somebody_else() -> None:
    ids = {principal_from({"iss": i, "sub": s, "roles": "d"}, rules()).user_id for i in "ab" for s in "cd"}
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("claims", "username"),
    [
        ({"preferred_username": "Anna.Weiß@Haus"}, "anna.wei@haus"),
        ({"email": "a@b.example"}, "a@b.example"),
        ({"preferred_username": "../../x"}, "x"),
        ({"preferred_username": "x" * 99}, "x" * 64),
    ],
)
def test_names_become_usernames(claims: dict[str, str], username: str) -> None:
    assert principal_from({"iss": "i", "sub": "s", "roles": "d", **claims}, rules()).username == username
    assert principal_from({"iss": "i", "sub": "s", "roles": "d"}, rules()).username.startswith("oidc-")


@pytest.mark.parametrize("role", [None, [], "x", ["x"], {"d": 1}, 5])
def test_no_role_is_nobody(role: object) -> None:
    with pytest.raises(SignOnRefusedError, match="no role"):
        principal_from({"iss": "i", "sub": "s", "roles": role}, rules())


@pytest.mark.parametrize("cookie", ["", "x", "e30=", "W10=", "bnVsbA==", "A" * 9999])
def test_cookies_that_are_none_of_ours(cookie: str) -> None:
    assert Attempt.from_cookie(cookie) is None
    attempt = Attempt.new("/", "staff")
    assert Attempt.from_cookie(attempt.cookie()) == attempt


class Silent:
    """A provider that takes connections and says nothing, until it is told to end them."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.issuer = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._taken: list[socket.socket] = []

    def take(self, connections: int) -> None:
        """Return once so many have come."""
        self._listening.settimeout(60)
        self._taken += [self._listening.accept()[0] for _ in range(connections)]

    def end(self) -> None:
        while self._taken:
            self._taken.pop().close()

    def close(self) -> None:
        self.end()
        self._listening.close()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Silent]:
    monkeypatch.setattr(oidc, "_TIMEOUT_S", 600.0)  # whoever waits for it does so until the test ends it
    with closing(Silent()) as opened:
        yield opened


def test_a_few_ask_a_silent_provider_and_nobody_for_a_while_after(silent: Silent, clock: Clock) -> None:
    provider = Provider(Client(silent.issuer, "central", "", "http://127.0.0.1/back"), clock)

    def ask() -> None:
        with pytest.raises(ProviderAwayError):
            provider.authorization_url(Attempt.new("/", ""))

    with ThreadPoolExecutor(ASKING_AT_ONCE) as pool:
        waiting = [pool.submit(ask) for _ in range(ASKING_AT_ONCE)]
        silent.take(ASKING_AT_ONCE)
        with pytest.raises(ProviderAwayError, match="asked by others"):
            provider.authorization_url(Attempt.new("/", ""))
        assert not any(one.done() for one in waiting)
        silent.end()
        for one in waiting:
            one.result(60)
        with pytest.raises(ProviderAwayError, match="a moment ago"):
            provider.authorization_url(Attempt.new("/", ""))
        clock.now += AWAY_S
        again = pool.submit(ask)
        silent.take(1)
        silent.end()
        again.result(60)


def test_who_is_signed_in_is_served_while_a_provider_says_nothing(silent: Silent, tmp_path: Path) -> None:
    client = Client(silent.issuer, "central", "", "http://127.0.0.1/signin/oidc/callback")
    sign_on = SignOn("", Provider(client), ClaimRules("roles"), "house", "http://127.0.0.1")
    with (
        open_house(tmp_path, sign_ons=[sign_on]) as house,
        ThreadPoolExecutor(ASKING_AT_ONCE) as pool,
        house.client("radiologist") as radiologist,
        house.client() as stranger,
    ):
        stranger.timeout = httpx.Timeout(600)

        def knock() -> int:
            return stranger.get("/signin/oidc").status_code

        waiting = [pool.submit(knock) for _ in range(ASKING_AT_ONCE)]
        silent.take(ASKING_AT_ONCE)
        assert {knock() for _ in range(50)} == {503}  # more than there are threads
        assert radiologist.get("/dicom-web/studies").status_code == 204
        assert not any(one.done() for one in waiting)
        silent.end()
        assert [one.result(60) for one in waiting] == [503] * ASKING_AT_ONCE


class Answering(Provider):
    """A provider whose keys are at hand: what an ID token may not be is tried on the real verification."""

    def __init__(self, key: dict[str, Any]) -> None:
        super().__init__(Client("https://idp.example", "central", "", "https://central.example/back"))
        self.public = {name: key[name] for name in ("kty", "n", "e", "kid", "use", "alg")}

    def _configuration(self) -> dict[str, Any]:
        return {
            "jwks_uri": "https://idp.example/keys",
            "authorization_endpoint": "https://idp.example/begin?p=B2C_1",
            "end_session_endpoint": "https://idp.example/end?p=B2C_1",
        }

    def _ask(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"keys": [self.public, {"kty": "unheard-of", "kid": "x"}, "nonsense"]}


@pytest.fixture(scope="module")
def key() -> dict[str, Any]:
    return new_key("one")


@pytest.mark.parametrize(
    "fault",
    [
        "", "of several", "iss", "aud", "auds", "exp", "nonce", "azp", "kid", "signature", "none", "HS256", "no-sub",
        "empty",
    ],
)  # fmt: skip
def test_an_id_token_verifies_or_proves_nobody(key: dict[str, Any], fault: str) -> None:
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": "https://idp.example", "sub": "s", "aud": "central", "nonce": "n", "iat": now, "exp": now + 60,
    }  # fmt: skip
    if fault in ("iss", "aud", "nonce", "azp"):
        claims[fault] = "another"
    if fault in ("auds", "of several"):  # Core 3.1.3.7: it says for whom of them it was made
        claims["aud"] = ["another", "central"]
    if fault == "of several":
        claims["azp"], fault = "central", ""
    if fault == "exp":
        claims["exp"] = now - 3600
    if fault == "no-sub":
        del claims["sub"]
    signing = jwt.PyJWK(new_key("one") if fault == "signature" else key).key
    headers = {"kid": "two" if fault == "kid" else "one"}
    if fault == "none":
        token = jwt.encode(claims, None, "none", headers)  # type: ignore[arg-type]
    elif fault == "HS256":
        token = jwt.encode(claims, "x" * 40, "HS256", headers)
    else:
        token = "" if fault == "empty" else jwt.encode(claims, signing, "RS256", headers)
    provider = Answering(key)
    if fault:
        with pytest.raises(SignOnRefusedError):
            provider._verified(token, "n")
    else:
        assert provider._verified(token, "n")["sub"] == "s"


def test_what_a_providers_address_asks_already_stays_there(key: dict[str, Any]) -> None:
    """RFC 6749 section 3.1."""
    provider = Answering(key)
    asked = httpx.URL(provider.authorization_url(Attempt.new("/", "")))
    assert (asked.params["p"], asked.params["client_id"]) == ("B2C_1", "central")
    out = httpx.URL(provider.sign_out_url("https://central.example/signin") or "")
    assert (out.params["p"], out.params["client_id"]) == ("B2C_1", "central")


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ('issuer = "http://idp.example"', "issuer begins with https"),
        ('issuer = "https://idp.example"', "public_url begins with https"),
        ('issuer = "https://idp.example"\npublic_url = "https://c.example"', "client_id"),
        (
            'issuer = "https://i.example"\npublic_url = "https://c.example"\nclient_id = "c"\npatient_id_claim = "x"',
            "issuer_of_patient_id",
        ),
    ],
)
def test_settings_that_would_be_unsafe_are_refused(tmp_path: Path, lines: str, why: str) -> None:
    (tmp_path / "central.toml").write_text(f"[oidc]\n{lines}\n")
    with pytest.raises(SettingsError, match=why):
        load_settings(Settings, tmp_path / "central.toml")


def test_a_secret_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="client_secret"):
        sign_ons_of(Place(1, 2).settings(tmp_path / "nothing"))
