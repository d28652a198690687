"""A reader of objects at rest, written from docs/formats/object-at-rest.md alone. Shares no code with central."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def unwrap(key: bytes, wrapped: bytes, associated: bytes) -> bytes:
    assert len(wrapped) == 60
    return AESGCM(key).decrypt(wrapped[:12], wrapped[12:], associated)


def study_key(storage_key: bytes, wrapped: bytes, study_instance_uid: str) -> bytes:
    return unwrap(storage_key, wrapped, b"dicomnet study key 1\0" + study_instance_uid.encode("ascii"))


def object_key(key: bytes, wrapped: bytes, address: str, sha256: str, size: int) -> bytes:
    place = bytes.fromhex(address) + bytes.fromhex(sha256) + size.to_bytes(8, "big")
    return unwrap(key, wrapped, b"dicomnet object key 1\0" + place)


def content(file: bytes, key: bytes, size: int) -> bytes:
    header = bytes.fromhex("89444e520d0a1a0a") + bytes([1, 1, 0, 0]) + (65536).to_bytes(4, "big")
    frames = max(1, -(-size // 65536))
    assert file[:16] == header
    assert len(file) == 16 + size + 16 * frames
    plain = b""
    for k in range(frames):
        nonce = bytes(7) + k.to_bytes(4, "big") + bytes([k == frames - 1])
        plain += AESGCM(key).decrypt(nonce, file[16 + k * 65552 : 16 + (k + 1) * 65552], header)
    return plain


def fingerprint(storage_key: bytes) -> str:
    return hashlib.sha256(b"dicomnet storage key" + storage_key).hexdigest()[:16]
