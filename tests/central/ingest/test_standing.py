"""The time for whoever asks, and the exchange of keys for known gateways only; over real TLS."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from contract.enrolment import INTRODUCTION_PATH, Introduction
from contract.receipt import receipt_key_id
from contract.receipt_keys import RECEIPT_KEYS_PATH, verify_receipt_keys
from contract.signed_time import new_nonce, verify_time
from contract.standing import STANDING_PATH, StandingAnswer, StandingReport
from contract.transfer import TIME_PATH, Problem
from tests.central.app.house import Box, House, client_tls, rotate_receipts


def keys_of(house: House) -> dict[str, Ed25519PublicKey]:
    public = house.central.foundation.identity.receipt_key.public_key()
    return {receipt_key_id(public): public}


def test_the_time_is_signed_for_this_question_and_asks_for_no_certificate(house: House, box: Box) -> None:
    nonce = new_nonce()
    with httpx.Client(base_url=house.gateways_url, verify=client_tls(box.answer.ca_pem)) as nobody:
        answer = nobody.get(TIME_PATH, params={"nonce": nonce})
        said = verify_time(answer.text, keys_of(house), central_id=box.answer.central_id, nonce=nonce)
        assert abs(said - datetime.now(UTC)) < timedelta(seconds=30)
        assert answer.headers["cache-control"] == "no-store"
        for query in ("", "?nonce=", "?nonce=" + "A" * 32, "?nonce=" + "a" * 33):
            assert nobody.get(TIME_PATH + query).status_code == 400


def test_the_list_of_receipt_keys_is_there_for_whoever_asks_once_there_is_one(house: House, box: Box) -> None:
    identity = house.central.foundation.identity
    with httpx.Client(base_url=house.gateways_url, verify=client_tls(box.answer.ca_pem)) as nobody:
        assert (nobody.get(RECEIPT_KEYS_PATH).status_code, nobody.get(RECEIPT_KEYS_PATH).content) == (
            204,
            b"",
        )
        offered = rotate_receipts(house, lead=timedelta(0))
        answer = nobody.get(RECEIPT_KEYS_PATH)
        assert verify_receipt_keys(answer.text, identity.sealing_keys.root_public()) == offered
        assert answer.headers["cache-control"] == "no-store"
        nonce = new_nonce()
        said = nobody.get(TIME_PATH, params={"nonce": nonce}).text
        newest = {offered.newest.key_id: offered.newest.verifying()}
        verify_time(said, newest, central_id=box.answer.central_id, nonce=nonce)
    with box.client() as client:
        introduced = Introduction.model_validate_json(client.get(INTRODUCTION_PATH).content)
    listed = [
        base64.b64decode(raw) for raw in introduced.receipt_keys
    ]  # what boxes of an earlier version go by
    assert listed == [entry.verifying().public_bytes_raw() for entry in offered.keys]


def test_keys_are_exchanged_with_known_gateways_only(house: House, box: Box) -> None:
    newest = house.central.foundation.identity.sealing_keys.current_set().newest.key_id
    report = StandingReport(key_set_version=1, needed_key_ids=(newest,)).model_dump_json()
    with httpx.Client(base_url=house.gateways_url, verify=client_tls(box.answer.ca_pem)) as nobody:
        refused = nobody.post(STANDING_PATH, content=report)
        assert (refused.status_code, refused.json()["type"]) == (403, Problem.CERTIFICATE)
        assert nobody.get(INTRODUCTION_PATH).status_code == 401
        assert nobody.get(INTRODUCTION_PATH, auth=("x", "0" * 32)).status_code == 403
    with box.client() as client:
        answer = StandingAnswer.model_validate_json(client.post(STANDING_PATH, content=report).content)
        assert answer.key_set == house.central.foundation.identity.sealing_keys.signed_set()
        assert not answer.seen_twice
        introduction = Introduction.model_validate_json(client.get(INTRODUCTION_PATH).content)
        assert introduction.root_key == box.answer.root_key
        house.revoke(box.gateway_id)
        refused = client.post(STANDING_PATH, content=report)
        assert refused.status_code == 403
        assert f"pair --replaces {box.gateway_id}" in refused.json()["detail"]
        assert client.get(INTRODUCTION_PATH).status_code == 403


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"key_set_version": 0, "needed_key_ids": []}', b"x" * 20_000]
)
def test_nonsense_is_no_report(house: House, box: Box, body: bytes) -> None:
    with box.client() as client:
        assert client.post(STANDING_PATH, content=body).status_code == 400
    assert house.central.foundation.standings.all()[0].reported_at_utc is None


def test_a_used_pairing_still_introduces_its_own_box_and_an_expired_one_nobody(
    house: House, box: Box
) -> None:
    pairing = house.pairing()
    tls = client_tls(box.answer.ca_pem)
    with httpx.Client(base_url=house.gateways_url, verify=tls, auth=("x", pairing.token)) as client:
        assert client.get(INTRODUCTION_PATH).status_code == 200
        house.central.foundation.db.execute_sql("UPDATE pairing_token SET expires_at = 1")
        assert client.get(INTRODUCTION_PATH).status_code == 403
