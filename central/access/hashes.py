"""What is kept instead of a secret: argon2id of what people choose (passwords, PINs), SHA-256 of random tokens."""

from __future__ import annotations

import hashlib
import hmac
import threading
from typing import Final

import argon2

MAX_SECRET_CHARACTERS: Final = 256
# Each verification takes 64 MiB (RFC 9106, second recommended option): more at once would be a way to fill memory.
_PARALLEL_HASHES: Final = 2


class SecretHashes:
    """One for the whole program, so that the bound is one; safe to call from every thread.

    `parameters` are what a hash costs; what was made with others is verified all the same.
    """

    def __init__(self, parameters: argon2.Parameters = argon2.profiles.RFC_9106_LOW_MEMORY) -> None:
        self._hasher = argon2.PasswordHasher.from_parameters(parameters)
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


def digest(token: str) -> str:
    """What is kept of a token, instead of the token."""
    return hashlib.sha256(token.encode()).hexdigest()


def derive(key: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose; those of two purposes say nothing about each other, or about `key`."""
    return hmac.new(key, purpose.encode(), hashlib.sha256).digest()
