"""The sealed object: one DICOM Part 10 file, compressed, then closed, as it lies in the spool and travels.

    header | frame 0 | frame 1 | … | last frame

Each frame is one AEAD ciphertext (STREAM construction: Hoang, Reyhanitabar, Rogaway, Vizár 2015) of up to
1 MiB of the coded stream; the last holds the trailer alone: SHA-256 and size of the Part 10 file. The
reader refuses what is truncated, reordered, extended or changed, and yields no byte it has not verified.
What it cannot know before the last frame is whether the stream is whole: a caller keeps what it was given
apart until `read_sealed` is exhausted. Exact bytes and vectors: docs/formats/sealed-object.md.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO, Protocol

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from contract.errors import PermanentError
from contract.frames import FRAME_BYTES, TAG_BYTES, AesFrames, ChaChaFrames, FrameSealer, nonce
from contract.identifiers import ObjectId
from contract.sealing import KEY_ID_BYTES, WRAPPED_KEY_BYTES, DataKey, object_key
from contract.segment_coder import SegmentCoder
from contract.segments import SegmentError, read_segments

MAGIC = b"\x89DNS\r\n\x1a\n"
VERSION = 1
MAX_RECIPIENTS = 8
_FIXED = struct.Struct(">8sBBBBI16s")  # magic, version, aead, codec, recipients, frame bytes, object id
_TRAILER = struct.Struct(">32sQ")
MAX_WINDOW_BYTES = 1 << 23  # zstd window: bounds the reader's memory whatever the writer declares


class Aead(IntEnum):
    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2


class Codec(IntEnum):
    """How the coded stream is made of the Part 10 file: as it is, one Zstandard frame, or segments."""

    STORED = 0
    ZSTD = 1
    SEGMENTS = 2


class SealedObjectError(PermanentError):
    """The bytes are not a whole, unchanged sealed object."""


class NotSealedError(SealedObjectError):
    """The header is not one of ours, or of a version this program does not know."""


class TamperedError(SealedObjectError):
    """A frame does not verify, or the content's hash or size differs from the trailer's."""


class TruncatedError(SealedObjectError):
    """The stream ends before its last frame."""


class Writable(Protocol):
    """All that a writer of sealed objects needs of where they go."""

    def write(self, data: bytes, /) -> object: ...


class Coder(Protocol):
    """Turns the Part 10 file into the coded stream. What is returned may be views, valid until the next call."""

    def write(self, data: bytes | bytearray | memoryview) -> Sequence[bytes | bytearray | memoryview]: ...

    def finish(self) -> Sequence[bytes | bytearray | memoryview]: ...


class StoredCoder:
    """`Codec.STORED`: for what is compressed already."""

    def write(self, data: bytes | bytearray | memoryview) -> Sequence[bytes | bytearray | memoryview]:
        return (data,)

    def finish(self) -> Sequence[bytes]:
        return ()


class ZstdCoder:
    """`Codec.ZSTD`: one frame."""

    def __init__(self, level: int = 1) -> None:
        self._compressor = zstandard.ZstdCompressor(level=level).compressobj()

    def write(self, data: bytes | bytearray | memoryview) -> Sequence[bytes]:
        return (self._compressor.compress(data),)

    def finish(self) -> Sequence[bytes]:
        return (self._compressor.flush(),)


_CODERS: dict[Codec, Callable[[], Coder]] = {
    Codec.STORED: StoredCoder,
    Codec.ZSTD: ZstdCoder,
    Codec.SEGMENTS: SegmentCoder,
}


class _Cipher(Protocol):
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


def _cipher(aead: Aead, key: bytes) -> _Cipher:
    return AESGCM(key) if aead is Aead.AES_256_GCM else ChaCha20Poly1305(key)


@dataclass(frozen=True)
class Header:
    aead: Aead
    codec: Codec
    object_id: ObjectId
    wrapped_keys: tuple[tuple[bytes, bytes], ...]

    def encode(self) -> bytes:
        parts = [
            _FIXED.pack(
                MAGIC, VERSION, self.aead, self.codec, len(self.wrapped_keys), FRAME_BYTES,
                bytes.fromhex(self.object_id),
            )
        ]  # fmt: skip
        parts += [key_id + wrapped for key_id, wrapped in self.wrapped_keys]
        return b"".join(parts)


@dataclass(frozen=True)
class Content:
    """What was sealed: `sha256` (hex) and `size_bytes` are those of the Part 10 file, not of the sealed form."""

    sha256: str
    size_bytes: int


class SealedObjectWriter:
    """Write one sealed object in a single pass: hash, code, seal, each byte handed on once.

    Parameters
    ----------
    out : where the sealed bytes go. Only ``write`` is called; durability is the caller's.
    data_key : key and wrappings the header will carry.
    coder : makes the coded stream that `codec` names; None for a new one.
    """

    def __init__(
        self,
        out: Writable,
        object_id: ObjectId,
        data_key: DataKey,
        aead: Aead,
        codec: Codec,
        coder: Coder | None = None,
    ) -> None:
        header = Header(aead, codec, object_id, data_key.wrapped).encode()
        self._out = out
        key = object_key(data_key.key, bytes.fromhex(object_id), header)
        header_hash = hashlib.sha256(header).digest()
        self._frames: FrameSealer = (
            AesFrames(key, header_hash) if aead is Aead.AES_256_GCM else ChaChaFrames(key, header_hash)
        )
        self._coder = coder or _CODERS[codec]()
        self._hash = hashlib.sha256()
        self._size = 0
        self.stored_bytes = len(header)
        out.write(header)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes of the Part 10 file. `data` is consumed before return and may be reused by the caller."""
        self._hash.update(data)
        self._size += len(data)
        self.take(self._coder.write(data))

    def take(self, coded: Sequence[bytes | bytearray | memoryview]) -> None:
        """Add to the coded stream: what the coder gave out, here or to a caller that holds it."""
        for piece in coded:
            self._put(self._frames.add(piece))

    def finish(self) -> Content:
        """Write what is pending and the trailer. The object is whole only after this returns."""
        self.take(self._coder.finish())
        self._put(self._frames.close())
        digest = self._hash.digest()
        self._put((self._frames.seal_last(_TRAILER.pack(digest, self._size)),))
        return Content(digest.hex(), self._size)

    def _put(self, sealed: Iterable[bytes]) -> None:
        for piece in sealed:
            self._out.write(piece)
            self.stored_bytes += len(piece)


def read_header(source: BinaryIO) -> Header:
    """Read and check a header; nothing is allocated beyond its declared, capped size."""
    return _read_header(source)[0]


def _read_header(source: BinaryIO) -> tuple[Header, bytes]:
    fixed = source.read(_FIXED.size)
    if len(fixed) < _FIXED.size:
        raise TruncatedError("the header is cut short")
    magic, version, aead, codec, recipients, frame_bytes, object_id = _FIXED.unpack(fixed)
    if magic != MAGIC:
        raise NotSealedError("this is not a sealed object")
    if version != VERSION:
        raise NotSealedError(f"sealed object version {version} is not known here")
    if aead not in tuple(Aead) or codec not in tuple(Codec):
        raise NotSealedError(f"cipher {aead} or codec {codec} is not known here")
    if not 1 <= recipients <= MAX_RECIPIENTS or frame_bytes != FRAME_BYTES:
        raise NotSealedError("recipient count or frame size is outside the format")
    entry = KEY_ID_BYTES + WRAPPED_KEY_BYTES
    wrapped = source.read(recipients * entry)
    if len(wrapped) < recipients * entry:
        raise TruncatedError("the header is cut short")
    keys = tuple(
        (wrapped[at : at + KEY_ID_BYTES], wrapped[at + KEY_ID_BYTES : at + entry])
        for at in range(0, len(wrapped), entry)
    )
    return Header(Aead(aead), Codec(codec), ObjectId(object_id.hex()), keys), fixed + wrapped


def read_sealed(
    source: BinaryIO,
    unwrap: Callable[[tuple[tuple[bytes, bytes], ...]], bytes],
    *,
    expected_object_id: ObjectId | None = None,
    max_size_bytes: int = 1 << 40,
) -> Iterator[bytes | Content]:
    """Yield the Part 10 file in pieces of at most 1 MiB, then, as the last item, its `Content`.

    Raises
    ------
    SealedObjectError : `NotSealedError`, `TamperedError` or `TruncatedError`.
    contract.sealing.SealingKeyError : sealed for somebody else.
    """
    header, raw = _read_header(source)
    if expected_object_id is not None and header.object_id != expected_object_id:
        raise TamperedError("the sealed object carries another object id than it was announced with")
    header_hash = hashlib.sha256(raw).digest()
    cipher = _cipher(
        header.aead, object_key(unwrap(header.wrapped_keys), bytes.fromhex(header.object_id), raw)
    )
    plain = hashlib.sha256()
    size = 0
    trailer = b""

    def coded() -> Iterator[bytes]:
        nonlocal trailer
        for counter, (frame, last) in enumerate(_frames(source)):
            try:
                opened = cipher.decrypt(nonce(counter, last=last), frame, header_hash)
            except InvalidTag:
                # A stream cut at a frame boundary shows a middle frame where the last should be.
                if last and _opens(cipher, nonce(counter, last=False), frame, header_hash):
                    raise TruncatedError("the sealed object ends before its last frame") from None
                raise TamperedError(f"frame {counter} of the sealed object does not verify") from None
            if last:
                trailer = opened
            else:
                yield opened

    for piece in _decode(header.codec, coded()):
        size += len(piece)
        if size > max_size_bytes:
            raise SealedObjectError(f"the content is larger than the {max_size_bytes} bytes allowed")
        plain.update(piece)
        yield piece
    if len(trailer) != _TRAILER.size:
        raise TamperedError("the last frame is not a trailer")
    digest, declared = _TRAILER.unpack(trailer)
    if digest != plain.digest() or declared != size:
        raise TamperedError("the content does not match the hash and size it was sealed with")
    yield Content(digest.hex(), size)


def _opens(cipher: _Cipher, nonce: bytes, frame: bytes, header_hash: bytes) -> bool:
    try:
        cipher.decrypt(nonce, frame, header_hash)
    except InvalidTag:
        return False
    return True


def _frames(source: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """Split into ciphertexts; the last one is known only by what follows it, so read one ahead."""
    held = b""
    while True:
        piece = source.read(FRAME_BYTES + TAG_BYTES + (_TRAILER.size + TAG_BYTES) - len(held))
        held += piece
        if not piece:
            break
        # Everything but the trailer's ciphertext is cut as full frames while more may follow.
        while len(held) >= FRAME_BYTES + TAG_BYTES + _TRAILER.size + TAG_BYTES:
            yield held[: FRAME_BYTES + TAG_BYTES], False
            held = held[FRAME_BYTES + TAG_BYTES :]
    trailer_bytes = _TRAILER.size + TAG_BYTES
    if len(held) < trailer_bytes:
        raise TruncatedError("the sealed object ends before its last frame")
    if len(held) > trailer_bytes:
        if len(held) < trailer_bytes + TAG_BYTES:
            raise TruncatedError("the sealed object ends inside a frame")
        yield held[:-trailer_bytes], False
    yield held[-trailer_bytes:], True


def _decode(codec: Codec, coded: Iterator[bytes]) -> Iterator[bytes]:
    if codec is Codec.STORED:
        yield from coded
        return
    if codec is Codec.SEGMENTS:
        try:
            yield from read_segments(coded)
        except SegmentError as error:
            raise TamperedError(f"inside the sealed object: {error}") from error
        return
    # zstandard's own size limits are not to be trusted where the frame declares its size, so
    # the output is taken in bounded steps through stream_reader.
    reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).stream_reader(
        _Readable(coded),  # type: ignore[arg-type]  # it needs read() alone; the stub asks for a whole file
        read_size=FRAME_BYTES,
        read_across_frames=False,
    )
    try:
        while piece := reader.read(FRAME_BYTES):
            yield piece
    except zstandard.ZstdError as error:
        raise TamperedError("the compressed stream inside the sealed object is damaged") from error
    for rest in coded:  # runs the last frame's check; a second zstd frame is not part of the format
        if rest:
            raise TamperedError("bytes follow the end of the compressed stream")


class _Readable:
    """The least file that zstandard's stream_reader asks for, over an iterator of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, size: int = -1) -> bytes:
        """One piece, however large `size` is: pieces are at most a frame, and `size` is a frame."""
        return next(self._pieces, b"")
