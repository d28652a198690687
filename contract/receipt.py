"""Central's signed word that it holds an object: the only thing that lets a box delete its copy.

A receipt is a JWS in compact form (RFC 7515) signed with Ed25519 (RFC 8037): readable with any JOSE
library, 400 bytes, safe in an HTTP header. Nothing in it identifies a patient.
Worked example: docs/formats/receipt.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.errors import PermanentError

_TYPE = "dicomnet-receipt+jws"
_MAX_LENGTH = 4096


class ReceiptError(PermanentError):
    """The receipt is not central's, or is for something else."""


class Outcome(StrEnum):
    ARCHIVED = "archived"  # new to central
    DUPLICATE = "duplicate"  # central already held these very bytes
    VERSION = "version"  # another content under a known SOP Instance UID: kept beside it and flagged


class Receipt(BaseModel):
    """What central vouches for. `sha256` and `size_bytes` are of the Part 10 file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    central_id: str
    gateway_id: str
    object_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)
    stored_bytes: int = Field(ge=0, description="size of the sealed object as it was received")
    outcome: Outcome
    archived_at_utc: datetime


def receipt_key_id(public: Ed25519PublicKey) -> str:
    """First 16 bytes, in hex, of the SHA-256 of the raw public key."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:32]


def sign_receipt(receipt: Receipt, key: Ed25519PrivateKey) -> str:
    header = {"alg": "EdDSA", "kid": receipt_key_id(key.public_key()), "typ": _TYPE}
    signed = f"{_encode(_json(header))}.{_encode(_json(receipt.model_dump(mode='json')))}"
    return f"{signed}.{_encode(key.sign(signed.encode('ascii')))}"


def verify_receipt(token: str, keys: Mapping[str, Ed25519PublicKey]) -> Receipt:
    """Return the receipt inside `token` if one of `keys` (by key id) signed it, else raise ReceiptError."""
    if len(token) > _MAX_LENGTH:
        raise ReceiptError("the receipt is longer than any receipt is")
    try:
        head, body, signature = token.split(".")
        header = json.loads(_decode(head))
        if not isinstance(header, dict) or header.get("alg") != "EdDSA" or header.get("typ") != _TYPE:
            raise ReceiptError("this is not a receipt")
        key = keys.get(str(header.get("kid")))
        if key is None:
            raise ReceiptError("the receipt is signed with a key that is not central's")
        key.verify(_decode(signature), f"{head}.{body}".encode("ascii"))
        return Receipt.model_validate_json(_decode(body))
    except (ValueError, binascii.Error, ValidationError) as error:
        raise ReceiptError("the receipt is malformed") from error
    except InvalidSignature as error:
        raise ReceiptError("the receipt's signature does not verify") from error


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
