"""Keys that close a sealed object: HPKE to central's public key, a data key for an hour, a key per object.

The box holds public keys only. A `DataKey` lives in memory, is wrapped once for every recipient with HPKE
(RFC 9180, KEM MLKEM768_X25519, HKDF-SHA256, AES-256-GCM) and never written down, so nothing that was
received before a theft can be opened from the stolen box. A restart makes a new one.
Bytes and test vectors: docs/formats/sealed-object.md.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from contract.errors import PermanentError

KEY_ID_BYTES = 16
DATA_KEY_LIFE_S = 3600.0
WRAPPED_KEY_BYTES = 1120 + 32 + 16  # HPKE enc, the key, the tag
_MLKEM_PUBLIC_BYTES = 1184
_MLKEM_SEED_BYTES = 64
_X25519_BYTES = 32
_WRAP_INFO = b"dicomnet data key 1"
_OBJECT_INFO = b"dicomnet object key 1"
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class SealingKeyError(PermanentError):
    """A sealing key has the wrong shape, or no key at hand opens the object."""


@dataclass(frozen=True)
class RecipientPublicKey:
    """Whom objects are sealed for: 1,184 bytes of ML-KEM-768, then 32 bytes of X25519."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != _MLKEM_PUBLIC_BYTES + _X25519_BYTES:
            raise SealingKeyError(
                f"a sealing key has {_MLKEM_PUBLIC_BYTES + _X25519_BYTES} bytes, not {len(self.raw)}"
            )

    @property
    def key_id(self) -> bytes:
        """First 16 bytes of the SHA-256 of the raw key."""
        return hashlib.sha256(self.raw).digest()[:KEY_ID_BYTES]

    def wrap(self, key: bytes) -> bytes:
        """HPKE seal of `key` (32 bytes): 1,168 bytes."""
        public = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(self.raw[:_MLKEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(self.raw[_MLKEM_PUBLIC_BYTES:]),
        )
        return _SUITE.encrypt(key, public, info=_WRAP_INFO)


@dataclass(frozen=True, repr=False)
class RecipientPrivateKey:
    """Central's half: the 64-byte ML-KEM-768 seed, then 32 bytes of X25519. Never leaves central."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != _MLKEM_SEED_BYTES + _X25519_BYTES:
            raise SealingKeyError("a private sealing key has 96 bytes")

    @classmethod
    def generate(cls) -> RecipientPrivateKey:
        return cls(
            MLKEM768PrivateKey.generate().private_bytes_raw()
            + X25519PrivateKey.generate().private_bytes_raw()
        )

    def _parts(self) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
        return (
            MLKEM768PrivateKey.from_seed_bytes(self.raw[:_MLKEM_SEED_BYTES]),
            X25519PrivateKey.from_private_bytes(self.raw[_MLKEM_SEED_BYTES:]),
        )

    def public_key(self) -> RecipientPublicKey:
        mlkem, x25519 = self._parts()
        return RecipientPublicKey(
            mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        )

    def unwrap(self, wrapped: bytes) -> bytes:
        """Open what `RecipientPublicKey.wrap` closed; SealingKeyError if it was not for this key or changed."""
        try:
            key = _SUITE.decrypt(wrapped, MLKEM768X25519PrivateKey(*self._parts()), info=_WRAP_INFO)
        except (InvalidTag, ValueError) as error:
            raise SealingKeyError("the wrapped data key does not open with this sealing key") from error
        if len(key) != 32:
            raise SealingKeyError("the wrapped data key does not hold 32 bytes")
        return key


@dataclass(frozen=True, repr=False)
class DataKey:
    """A key for one process life and at most one hour, with its wrapping for each recipient."""

    key: bytes
    wrapped: tuple[tuple[bytes, bytes], ...]  # (key_id, wrapped key) a recipient

    @classmethod
    def generate(cls, recipients: tuple[RecipientPublicKey, ...]) -> DataKey:
        if not recipients:
            raise SealingKeyError("nobody to seal for: the box is not enrolled")
        key = os.urandom(32)
        return cls(key, tuple((recipient.key_id, recipient.wrap(key)) for recipient in recipients))


class DataKeyRing:
    """Hands out the current data key, a new one each hour. Safe to call from many threads.

    Two threads that find the key expired at once may each make one; both are valid.
    """

    def __init__(
        self, recipients: tuple[RecipientPublicKey, ...], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.recipients = recipients
        self._clock = clock
        self._current: tuple[float, DataKey] | None = None

    def current(self) -> DataKey:
        now = self._clock()
        held = self._current
        if held is None or now - held[0] >= DATA_KEY_LIFE_S:
            held = self._current = (now, DataKey.generate(self.recipients))
        return held[1]


class Unwrapper:
    """Opens wrapped data keys, remembering the last few: a box wraps one an hour and seals many objects with it."""

    _REMEMBERED = 64

    def __init__(self, private_keys: Mapping[bytes, RecipientPrivateKey]) -> None:
        self._private_keys = private_keys
        self._opened: dict[bytes, bytes] = {}

    def __call__(self, wrapped_keys: tuple[tuple[bytes, bytes], ...]) -> bytes:
        """The data key inside the first wrapping that is for one of our keys; SealingKeyError if none is."""
        for key_id, wrapped in wrapped_keys:
            private = self._private_keys.get(key_id)
            if private is None:
                continue
            known = self._opened.get(wrapped)
            if known is None:
                known = private.unwrap(wrapped)
                while len(self._opened) >= self._REMEMBERED:
                    self._opened.pop(next(iter(self._opened)), None)
                self._opened[wrapped] = known
            return known
        raise SealingKeyError("the object is sealed for a key that is not here")


def object_key(data_key: bytes, object_id: bytes, header: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869): salt = object id, info binds the whole header, so no header fits another key."""
    # Extract and expand written out, since one block of output is all: a tenth of what a KDF object costs, an instance.
    extracted = hmac.digest(object_id, data_key, "sha256")
    return hmac.digest(extracted, _OBJECT_INFO + hashlib.sha256(header).digest() + b"\x01", "sha256")
