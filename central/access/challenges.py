"""Challenges that an answer has to be signed over: ours, for one purpose and one browser, fresh, and good once.

Why it exists: whoever asks for a challenge has not proved anything yet. So nothing is kept of one that was given out:
it carries its end and a mark that only this house can make. What is kept is which were answered.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from collections.abc import Callable
from typing import Final, Literal

from central.access.errors import PasskeyRefusedError
from central.access.once import Once

LIFE_S: Final = 300
_NONCE_BYTES: Final = 24
_MARK_BYTES: Final = 32
_END: Final = struct.Struct(">Q")

Purpose = Literal["register", "sign-in"]


class Challenges:
    """Challenges marked with `key`; safe to call from every thread. `clock` gives UTC seconds since 1970."""

    def __init__(self, once: Once, key: bytes, clock: Callable[[], float]) -> None:
        self._once = once
        self._key = key
        self._clock = clock

    def give(self, purpose: Purpose, bound_to: str) -> bytes:
        """A challenge for whoever has `bound_to`, a secret of one browser or the name of one session."""
        plain = secrets.token_bytes(_NONCE_BYTES) + _END.pack(int(self._clock()) + LIFE_S)
        return plain + self._mark(plain, purpose, bound_to)

    def take(self, challenge: bytes, purpose: Purpose, bound_to: str) -> None:
        """It is answered now, rightly or not, and good no more.

        Raises
        ------
        PasskeyRefusedError : it is none of ours, of another browser or purpose, too old, or was answered before.
        """
        plain, mark = challenge[:-_MARK_BYTES], challenge[-_MARK_BYTES:]
        if len(plain) != _NONCE_BYTES + _END.size or not hmac.compare_digest(
            mark, self._mark(plain, purpose, bound_to)
        ):
            raise PasskeyRefusedError("the challenge was not given to this browser")
        (ends_at_utc,) = _END.unpack(plain[_NONCE_BYTES:])
        if ends_at_utc <= int(self._clock()):
            raise PasskeyRefusedError("the challenge is too old")
        if not self._once.take(f"challenge\0{challenge.hex()}", ends_at_utc):
            raise PasskeyRefusedError("the challenge was answered before")

    def _mark(self, plain: bytes, purpose: Purpose, bound_to: str) -> bytes:
        return hmac.new(
            self._key, b"\0".join((purpose.encode(), bound_to.encode(), plain)), hashlib.sha256
        ).digest()
