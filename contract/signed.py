"""Central's signed words: a JWS in compact form (RFC 7515) over JSON, signed with Ed25519 (RFC 8037).

Receipts, the time and key sets are each one of these, told apart by `typ`, so that no word can pass for one of
another kind. Always true: nothing of the payload is given out before its signature has verified, but by `kept`, for
whoever verified it when it came.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from contract.errors import PermanentError


class SignedError(PermanentError):
    """The text is not a signed word of this kind, or not signed by whom it must be."""


def signing_key_id(public: Ed25519PublicKey) -> str:
    """First 16 bytes, in hex, of the SHA-256 of the raw public key."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:32]


def sign(payload: Mapping[str, object], key: Ed25519PrivateKey, *, typ: str) -> str:
    """The compact JWS of `payload`; members sorted, so the same payload and key give the same text."""
    header = {"alg": "EdDSA", "kid": signing_key_id(key.public_key()), "typ": typ}
    signed = f"{_encode(_json(header))}.{_encode(_json(payload))}"
    return f"{signed}.{_encode(key.sign(signed.encode('ascii')))}"


def verify(
    token: str, keys: Mapping[str, Ed25519PublicKey], *, typ: str, kind: str, max_length: int
) -> bytes:
    """The payload's JSON if one of `keys` (by key id) signed `token`.

    Parameters
    ----------
    kind : what it should be, in words, for the error: ``receipt``.
    max_length : in characters; a longer text is not looked at.

    Raises
    ------
    SignedError
    """
    try:
        header, head, body, signature = _parts(token, typ=typ, kind=kind, max_length=max_length)
        key = keys.get(str(header.get("kid")))
        if key is None:
            raise SignedError(f"the {kind} is signed with a key that is not central's")
        key.verify(_decode(signature), f"{head}.{body}".encode("ascii"))
        return _decode(body)
    except (ValueError, binascii.Error, RecursionError) as error:
        raise SignedError(f"the {kind} is malformed") from error
    except InvalidSignature as error:
        raise SignedError(f"the {kind}'s signature does not verify") from error


def kept(token: str, *, typ: str, kind: str, max_length: int) -> bytes:
    """The payload's JSON of a word that was verified when it came, whether its key counts any more or not.

    Raises
    ------
    SignedError : it is none of this kind.
    """
    try:
        _, _, body, _ = _parts(token, typ=typ, kind=kind, max_length=max_length)
        return _decode(body)
    except (ValueError, binascii.Error, RecursionError) as error:
        raise SignedError(f"the {kind} is malformed") from error


def _parts(token: str, *, typ: str, kind: str, max_length: int) -> tuple[dict[str, object], str, str, str]:
    """The header, and header, payload and signature as they stand. ValueError or SignedError if it is no such word."""
    if len(token) > max_length:
        raise SignedError(f"the {kind} is longer than any {kind} is")
    head, body, signature = token.split(".")
    header = json.loads(_decode(head))
    if not isinstance(header, dict) or header.get("alg") != "EdDSA" or header.get("typ") != typ:
        raise SignedError(f"this is not a {kind}")
    return header, head, body, signature


def named(token: str, member: str) -> str:
    """`kid` or `typ` in the header of what may be a signed word, "" if there is none; nothing is verified."""
    try:
        header = json.loads(_decode(token.split(".")[0]))
    except (ValueError, RecursionError):
        return ""
    return str(header.get(member, "")) if isinstance(header, dict) else ""


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
