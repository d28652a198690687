"""The key set: whom boxes seal for, signed by a root that can stay offline.

A box pins the root's public key when it enrols and believes no sealing key without its signature, so whoever
takes over central's machine cannot make boxes seal for somebody else. Sets are numbered; a box never goes
back to a lower number. Normative text and vectors: docs/formats/key-set.md.
"""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import ClassVar, Final, Protocol, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contract.errors import PermanentError
from contract.sealing import RecipientPublicKey, SealingKeyError
from contract.signed import SignedError, sign, signing_key_id, verify

MAX_KEYS: Final = 16
MAX_KEY_SET_CHARACTERS: Final = 49_152
_TYPE: Final = "dicomnet-key-set+jws"
ModelT = TypeVar("ModelT", bound=BaseModel)


class KeySetError(PermanentError):
    """The key set is not the root's, contradicts itself, or is for another central."""


class KeySetRollbackError(KeySetError):
    """The key set is older than one this box has seen, or another one under the same number."""


class SealingKeyEntry(BaseModel):
    """One sealing key. A retired one is listed without its bytes: nobody shall seal for it any more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    created_at_utc: datetime
    retired_at_utc: datetime | None = None
    public_key: str | None = Field(default=None, max_length=2048, description="raw public key, base64")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.public_key is None) != (self.retired_at_utc is not None):
            raise ValueError("a key in use has its public key, a retired one has its date")
        if self.public_key is not None and self.recipient().key_id.hex() != self.key_id:
            raise ValueError("the key id is not this key's")
        return self

    def recipient(self) -> RecipientPublicKey:
        """The public key; ValueError if it is none."""
        try:
            return RecipientPublicKey(base64.b64decode(self.public_key or "", validate=True))
        except (SealingKeyError, binascii.Error) as error:
            raise ValueError("this is not a sealing key") from error


class KeySet(BaseModel):
    """All sealing keys central knows, in the order they were made. `version` grows by one with every change."""

    KIND: ClassVar[str] = "key set"
    CHANGE: ClassVar[str] = "keys rotate"
    model_config = ConfigDict(frozen=True, extra="forbid")

    central_id: str = Field(max_length=64)
    version: int = Field(ge=1, lt=1 << 53)
    issued_at_utc: datetime
    keys: tuple[SealingKeyEntry, ...] = Field(min_length=1, max_length=MAX_KEYS)

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if len({entry.key_id for entry in self.keys}) != len(self.keys):
            raise ValueError("a key is listed twice")
        if self.keys[-1].public_key is None:
            raise ValueError("the newest key is retired")
        return self

    @property
    def newest(self) -> SealingKeyEntry:
        """The key that boxes seal for."""
        return self.keys[-1]


def sign_key_set(key_set: KeySet, root: Ed25519PrivateKey) -> str:
    return sign(key_set.model_dump(mode="json", exclude_none=True), root, typ=_TYPE)


def verify_key_set(token: str, root: Ed25519PublicKey) -> KeySet:
    """The set inside `token` if `root` signed it, else KeySetError."""
    return signed_by_root(KeySet, token, root, typ=_TYPE, kind="key set", max_length=MAX_KEY_SET_CHARACTERS)


def signed_by_root(
    model: type[ModelT], token: str, root: Ed25519PublicKey, *, typ: str, kind: str, max_length: int
) -> ModelT:
    """What `root` signed, read as `model`, else KeySetError; `kind` is for its sentence."""
    try:
        payload = verify(token, {signing_key_id(root): root}, typ=typ, kind=kind, max_length=max_length)
        return model.model_validate_json(payload)
    except SignedError as error:
        raise KeySetError(str(error)) from error
    except ValidationError as error:
        raise KeySetError(f"the {kind} is malformed or contradicts itself") from error


class Numbered(Protocol):
    """A key set, or a list of receipt keys. `KIND`: what a person calls it; `CHANGE`: the command for the next one."""

    KIND: ClassVar[str]
    CHANGE: ClassVar[str]

    @property
    def central_id(self) -> str: ...

    @property
    def version(self) -> int: ...


def check_successor(held: Numbered, offered: Numbered) -> bool:
    """Whether `offered` is news to who holds `held`: False for the very same set.

    Raises
    ------
    KeySetError : it is another central's.
    KeySetRollbackError : it is older, or differs under the same number.
    """
    if offered.central_id != held.central_id:
        raise KeySetError(f"the {held.KIND} is another central's")
    if offered.version < held.version:
        raise KeySetRollbackError(
            f"central offers {held.KIND} {offered.version}, and this box has {held.version}: central's keys are older "
            f"than they were, perhaps restored from a backup. Restore the newest backup of its keys; where there is no "
            f"newer one, dicomnet-central {held.CHANGE}."
        )
    if offered.version == held.version and offered != held:
        raise KeySetRollbackError(
            f"central offers another {held.KIND} {offered.version} than the one this box has: two copies of central "
            f"were changed apart from each other. Issue one with a higher number (dicomnet-central {held.CHANGE})."
        )
    return offered.version > held.version
