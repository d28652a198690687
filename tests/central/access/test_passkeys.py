"""Passkeys: what is taken, and every way in which an answer can be wrong, on the real verification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from central.access.challenges import LIFE_S
from central.access.doorkeeper import Doorkeeper
from central.access.errors import FactorChangeError, PasskeyRefusedError, ThrottledError
from central.access.passkeys import MAX_PASSKEYS, Passkeys, RelyingParty
from central.access.policy import Principal, Role
from central.access.throttle import FAILURES_PER_USERNAME
from central.config import PeopleSettings
from central.database import Database
from tests.central.access.authenticator import USER_PRESENT, Authenticator, raw, text
from tests.central.access.conftest import Clock
from tests.central.access.house import CHEAP, FACTOR_KEY

ORIGIN = "https://central.example:8443"
ANN = Principal("ann's id", "ann", Role.DOCTOR)


@pytest.fixture
def passkeys(db: Database, clock: Clock) -> Passkeys:
    return Doorkeeper.open(db, clock, CHEAP, factor_key=FACTOR_KEY, public_url=ORIGIN).passkeys


@pytest.fixture
def device() -> Authenticator:
    return Authenticator(ORIGIN, "central.example")


def register(passkeys: Passkeys, device: Authenticator, owner: Principal = ANN) -> str:
    answer = device.make(passkeys.registration_options(owner, "session"))
    return passkeys.register(owner.user_id, "laptop", answer, "session").passkey_id


def prove(passkeys: Passkeys, device: Authenticator, browser: str = "browser") -> str:
    return passkeys.prove(device.show(passkeys.sign_in_options(browser)), browser, "::1")


def test_a_passkey_proves_its_owner(passkeys: Passkeys, device: Authenticator, clock: Clock) -> None:
    options = passkeys.registration_options(ANN, "session")
    assert options["rp"]["id"] == "central.example"
    assert options["authenticatorSelection"]["residentKey"] == "required"
    assert options["authenticatorSelection"]["userVerification"] == "required"
    passkey_id = register(passkeys, device)
    clock.now += 60
    assert prove(passkeys, device) == ANN.user_id
    (kept,) = passkeys.of(ANN.user_id)
    assert (kept.passkey_id, kept.name, kept.last_used_at_utc) == (passkey_id, "laptop", int(clock.now))
    excluded = passkeys.registration_options(ANN, "session")["excludeCredentials"]
    assert [one["id"] for one in excluded] == [text(device.credential_id)]
    assert not passkeys.remove("somebody else", passkey_id)
    assert passkeys.remove(ANN.user_id, passkey_id)
    with pytest.raises(PasskeyRefusedError, match="not known"):
        prove(passkeys, device)


def other_origin(device: Authenticator) -> None:
    device.origin = "https://central.example"  # another port


def other_party(device: Authenticator) -> None:
    device.rp_id = "example"


def not_verified(device: Authenticator) -> None:
    device.flags = USER_PRESENT


def not_present(device: Authenticator) -> None:
    device.flags = 0x04


def other_handle(device: Authenticator) -> None:
    device.user_handle = b"bob's id"


def other_key(device: Authenticator) -> None:
    device.key = Authenticator(ORIGIN, "x").key


@pytest.mark.parametrize(
    "change", [other_origin, other_party, not_verified, not_present, other_handle, other_key]
)
def test_answers_that_prove_nobody(
    passkeys: Passkeys, device: Authenticator, change: Callable[[Authenticator], None]
) -> None:
    register(passkeys, device)
    change(device)
    with pytest.raises(PasskeyRefusedError):
        prove(passkeys, device)


@pytest.mark.parametrize("change", [other_origin, other_party, not_verified, not_present])
def test_answers_that_register_nothing(
    passkeys: Passkeys, device: Authenticator, change: Callable[[Authenticator], None]
) -> None:
    change(device)
    with pytest.raises(PasskeyRefusedError):
        register(passkeys, device)
    assert passkeys.of(ANN.user_id) == []


def flipped(encoded: str) -> str:
    content = bytearray(raw(encoded))
    content[len(content) // 2] ^= 1
    return text(bytes(content))


@pytest.mark.parametrize("part", ["clientDataJSON", "authenticatorData", "signature", "userHandle"])
@pytest.mark.parametrize("how", ["flipped", "empty", "missing", "a number", "no base64"])
def test_a_tampered_answer_proves_nobody(
    passkeys: Passkeys, device: Authenticator, part: str, how: str
) -> None:
    register(passkeys, device)
    answer = device.show(passkeys.sign_in_options("browser"))
    response: dict[str, Any] = answer["response"]
    if how == "missing":
        del response[part]
    else:
        wrong = {"flipped": flipped(response[part]), "empty": "", "a number": 5, "no base64": "%%%é"}
        response[part] = wrong[how]
    with pytest.raises(PasskeyRefusedError):
        passkeys.prove(answer, "browser", "::1")


@pytest.mark.parametrize(
    "answer", [{}, {"id": "x"}, {"id": 5, "response": []}, {"response": {"clientDataJSON": "bnVsbA"}}]
)
def test_what_is_no_answer_proves_nobody(passkeys: Passkeys, answer: dict[str, Any]) -> None:
    with pytest.raises(PasskeyRefusedError):
        passkeys.prove(answer, "browser", "::1")
    with pytest.raises(PasskeyRefusedError):
        passkeys.register(ANN.user_id, "x", answer, "session")


def test_a_challenge_is_good_once_here_and_now(
    passkeys: Passkeys, device: Authenticator, clock: Clock
) -> None:
    register(passkeys, device)
    answer = device.show(passkeys.sign_in_options("browser"))
    with pytest.raises(PasskeyRefusedError, match="not given to this browser"):
        passkeys.prove(answer, "another browser", "::1")
    assert passkeys.prove(answer, "browser", "::1") == ANN.user_id
    with pytest.raises(PasskeyRefusedError, match="answered before"):
        passkeys.prove(answer, "browser", "::1")
    late = device.show(passkeys.sign_in_options("browser"))
    clock.now += LIFE_S
    with pytest.raises(PasskeyRefusedError, match="too old"):
        passkeys.prove(late, "browser", "::1")
    for_registration = device.show(passkeys.registration_options(ANN, "browser"))
    with pytest.raises(PasskeyRefusedError, match="not given to this browser"):
        passkeys.prove(for_registration, "browser", "::1")
    made_up = device.show({"challenge": text(bytes(64))})
    with pytest.raises(PasskeyRefusedError, match="not given to this browser"):
        passkeys.prove(made_up, "browser", "::1")


def test_a_challenge_that_was_answered_wrongly_is_good_no_more(
    passkeys: Passkeys, device: Authenticator
) -> None:
    register(passkeys, device)
    options = passkeys.sign_in_options("browser")
    right = device.show(options)
    other_key(device)
    with pytest.raises(PasskeyRefusedError, match="does not verify"):
        passkeys.prove(device.show(options), "browser", "::1")
    with pytest.raises(PasskeyRefusedError, match="answered before"):
        passkeys.prove(right, "browser", "::1")


def test_a_counter_goes_on_or_nobody_is_proved(passkeys: Passkeys, device: Authenticator) -> None:
    device.sign_count = 5
    register(passkeys, device)
    for said in (5, 4, 0):
        device.sign_count = said
        with pytest.raises(PasskeyRefusedError, match="may have been copied") as caught:
            prove(passkeys, device)
        assert caught.value.user_id == ANN.user_id
    device.sign_count = 6
    assert prove(passkeys, device) == ANN.user_id
    device.sign_count, owner = 3, device.key
    other_key(device)  # who has not the key cannot say that the counter went back
    with pytest.raises(PasskeyRefusedError, match="does not verify"):
        prove(passkeys, device)
    device.key, device.sign_count = owner, 7
    assert prove(passkeys, device) == ANN.user_id


def test_an_authenticator_without_a_counter_is_taken(passkeys: Passkeys, device: Authenticator) -> None:
    register(passkeys, device)
    assert [prove(passkeys, device) for _ in range(2)] == [ANN.user_id] * 2
    device.sign_count = 1
    assert prove(passkeys, device) == ANN.user_id
    device.sign_count = 0
    with pytest.raises(PasskeyRefusedError, match="copied"):
        prove(passkeys, device)


def test_guessing_is_throttled(passkeys: Passkeys, device: Authenticator) -> None:
    register(passkeys, device)
    not_verified(device)
    for _ in range(FAILURES_PER_USERNAME):
        with pytest.raises(PasskeyRefusedError):
            prove(passkeys, device)
    with pytest.raises(ThrottledError):
        prove(passkeys, device)


def test_an_account_has_so_many_passkeys_and_each_once(passkeys: Passkeys, device: Authenticator) -> None:
    register(passkeys, device)
    with pytest.raises(FactorChangeError, match="registered already"):
        register(passkeys, device, Principal("bob's id", "bob", Role.DOCTOR))
    for _ in range(MAX_PASSKEYS - 1):
        register(passkeys, Authenticator(ORIGIN, "central.example"))
    with pytest.raises(FactorChangeError, match="at most"):
        register(passkeys, Authenticator(ORIGIN, "central.example"))
    answer = device.make({"user": {"id": ""}, "challenge": ""})
    for name in ("", "x" * 65):
        with pytest.raises(FactorChangeError, match="name"):
            passkeys.register(ANN.user_id, name, answer, "session")


def test_without_a_public_url_there_are_none(db: Database, clock: Clock) -> None:
    passkeys = Doorkeeper.open(db, clock, CHEAP, factor_key=FACTOR_KEY).passkeys
    assert not passkeys.are_possible
    for asked in (
        lambda: passkeys.sign_in_options("browser"),
        lambda: passkeys.registration_options(ANN, "session"),
        lambda: passkeys.prove({}, "browser", "::1"),
    ):
        with pytest.raises(FactorChangeError, match="public_url"):
            asked()


@pytest.mark.parametrize(
    ("public_url", "origin", "rp_id"),
    [
        ("https://central.example", "https://central.example", "central.example"),
        ("https://Central.Example:443", "https://central.example", "central.example"),
        ("https://central.example:8443", "https://central.example:8443", "central.example"),
        ("http://localhost:80", "http://localhost", "localhost"),
    ],
)
def test_the_origin_is_written_as_browsers_do(public_url: str, origin: str, rp_id: str) -> None:
    assert RelyingParty.at(PeopleSettings(public_url=public_url).public_url) == RelyingParty(origin, rp_id)


@pytest.mark.parametrize(
    "public_url",
    [
        "central.example",
        "http://central.example",
        "https://192.0.2.1",
        "https://[::1]:8080",
        "http://127.0.0.1:8080",
        "https://central.example/dicom",
        "https://a:b@central.example",
        "https://zentrale.häuser.example",
    ],
)
def test_urls_for_which_no_passkey_can_hold_are_refused(public_url: str) -> None:
    with pytest.raises(ValidationError, match="public_url"):
        PeopleSettings(public_url=public_url)
