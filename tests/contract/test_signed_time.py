from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract.receipt import ReceiptError, receipt_key_id, verify_receipt
from contract.signed_time import SignedTime, SignedTimeError, new_nonce, sign_time, verify_time

KEY = Ed25519PrivateKey.generate()
KEYS = {receipt_key_id(KEY.public_key()): KEY.public_key()}
NOW = datetime(2026, 5, 1, 12, 0, 0, 250_000, tzinfo=UTC)
NONCE = new_nonce()
SAID = SignedTime(central_id="c", nonce=NONCE, at_utc=NOW)


def test_the_time_comes_back_exactly() -> None:
    assert verify_time(sign_time(SAID, KEY), KEYS, central_id="c", nonce=NONCE) == NOW


def test_it_answers_one_question_of_one_central_only() -> None:
    token = sign_time(SAID, KEY)
    for central_id, nonce in (("c", new_nonce()), ("d", NONCE)):
        with pytest.raises(SignedTimeError, match="another question"):
            verify_time(token, KEYS, central_id=central_id, nonce=nonce)


@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 2000, "é.é.é"])
def test_what_is_not_a_signed_time_is_refused(token: str) -> None:
    with pytest.raises(SignedTimeError):
        verify_time(token, KEYS, central_id="c", nonce=NONCE)


def test_another_key_or_a_changed_time_is_refused() -> None:
    with pytest.raises(SignedTimeError):
        verify_time(sign_time(SAID, Ed25519PrivateKey.generate()), KEYS, central_id="c", nonce=NONCE)
    head, body, signature = sign_time(SAID, KEY).split(".")
    other = sign_time(SAID.model_copy(update={"at_utc": datetime(2038, 1, 1, tzinfo=UTC)}), KEY).split(".")[1]
    assert other != body
    with pytest.raises(SignedTimeError):
        verify_time(f"{head}.{other}.{signature}", KEYS, central_id="c", nonce=NONCE)


def test_a_time_does_not_pass_for_a_receipt() -> None:
    with pytest.raises(ReceiptError, match="not a receipt"):
        verify_receipt(sign_time(SAID, KEY), KEYS)
