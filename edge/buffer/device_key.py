"""Seals what must be readable on the box itself: the worklist, performed procedures, attributes for queries.

Why it exists: images are sealed for central and the box cannot open them; these records it must open again after
a restart. Their key lies in a file of its own, apart from the data, so that a copied or discarded data
directory opens nothing.

    sealed record:  0x01 | salt (32 bytes) | ChaCha20-Poly1305 ciphertext and tag

Always true: every record has its own key, HKDF-SHA-256 of the device key over a random salt and the record's
context, so no pair of key and nonce ever seals twice, and a record opens only in the context it was sealed for.
The key file has mode 0600 and was durable before its key sealed anything. A crash leaves the whole file or none.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edge.buffer.durable_file import create_file
from edge.buffer.errors import PermanentSpoolError

_VERSION: Final = b"\x01"
_KEY_BYTES: Final = 32
_SALT_BYTES: Final = 32
_TAG_BYTES: Final = 16
_NONCE: Final = bytes(12)  # the key is the record's own, so one nonce is enough
OVERHEAD_BYTES: Final = len(_VERSION) + _SALT_BYTES + _TAG_BYTES
"""How much longer a sealed record is than what is in it."""


class DeviceKeyError(PermanentSpoolError):
    """The key file is not one. Its text says what to do."""


class NotSealedHereError(PermanentSpoolError):
    """The record is damaged, was sealed with another device key, or belongs to another context."""

    def __init__(self, context: str) -> None:
        super().__init__(
            f"a sealed record ({context}) does not open: it is damaged, or sealed with another device key"
        )


class DeviceKey:
    """The box's own key. Safe from any thread."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def load(cls, path: Path) -> DeviceKey:
        """The key in `path`; made there (mode 0600, directory 0700) if there is none.

        Raises
        ------
        DeviceKeyError : the file holds something else.
        OSError : it cannot be read or written.
        """
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            create_file(path, secrets.token_bytes(_KEY_BYTES))  # of two makers the first one wins
            key = path.read_bytes()
        if len(key) != _KEY_BYTES:
            raise DeviceKeyError(
                f"{path} is not a device key: restore it from a backup, or remove it; "
                "what was sealed with it (worklist, unsent procedure steps) is lost then"
            )
        return cls(key)

    def seal(self, record: bytes, context: str) -> bytes:
        """`record` closed up for `context`, a name such as ``worklist`` or ``mpps <uid>``."""
        salt = secrets.token_bytes(_SALT_BYTES)
        return _VERSION + salt + self._cipher(salt, context).encrypt(_NONCE, record, _VERSION)

    def open(self, sealed: bytes, context: str) -> bytes:
        """What `seal` closed up for the same context.

        Raises
        ------
        NotSealedHereError : it does not open.
        """
        if len(sealed) < OVERHEAD_BYTES or sealed[:1] != _VERSION:
            raise NotSealedHereError(context)
        salt = sealed[1 : 1 + _SALT_BYTES]
        try:
            return self._cipher(salt, context).decrypt(_NONCE, sealed[1 + _SALT_BYTES :], _VERSION)
        except InvalidTag as error:
            raise NotSealedHereError(context) from error

    def _cipher(self, salt: bytes, context: str) -> ChaCha20Poly1305:
        info = b"dicomnet device key 1\0" + context.encode()
        return ChaCha20Poly1305(HKDF(SHA256(), _KEY_BYTES, salt, info).derive(self._key))
