"""Asks central for the time, and believes its signature alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from contract.signed_time import MAX_TIME_CHARACTERS, NONCE_PARAMETER, SignedTimeError, new_nonce, verify_time
from contract.transfer import TIME_PATH
from edge.uplink.client import exchange, refused
from edge.uplink.errors import CentralFailedError

MAX_ROUND_TRIP_S: Final = 30.0
"""An answer that took longer says too little about now."""


def ask_time(client: httpx.Client, keys: Mapping[str, Ed25519PublicKey], *, central_id: str) -> datetime:
    """Central's signed time, true to within the round trip.

    Raises
    ------
    CentralFailedError : central does not say, or what it says does not verify.
    """
    nonce = new_nonce()
    asked_at_s = time.monotonic()
    status, _, body = exchange(
        client, "GET", f"{TIME_PATH}?{NONCE_PARAMETER}={nonce}", MAX_TIME_CHARACTERS + 1
    )
    if status != 200:
        raise refused(status, body)
    if time.monotonic() - asked_at_s > MAX_ROUND_TRIP_S:
        raise CentralFailedError("clock: central's answer took too long to set a clock by")
    try:
        return verify_time(body.decode("ascii"), keys, central_id=central_id, nonce=nonce)
    except (SignedTimeError, UnicodeDecodeError) as error:
        raise CentralFailedError(f"clock: {error}") from error
