"""The provider says who is signed out: a real one (npm oidc-provider), and every token that must not count."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jwt
import pytest

from central.access.claims import provider_session_of
from central.access.logout_tokens import MAX_AGE_S, signed_out
from central.access.oidc import SignOnRefusedError
from central.access.throttle import FAILURES_PER_USERNAME
from central.access.web import COOKIE_NAME
from central.audit.events import Action
from central.audit.reading import Wanted
from central.portal.sign_in import at_provider
from tests.central.access.house import House
from tests.central.access.test_oidc import Answering, Place, house, new_key, place, sign_on

__all__ = ["house", "place"]  # fixtures

LOGOUT = "http://schemas.openid.net/event/backchannel-logout"
ISSUER = "https://idp.example"


def sign_out_there(client: httpx.Client, place: Place) -> None:
    """What a person does at the provider: open its sign-out page and say yes."""
    page = client.get(f"{place.issuer}/session/end")
    secret = re.search(r'name="xsrf" value="([^"]+)"', page.text)
    assert secret is not None, page.text
    form = {"xsrf": secret[1], "logout": "yes"}
    assert client.post(f"{place.issuer}/session/end/confirm", data=form).status_code in (302, 303)


@pytest.mark.needs("oidc-provider")
def test_who_signs_out_at_the_provider_is_signed_out_here(place: Place, house: House) -> None:
    with place.provider(new_key("one")):
        here, _ = sign_on(house, "gregory")
        elsewhere, _ = sign_on(house, "gregory")  # another browser, and so another session there
        jane, _ = sign_on(house, "jane")
        sign_out_there(here, place)  # the provider answers once central has
        assert [one.get("/api/me").status_code for one in (here, elsewhere, jane)] == [401, 200, 200]
        (said,) = house.audit.newest(Wanted(action=Action.SIGN_OUT), limit=9)
        assert (said.event.actor, said.event.actor_role, said.event.outcome) == (
            "gregory",
            "doctor",
            "success",
        )
        assert sign_on(house, "gregory")[1].status_code == 200


class Sender:
    """Sends logout tokens to a central that knows their key."""

    def __init__(self, house: House, place: Place, key: dict[str, Any]) -> None:
        self._house = house
        self._key = key
        self._provider = place.key
        self.claims: dict[str, Any] = {
            "iss": place.issuer,
            "aud": "central",
            "sub": "gregory",
            "jti": "one",
            "events": {LOGOUT: {}},
        }

    def send(self, **claims: Any) -> httpx.Response:
        now = int(time.time())
        said = {**self.claims, "iat": now, "exp": now + 120, **claims}
        token = jwt.encode(said, jwt.PyJWK(self._key).key, "RS256", {"kid": "one", "typ": "logout+jwt"})
        return self.send_raw(token)

    def send_raw(self, token: str) -> httpx.Response:
        url = self._house.base_url + at_provider("/signin/oidc/back-channel", self._provider)
        return httpx.post(url, data={"logout_token": token}, timeout=60)


@pytest.mark.needs("oidc-provider")
def test_a_person_or_a_session_is_named(place: Place, house: House) -> None:
    key = new_key("one")
    sender = Sender(house, place, key)
    with place.provider(key):
        one, _ = sign_on(house, "gregory")
        two, _ = sign_on(house, "gregory")
        jane, _ = sign_on(house, "jane")
        answer = sender.send(jti="a")
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert [who.get("/api/me").status_code for who in (one, two, jane)] == [401, 401, 200]
        back, _ = sign_on(house, "gregory")
        replayed = sender.send(jti="a")
        assert (replayed.status_code, replayed.json()["error"]) == (400, "invalid_request")
        assert sender.send(jti="b", sid="a session that is not here").status_code == 200
        assert sender.send(jti="c", sub="somebody who was never here").status_code == 200
        assert back.get("/api/me").status_code == 200
        house.audit.close()
        assert sender.send(jti="d").status_code == 200  # recorded or not
        assert back.get("/api/me").status_code == 401


@pytest.mark.needs("oidc-provider")
def test_a_whole_shift_that_signs_out_at_once_is_signed_out(place: Place, house: House) -> None:
    key = new_key("one")
    sender = Sender(house, place, key)
    with place.provider(key), ThreadPoolExecutor(24) as shift:
        assert sender.send(jti="the first, who makes central ask for the keys").status_code == 200
        answers = [shift.submit(sender.send, jti=str(number), sub=str(number)) for number in range(48)]
        assert [answer.result(60).status_code for answer in answers] == [200] * 48


@pytest.mark.needs("oidc-provider")
def test_a_session_that_ended_there_while_it_began_here_is_none(place: Place, house: House) -> None:
    with place.provider(new_key("one")):
        here, _ = sign_on(house, "gregory")
        session = house.accounts.sessions.find(here.cookies[COOKIE_NAME], "cookie")
        assert session is not None
        named = session.arrival.provider_session
        assert named
        house.doorkeeper.once.take(named, int(time.time()) + 60)
        again = here.get(f"{house.base_url}/signin/oidc")
        url = again.headers["location"]
        while not url.startswith(house.base_url):  # the provider knows this browser, and asks nothing
            answer = here.get(url)
            url = str(httpx.URL(url).join(answer.headers["location"]))
        assert here.get(url).status_code == 200
        assert here.get("/api/me").status_code == 401


@pytest.mark.needs("oidc-provider")
def test_tokens_that_do_not_verify_end_nothing_and_cost_a_wait(place: Place, house: House) -> None:
    key = new_key("one")
    with place.provider(key):
        here, _ = sign_on(house, "gregory")
        forger = Sender(house, place, new_key("one"))
        assert forger.send().status_code == 400
        for _ in range(FAILURES_PER_USERNAME - 1):
            assert forger.send_raw("nonsense").status_code == 400
        waits = Sender(house, place, key).send()
        assert (waits.status_code, int(waits.headers["retry-after"]) > 0) == (429, True)
        assert here.get("/api/me").status_code == 200
    refused = house.audit.newest(Wanted(action=Action.SIGN_OUT), limit=9)
    assert [row.event.outcome for row in refused] == ["refused"] * FAILURES_PER_USERNAME
    body = httpx.post(f"{house.base_url}/signin/oidc/back-channel", content=b"{}", timeout=60)
    assert body.status_code == 400


@pytest.fixture(scope="module")
def key() -> dict[str, Any]:
    return new_key("one")


GOOD: dict[str, Any] = {
    "iss": ISSUER,
    "aud": "central",
    "sub": "s",
    "sid": "x",
    "jti": "j",
    "events": {LOGOUT: {}},
}
MISSING = object()


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://other.example"},
        {"iss": MISSING},
        {"aud": "another"},
        {"aud": MISSING},
        {"iat": MISSING},
        {"iat": time.time() - MAX_AGE_S - 120},
        {"iat": time.time() + 3600},
        {"exp": time.time() - 3600},
        {"jti": MISSING},
        {"jti": 5},
        {"events": MISSING},
        {"events": {}},
        {"events": [LOGOUT]},
        {"events": {LOGOUT: "yes"}},
        {"nonce": "n"},
        {"nonce": None},
        {"sub": MISSING, "sid": MISSING},
        {"sub": ["s"]},
        {"sid": "x" * 256},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_logout_token_verifies_or_ends_nothing(key: dict[str, Any], change: dict[str, Any]) -> None:
    claims = {"iat": time.time(), **GOOD, **change}
    said = {name: value for name, value in claims.items() if value is not MISSING}
    token = jwt.encode(said, jwt.PyJWK(key).key, "RS256", {"kid": "one"})
    with pytest.raises(SignOnRefusedError):
        signed_out(Answering(key), token)


@pytest.mark.parametrize(
    ("kid", "typ", "algorithm"),
    [("two", "logout+jwt", "RS256"), ("one", "at+jwt", "RS256"), ("one", "jwt", "none")],
)
def test_a_header_of_another_kind_ends_nothing(
    key: dict[str, Any], kid: str, typ: str, algorithm: str
) -> None:
    signing = None if algorithm == "none" else jwt.PyJWK(key).key
    token = jwt.encode({"iat": time.time(), **GOOD}, signing, algorithm, {"kid": kid, "typ": typ})  # type: ignore[arg-type]
    with pytest.raises(SignOnRefusedError):
        signed_out(Answering(key), token)


def test_what_a_logout_token_says(key: dict[str, Any]) -> None:
    now = int(time.time())
    provider = Answering(key)
    token = jwt.encode({"iat": now, **GOOD}, jwt.PyJWK(key).key, "RS256", {"kid": "one", "typ": "logout+jwt"})
    said = signed_out(provider, token)
    assert said.provider_session == provider_session_of(ISSUER, "x")
    assert said.user_id is not None
    assert said.ends_at_utc > now + MAX_AGE_S
    without_sub = {name: value for name, value in GOOD.items() if name != "sub"}
    token = jwt.encode({"iat": now, **without_sub}, jwt.PyJWK(key).key, "RS256", {"kid": "one"})
    assert signed_out(provider, token).user_id is None
