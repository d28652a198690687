import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from contract.receipt import Outcome, Receipt, ReceiptError, receipt_key_id, sign_receipt, verify_receipt

KEY = Ed25519PrivateKey.generate()
KEYS = {receipt_key_id(KEY.public_key()): KEY.public_key()}
RECEIPT = Receipt(
    central_id="c",
    gateway_id="g",
    object_id="0" * 32,
    sha256="a" * 64,
    size_bytes=5,
    stored_bytes=9,
    outcome=Outcome.ARCHIVED,
    archived_at_utc=datetime(2026, 1, 2, tzinfo=UTC),
)


def forge(header: dict[str, object], payload: bytes, key: Ed25519PrivateKey = KEY) -> str:
    def encode(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    signed = f"{encode(json.dumps(header).encode())}.{encode(payload)}"
    return f"{signed}.{encode(key.sign(signed.encode()))}"


def test_a_signed_receipt_comes_back_whole() -> None:
    assert verify_receipt(sign_receipt(RECEIPT, KEY), KEYS) == RECEIPT


def test_every_changed_character_is_refused() -> None:
    token = sign_receipt(RECEIPT, KEY)
    for at, char in enumerate(token):
        if at == len(token) - 1:
            continue  # the last character of base64url carries bits that decode to nothing
        with pytest.raises(ReceiptError):
            verify_receipt(token[:at] + ("A" if char != "A" else "B") + token[at + 1 :], KEYS)


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "a.b.c.d", "é.é.é", "x" * 5000])
def test_what_is_not_a_receipt_is_refused(token: str) -> None:
    with pytest.raises(ReceiptError):
        verify_receipt(token, KEYS)


def test_another_algorithm_type_key_or_member_is_refused() -> None:
    kid = receipt_key_id(KEY.public_key())
    good = {"alg": "EdDSA", "kid": kid, "typ": "dicomnet-receipt+jws"}
    payload = RECEIPT.model_dump_json().encode()
    assert verify_receipt(forge(good, payload), KEYS) == RECEIPT
    for header in (
        {**good, "alg": "none"},
        {**good, "alg": "HS256"},
        {**good, "typ": "JWT"},
        {**good, "kid": "x"},
    ):
        with pytest.raises(ReceiptError):
            verify_receipt(forge(header, payload), KEYS)
    with pytest.raises(ReceiptError):
        verify_receipt(forge(good, payload, Ed25519PrivateKey.generate()), KEYS)
    with pytest.raises(ReceiptError):
        verify_receipt(forge(good, payload[:-1] + b',"more":1}'), KEYS)


def test_the_committed_vector() -> None:
    vector = json.loads((Path(__file__).parent / "vectors" / "receipt-1.json").read_text())
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(vector["public_key"]))
    receipt = verify_receipt(vector["token"], {vector["key_id"]: public})
    assert json.loads(receipt.model_dump_json()) == vector["payload"]
    private = Ed25519PrivateKey.from_private_bytes(base64.b64decode(vector["private_key"]))
    assert sign_receipt(receipt, private) == vector["token"]
