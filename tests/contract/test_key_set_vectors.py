"""A reader of key sets written from docs/formats/key-set.md alone, against the committed vectors and the contract.

It shares no code with contract.key_set: hashlib, json, base64 and Ed25519.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from contract.key_set import KeySet, KeySetError, check_successor, sign_key_set, verify_key_set

VECTORS = json.loads((Path(__file__).parent / "vectors" / "key-set-1.json").read_text())
ROOT_RAW = base64.b64decode(VECTORS["root_public_key"])
ROOT = Ed25519PublicKey.from_public_bytes(ROOT_RAW)
SETS = VECTORS["sets"]


class RefusedError(Exception):
    pass


def part(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def read(token: str) -> dict[str, Any]:
    """The payload, after every check of the document."""
    if len(token) > 49_152 or token.count(".") != 2:
        raise RefusedError("form")
    head, body, signature = token.split(".")
    kid = hashlib.sha256(ROOT_RAW).digest()[:16].hex()
    if json.loads(part(head)) != {"alg": "EdDSA", "kid": kid, "typ": "dicomnet-key-set+jws"}:
        raise RefusedError("header")
    try:
        ROOT.verify(part(signature), f"{head}.{body}".encode())
    except InvalidSignature as error:
        raise RefusedError("signature") from error
    payload: dict[str, Any] = json.loads(part(body))
    if set(payload) != {"central_id", "version", "issued_at_utc", "keys"}:
        raise RefusedError("members")
    if not 1 <= payload["version"] < 2**53 or not 1 <= len(payload["keys"]) <= 16:
        raise RefusedError("range")
    for entry in payload["keys"]:
        kinds = set(entry) - {"key_id", "created_at_utc"}
        if kinds not in ({"public_key"}, {"retired_at_utc"}):
            raise RefusedError("entry")
        if "public_key" in entry:
            raw = base64.b64decode(entry["public_key"])
            if len(raw) != 1216 or hashlib.sha256(raw).digest()[:16].hex() != entry["key_id"]:
                raise RefusedError("key")
    if len({entry["key_id"] for entry in payload["keys"]}) != len(payload["keys"]):
        raise RefusedError("twice")
    if "public_key" not in payload["keys"][-1]:
        raise RefusedError("newest")
    return payload


@pytest.mark.parametrize("number", range(3))
def test_both_readers_read_what_is_committed(number: int) -> None:
    token, payload = SETS[number]["token"], SETS[number]["payload"]
    assert read(token) == payload
    held = verify_key_set(token, ROOT)
    assert json.loads(held.model_dump_json(exclude_none=True)) == payload
    assert held.newest.key_id == payload["keys"][-1]["key_id"]


@pytest.mark.parametrize("number", range(3))
def test_the_writer_still_writes_the_same_bytes(number: int) -> None:
    root = Ed25519PrivateKey.from_private_bytes(base64.b64decode(VECTORS["root_private_key"]))
    made = KeySet.model_validate_json(json.dumps(SETS[number]["payload"]))
    assert sign_key_set(made, root) == SETS[number]["token"]


@pytest.mark.parametrize("why", VECTORS["refused"])
def test_both_readers_refuse_what_must_be_refused(why: str) -> None:
    token = VECTORS["refused"][why]
    with pytest.raises(RefusedError):
        read(token)
    with pytest.raises(KeySetError):
        verify_key_set(token, ROOT)


def test_any_changed_character_is_refused() -> None:
    token = SETS[0]["token"]
    for at in range(0, len(token) - 1, 7):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(KeySetError):
            verify_key_set(changed, ROOT)


def test_only_a_higher_number_is_news() -> None:
    first, second, third = (verify_key_set(one["token"], ROOT) for one in SETS)
    assert check_successor(first, third)
    assert not check_successor(second, second)
    for held, offered in (
        (third, second),
        (second, third.model_copy(update={"version": 2})),
        (first, second.model_copy(update={"central_id": "another"})),
    ):
        with pytest.raises(KeySetError):
            check_successor(held, offered)


def test_a_set_is_never_longer_than_a_reader_takes() -> None:
    entry = SETS[0]["payload"]["keys"][0]
    assert 16 * len(json.dumps(entry)) * 4 / 3 < 49_152
