"""The time as central says it: signed, and bound to a number that the box chose for this one question.

A box without a battery-backed clock cannot judge a certificate's dates. It asks for the time first, believes
nothing but the signature of central's receipt key, and the nonce keeps an old answer from being played again.
Normative text: docs/formats/enrolment.md, "The time".
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from contract.errors import PermanentError
from contract.signed import SignedError, sign, verify

NONCE_PARAMETER: Final = "nonce"
MAX_TIME_CHARACTERS: Final = 1024
_TYPE: Final = "dicomnet-time+jws"


class SignedTimeError(PermanentError):
    """The answer is not central's word on the time, or not on this question."""


class SignedTime(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    central_id: str = Field(max_length=64)
    nonce: str = Field(pattern=r"^[0-9a-f]{32}$")
    at_utc: AwareDatetime


def new_nonce() -> str:
    """128 random bits as 32 hex digits."""
    return secrets.token_hex(16)


def sign_time(time: SignedTime, key: Ed25519PrivateKey) -> str:
    return sign(time.model_dump(mode="json"), key, typ=_TYPE)


def verify_time(token: str, keys: Mapping[str, Ed25519PublicKey], *, central_id: str, nonce: str) -> datetime:
    """The time inside `token` if it answers `nonce` and central signed it, else SignedTimeError."""
    try:
        payload = verify(token, keys, typ=_TYPE, kind="time", max_length=MAX_TIME_CHARACTERS)
        said = SignedTime.model_validate_json(payload)
    except SignedError as error:
        raise SignedTimeError(str(error)) from error
    except ValidationError as error:
        raise SignedTimeError("the time is malformed") from error
    if (said.central_id, said.nonce) != (central_id, nonce):
        raise SignedTimeError("the time is an answer to another question")
    return said.at_utc
