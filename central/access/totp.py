"""Time-based one-time passwords (RFC 6238 over RFC 4226). Pure.

SHA-1, six digits, 30 seconds: what every authenticator app can do, and many can do nothing else. SHA-1 is sound here:
nobody chooses what is hashed, and collisions are no way to a code.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from typing import Final
from urllib.parse import quote, urlencode

STEP_S: Final = 30
DIGITS: Final = 6
SECRET_BYTES: Final = 20
"""As long as the hash (RFC 4226 section 4, R6)."""

_ISSUER: Final = "DICOM Network"
_STEPS_APART: Final = 1  # RFC 6238 section 5.2: one step for a clock that is off, and for slow fingers


def code_at(secret: bytes, step: int, digits: int = DIGITS) -> str:
    """The code of time step `step` (RFC 4226 section 5.3)."""
    mac = hmac.new(secret, struct.pack(">Q", step), hashlib.sha1).digest()
    offset = mac[-1] & 0x0F
    number = struct.unpack_from(">I", mac, offset)[0] & 0x7FFFFFFF
    return str(number % 10**digits).zfill(digits)


def step_of(secret: bytes, code: str, now_utc: float, after_step: int = 0) -> int | None:
    """The time step whose code this is, later than `after_step` and at most one from now; None if there is none.

    Every step is looked at, whatever the one before said.
    """
    now = int(now_utc) // STEP_S
    found = None
    for step in range(now - _STEPS_APART, now + _STEPS_APART + 1):
        if hmac.compare_digest(code_at(secret, step).encode(), code.encode()) and step > after_step:
            found = step
    return found


def secret_text(secret: bytes) -> str:
    """As people type it into an app: base32 in groups of four."""
    plain = base64.b32encode(secret).decode("ascii").rstrip("=")
    return " ".join(plain[at : at + 4] for at in range(0, len(plain), 4))


def uri(secret: bytes, username: str) -> str:
    """What the QR code of an authenticator app holds."""
    query = {
        "secret": base64.b32encode(secret).decode("ascii").rstrip("="),
        "issuer": _ISSUER,
        "algorithm": "SHA1",
        "digits": DIGITS,
        "period": STEP_S,
    }
    return f"otpauth://totp/{quote(f'{_ISSUER}:{username}')}?{urlencode(query, quote_via=quote)}"
