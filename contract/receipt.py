"""Central's signed word that it holds an object: the only thing that lets a box delete its copy.

A receipt is a JWS in compact form (RFC 7515) signed with Ed25519 (RFC 8037): readable with any JOSE
library, 400 bytes, safe in an HTTP header. Nothing in it identifies a patient.
Worked example: docs/formats/receipt.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.errors import PermanentError
from contract.signed import SignedError, kept, sign, signing_key_id, verify

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
    return signing_key_id(public)


def sign_receipt(receipt: Receipt, key: Ed25519PrivateKey) -> str:
    return sign(receipt.model_dump(mode="json"), key, typ=_TYPE)


def verify_receipt(token: str, keys: Mapping[str, Ed25519PublicKey]) -> Receipt:
    """Return the receipt inside `token` if one of `keys` (by key id) signed it, else raise ReceiptError."""
    return _read(lambda: verify(token, keys, typ=_TYPE, kind="receipt", max_length=_MAX_LENGTH))


def kept_receipt(token: str) -> Receipt:
    """The receipt that was verified when it came, whether its key counts any more or not; else ReceiptError."""
    return _read(lambda: kept(token, typ=_TYPE, kind="receipt", max_length=_MAX_LENGTH))


def _read(payload: Callable[[], bytes]) -> Receipt:
    try:
        return Receipt.model_validate_json(payload())
    except SignedError as error:
        raise ReceiptError(str(error)) from error
    except ValidationError as error:
        raise ReceiptError("the receipt is malformed") from error
