"""Seals a coded stream in frames (STREAM construction) while it passes, without holding what the cipher need not.

AES-GCM encrypts as bytes come, so a frame goes to the disk while the rest of it is still on the wire. Of
ChaCha20-Poly1305 the library offers only the whole-message form; there a frame is held until it is full. The bytes
are the same either way: docs/formats/sealed-object.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Protocol

from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext, Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM

FRAME_BYTES = 1 << 20
TAG_BYTES = 16
_NONCE = struct.Struct(">7xIB")

Piece = bytes | bytearray | memoryview


def nonce(counter: int, *, last: bool) -> bytes:
    """12 bytes: seven zeros, the frame's counter, and whether it is the last."""
    return _NONCE.pack(counter, last)


class FrameSealer(Protocol):
    """Every byte that `add`, `close` and `seal_last` give out goes to the sealed object, in that order."""

    def add(self, piece: Piece) -> Iterator[bytes]: ...

    def close(self) -> Iterator[bytes]:
        """End the frame in progress, if there is one."""
        ...

    def seal_last(self, trailer: bytes) -> bytes: ...


class AesFrames:
    """AES-256-GCM, as it comes."""

    def __init__(self, key: bytes, header_hash: bytes) -> None:
        self._key = key
        self._header_hash = header_hash
        self._counter = 0
        self._room = FRAME_BYTES
        self._frame: AEADEncryptionContext | None = None

    def add(self, piece: Piece) -> Iterator[bytes]:
        view = memoryview(piece)
        while view:
            if self._frame is None:
                self._frame = Cipher(AES256(self._key), GCM(nonce(self._counter, last=False))).encryptor()
                self._frame.authenticate_additional_data(self._header_hash)
            taken = min(len(view), self._room)
            yield self._frame.update(view[:taken])
            self._room -= taken
            view = view[taken:]
            if not self._room:
                yield from self.close()

    def close(self) -> Iterator[bytes]:
        if self._frame is not None:
            yield self._frame.finalize() + self._frame.tag
            self._frame = None
            self._room = FRAME_BYTES
            self._counter += 1

    def seal_last(self, trailer: bytes) -> bytes:
        return AESGCM(self._key).encrypt(nonce(self._counter, last=True), trailer, self._header_hash)


class ChaChaFrames:
    """ChaCha20-Poly1305, frame by frame."""

    def __init__(self, key: bytes, header_hash: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._header_hash = header_hash
        self._counter = 0
        self._held = bytearray()

    def add(self, piece: Piece) -> Iterator[bytes]:
        view = memoryview(piece)
        while view:
            taken = min(len(view), FRAME_BYTES - len(self._held))
            self._held += view[:taken]
            view = view[taken:]
            if len(self._held) == FRAME_BYTES:
                yield from self.close()

    def close(self) -> Iterator[bytes]:
        if self._held:
            yield self._cipher.encrypt(nonce(self._counter, last=False), self._held, self._header_hash)
            self._held = bytearray()
            self._counter += 1

    def seal_last(self, trailer: bytes) -> bytes:
        return self._cipher.encrypt(nonce(self._counter, last=True), trailer, self._header_hash)
