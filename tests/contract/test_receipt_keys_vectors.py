"""A reader of lists of receipt keys written from docs/formats/receipt-keys.md alone, against the committed vectors.

It shares no code with contract.receipt_keys: hashlib, json, base64 and Ed25519.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from contract.key_set import KeySetError, check_successor
from contract.receipt_keys import ReceiptKeyList, is_receipt_keys, sign_receipt_keys, verify_receipt_keys

VECTORS = json.loads((Path(__file__).parent / "vectors" / "receipt-keys-1.json").read_text())
KEY_SETS = json.loads((Path(__file__).parent / "vectors" / "key-set-1.json").read_text())
ROOT_RAW = base64.b64decode(VECTORS["root_public_key"])
ROOT = Ed25519PublicKey.from_public_bytes(ROOT_RAW)
LISTS = VECTORS["lists"]


class RefusedError(Exception):
    pass


def part(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def read(token: str) -> dict[str, Any]:
    """The payload, after every check of the document."""
    if len(token) > 8_192 or token.count(".") != 2:
        raise RefusedError("form")
    head, body, signature = token.split(".")
    kid = hashlib.sha256(ROOT_RAW).digest()[:16].hex()
    if json.loads(part(head)) != {"alg": "EdDSA", "kid": kid, "typ": "dicomnet-receipt-keys+jws"}:
        raise RefusedError("header")
    try:
        ROOT.verify(part(signature), f"{head}.{body}".encode())
    except InvalidSignature as error:
        raise RefusedError("signature") from error
    payload: dict[str, Any] = json.loads(part(body))
    if set(payload) != {"central_id", "version", "issued_at_utc", "keys"}:
        raise RefusedError("members")
    if not 1 <= payload["version"] < 2**53 or not 1 <= len(payload["keys"]) <= 8:
        raise RefusedError("range")
    for entry in payload["keys"]:
        kinds = set(entry) - {"key_id", "created_at_utc", "signs_from_utc"}
        if kinds not in ({"public_key"}, {"retired_at_utc"}):
            raise RefusedError("entry")
        if "public_key" in entry:
            raw = base64.b64decode(entry["public_key"])
            if len(raw) != 32 or hashlib.sha256(raw).digest()[:16].hex() != entry["key_id"]:
                raise RefusedError("key")
    if len({entry["key_id"] for entry in payload["keys"]}) != len(payload["keys"]):
        raise RefusedError("twice")
    if "public_key" not in payload["keys"][-1]:
        raise RefusedError("newest")
    begins = [datetime.fromisoformat(entry["signs_from_utc"]) for entry in payload["keys"]]
    if begins != sorted(begins):
        raise RefusedError("order")
    return payload


@pytest.mark.parametrize("number", range(2))
def test_both_readers_read_what_is_committed_and_the_writer_still_writes_it(number: int) -> None:
    token, payload = LISTS[number]["token"], LISTS[number]["payload"]
    assert read(token) == payload
    held = verify_receipt_keys(token, ROOT)
    assert json.loads(held.model_dump_json(exclude_none=True)) == payload
    root = Ed25519PrivateKey.from_private_bytes(base64.b64decode(VECTORS["root_private_key"]))
    assert sign_receipt_keys(ReceiptKeyList.model_validate_json(json.dumps(payload)), root) == token


@pytest.mark.parametrize("why", VECTORS["refused"])
def test_both_readers_refuse_what_must_be_refused(why: str) -> None:
    token = VECTORS["refused"][why]
    with pytest.raises(RefusedError):
        read(token)
    with pytest.raises(KeySetError):
        verify_receipt_keys(token, ROOT)


def test_a_key_signs_from_its_day_on_and_counts_from_the_first_and_until_it_is_retired() -> None:
    first, second = (verify_receipt_keys(one["token"], ROOT) for one in LISTS)
    old, new = (entry.key_id for entry in first.keys)
    assert set(first.verifying()) == {old, new}
    assert set(second.verifying()) == {new}
    days = [(datetime(2025, 1, 1, tzinfo=UTC), old), (datetime(2026, 2, 14, tzinfo=UTC), old)]
    days.append((datetime(2026, 2, 15, tzinfo=UTC), new))
    assert [first.signing_at(day).key_id for day, _ in days] == [key_id for _, key_id in days]
    assert second.signing_at(days[0][0]).key_id == new
    assert check_successor(first, second)


def test_a_list_and_a_key_set_cannot_pass_for_each_other() -> None:
    token, key_set = LISTS[0]["token"], KEY_SETS["sets"][0]["token"]
    assert [is_receipt_keys(one) for one in (token, key_set, "nonsense", "")] == [True, False, False, False]
    with pytest.raises(KeySetError):
        verify_receipt_keys(key_set, ROOT)
