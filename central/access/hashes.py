"""Secrets that people choose (passwords, PINs), kept as argon2id and compared with bounded memory."""

from __future__ import annotations

import threading
from typing import Final

import argon2

MAX_SECRET_CHARACTERS: Final = 256
# Each verification takes 64 MiB (RFC 9106, second recommended option): more at once would be a way to fill memory.
_PARALLEL_HASHES: Final = 2


class SecretHashes:
    """One for the whole program, so that the bound is one; safe to call from every thread."""

    def __init__(self) -> None:
        self._hasher = argon2.PasswordHasher()
        self._hashing = threading.BoundedSemaphore(_PARALLEL_HASHES)

    def hash(self, secret: str) -> str:
        """Salt, parameters and hash in argon2's encoded form."""
        with self._hashing:
            return self._hasher.hash(secret)

    def matches(self, encoded: str, secret: str) -> bool:
        """Whether `encoded` was made from `secret`; what is longer than any secret matches none."""
        with self._hashing:
            try:
                return self._hasher.verify(encoded, secret[: MAX_SECRET_CHARACTERS + 1])
            except argon2.exceptions.VerifyMismatchError:
                return False
