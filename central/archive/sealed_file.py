"""A content encrypted at rest: one key a file, in frames, so that any part of it is read without the rest.

Always true: no byte is given out whose frame does not verify; a file that is shorter or longer than its content's size
demands is refused when it is opened. Normative text and vectors: docs/formats/object-at-rest.md.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from central.archive.errors import ObjectDamagedError
from contract.frames import TAG_BYTES, nonce

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FRAME_BYTES: Final = 1 << 16
KEY_BYTES: Final = 32
HEADER: Final = struct.pack(">8sBBHI", b"\x89DNR\r\n\x1a\n", 1, 1, 0, FRAME_BYTES)
_STORED_FRAME_BYTES: Final = FRAME_BYTES + TAG_BYTES
_AT_ONCE: Final = (
    4  # frames read together: more cost new memory each time, and that costs more than they save
)


@dataclass(frozen=True)
class SealedObject:
    """An encrypted content: `address` is its name in the store, `key` opens this one file."""

    address: str
    key: bytes = field(repr=False)


def frames_of(size_bytes: int) -> int:
    """How many frames a content of this size has; an empty one has one."""
    return max(1, -(-size_bytes // FRAME_BYTES))


def sealed_size(size_bytes: int) -> int:
    """Bytes of the file that holds a content of this size."""
    return len(HEADER) + size_bytes + TAG_BYTES * frames_of(size_bytes)


class FrameWriter:
    """Turns a content into a sealed file's bytes. `key` is used for this one file only."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._held = bytearray()
        self._counter = 0

    def begin(self) -> bytes:
        return HEADER

    def add(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """The frames that are full now. The last one is held back: it may be the content's last."""
        view = memoryview(data).cast("B")
        while len(self._held) + len(view) > FRAME_BYTES:
            if self._held:
                taken = FRAME_BYTES - len(self._held)
                self._held += view[:taken]
                yield self._frame(self._held, last=False)
                self._held = bytearray()
            else:
                taken = FRAME_BYTES
                yield self._frame(view[:taken], last=False)
            view = view[taken:]
        self._held += view

    def finish(self) -> bytes:
        """The last frame."""
        return self._frame(self._held, last=True)

    def _frame(self, data: bytes | bytearray | memoryview, *, last: bool) -> bytes:
        frame = self._aead.encrypt(nonce(self._counter, last=last), data, HEADER)
        self._counter += 1
        return frame


@dataclass(frozen=True)
class SealedFile:
    """The sealed file at `path`, and what opens it. May be passed to a worker process: it opens this file alone."""

    path: Path
    name: str
    size_bytes: int
    key: bytes = field(repr=False)

    def open(self, _mode: Literal["rb"]) -> BinaryIO:
        """The content, to be read from any place on.

        Raises
        ------
        ObjectDamagedError : this is not the whole sealed file; also from reading, where a frame does not verify.
        """
        file = self.path.open("rb", buffering=0)
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes != sealed_size(self.size_bytes) or file.read(len(HEADER)) != HEADER:
            file.close()
            raise ObjectDamagedError(self.name)
        return cast("BinaryIO", io.BufferedReader(_Reader(file, self), FRAME_BYTES))

    def read_bytes(self) -> bytes:
        """All of it. Raises as `open`."""
        with self.open("rb") as file:
            return file.read()


ObjectFile = Path | SealedFile
"""A file with an archived content: opened with ``open("rb")`` and read from any place on."""


class _Reader(io.RawIOBase):
    def __init__(self, file: io.FileIO, sealed: SealedFile) -> None:
        self._file = file
        self._sealed = sealed
        self._aead = AESGCM(sealed.key)
        self._at = 0
        self._frame_number = -1
        self._frame = b""
        self.name = str(sealed.path)  # as of any file; pydicom asks for it

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._sealed.size_bytes}[whence]
        if start + offset < 0:
            raise ValueError("before the beginning")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._sealed.size_bytes - self._at))
        if not wanted:
            return 0
        number, within = divmod(self._at, FRAME_BYTES)
        if within or wanted < FRAME_BYTES:
            taken = min(wanted, FRAME_BYTES - within)
            view[:taken] = self._one(number)[within : within + taken]
        else:
            taken = self._whole(number, min(wanted // FRAME_BYTES, _AT_ONCE), view)
        self._at += taken
        return taken

    def close(self) -> None:
        self._file.close()
        super().close()

    def _one(self, number: int) -> bytes:
        """The content of one frame, kept: the next question is often for the rest of it."""
        if number != self._frame_number:
            self._frame = self._opened(number, self._stored(number, 1))
            self._frame_number = number
        return self._frame

    def _whole(self, number: int, count: int, view: memoryview) -> int:
        """Fill `view` with `count` frames, the last of which may be short; how many bytes."""
        stored = memoryview(self._stored(number, count))
        for at in range(count):
            frame = stored[at * _STORED_FRAME_BYTES : (at + 1) * _STORED_FRAME_BYTES]
            try:
                self._aead.decrypt_into(
                    self._nonce(number + at), frame, HEADER, view[at * FRAME_BYTES : (at + 1) * FRAME_BYTES]
                )
            except InvalidTag as error:
                raise ObjectDamagedError(self._sealed.name) from error
        return count * FRAME_BYTES

    def _opened(self, number: int, stored: bytes) -> bytes:
        try:
            return self._aead.decrypt(self._nonce(number), stored, HEADER)
        except InvalidTag as error:
            raise ObjectDamagedError(self._sealed.name) from error

    def _nonce(self, number: int) -> bytes:
        return nonce(number, last=number == frames_of(self._sealed.size_bytes) - 1)

    def _stored(self, number: int, count: int) -> bytes:
        begin = len(HEADER) + number * _STORED_FRAME_BYTES
        end = min(begin + count * _STORED_FRAME_BYTES, sealed_size(self._sealed.size_bytes))
        data = os.pread(self._file.fileno(), end - begin, begin)
        if len(data) != end - begin:
            raise ObjectDamagedError(self._sealed.name)
        return data
