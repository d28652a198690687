"""The receipt keys: with what central signs receipts and the time, listed and signed by the root of key sets.

A box pins the root when it enrols. It learns of a new receipt key here before central signs with it, keeps the former
ones for what was signed before, and drops one only when the root says so. Lists are numbered like key sets, and never
go back. Normative text and vectors: docs/formats/receipt-keys.md.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import ClassVar, Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from contract.key_set import signed_by_root
from contract.receipt import receipt_key_id
from contract.signed import named, sign

RECEIPT_KEYS_PATH: Final = "/ingest/v1/receipt-keys"
"""GET, anonymous → the list as JWS; 204: this central has always had one key, the one of its introduction."""
MAX_RECEIPT_KEYS: Final = 8
MAX_RECEIPT_KEYS_CHARACTERS: Final = 8_192
_TYPE: Final = "dicomnet-receipt-keys+jws"


class ReceiptKeyEntry(BaseModel):
    """One key. A retired one is listed without its bytes: nothing that it signed counts any more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    created_at_utc: AwareDatetime
    signs_from_utc: AwareDatetime = Field(description="not before every box had time to learn of it")
    retired_at_utc: AwareDatetime | None = None
    public_key: str | None = Field(default=None, max_length=64, description="raw Ed25519 public key, base64")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.public_key is None) != (self.retired_at_utc is not None):
            raise ValueError("a key in use has its public key, a retired one has its date")
        if self.public_key is not None and receipt_key_id(self.verifying()) != self.key_id:
            raise ValueError("the key id is not this key's")
        return self

    def verifying(self) -> Ed25519PublicKey:
        """The public key; ValueError if it is none."""
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(self.public_key or "", validate=True))


class ReceiptKeyList(BaseModel):
    """All receipt keys of a central, in the order in which they sign. `version` grows by one with every change."""

    KIND: ClassVar[str] = "list of receipt keys"
    CHANGE: ClassVar[str] = "keys rotate-receipts"
    model_config = ConfigDict(frozen=True, extra="forbid")

    central_id: str = Field(max_length=64)
    version: int = Field(ge=1, lt=1 << 53)
    issued_at_utc: AwareDatetime
    keys: tuple[ReceiptKeyEntry, ...] = Field(min_length=1, max_length=MAX_RECEIPT_KEYS)

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if len({entry.key_id for entry in self.keys}) != len(self.keys):
            raise ValueError("a key is listed twice")
        if self.keys[-1].public_key is None:
            raise ValueError("the newest key is retired")
        begins = [entry.signs_from_utc for entry in self.keys]
        if begins != sorted(begins):
            raise ValueError("the keys are not in the order in which they sign")
        return self

    @property
    def newest(self) -> ReceiptKeyEntry:
        return self.keys[-1]

    def verifying(self) -> Mapping[str, Ed25519PublicKey]:
        """Keys that count, by key id, as `contract.receipt.verify_receipt` wants them."""
        return {entry.key_id: entry.verifying() for entry in self.keys if entry.public_key is not None}

    def signing_at(self, now: AwareDatetime) -> ReceiptKeyEntry:
        """The key that central signs with: the last whose time has come, or else the first that is not retired."""
        good = [entry for entry in self.keys if entry.public_key is not None]
        return next((entry for entry in reversed(good) if entry.signs_from_utc <= now), good[0])


def is_receipt_keys(token: str) -> bool:
    """Whether this is such a list rather than a key set, by its own word."""
    return named(token, "typ") == _TYPE


def sign_receipt_keys(keys: ReceiptKeyList, root: Ed25519PrivateKey) -> str:
    return sign(keys.model_dump(mode="json", exclude_none=True), root, typ=_TYPE)


def verify_receipt_keys(token: str, root: Ed25519PublicKey) -> ReceiptKeyList:
    """The list inside `token` if `root` signed it, else KeySetError."""
    return signed_by_root(
        ReceiptKeyList,
        token,
        root,
        typ=_TYPE,
        kind="list of receipt keys",
        max_length=MAX_RECEIPT_KEYS_CHARACTERS,
    )
