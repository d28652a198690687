"""The sealed object under every size, piece and damage that the format names."""

import io
import os
import struct
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.identifiers import ObjectId, new_object_id
from contract.sealed_object import (
    FRAME_BYTES,
    TAG_BYTES,
    Aead,
    Codec,
    Content,
    NotSealedError,
    SealedObjectError,
    SealedObjectWriter,
    StoredCoder,
    TamperedError,
    TruncatedError,
    read_header,
    read_sealed,
)
from contract.sealing import DataKey, RecipientPrivateKey, SealingKeyError, Unwrapper

PRIVATE = RecipientPrivateKey.generate()
DATA_KEY = DataKey.generate((PRIVATE.public_key(),))
UNWRAP = Unwrapper({PRIVATE.public_key().key_id: PRIVATE})
HEADER_BYTES = 32 + 1184
LAST_FRAME_BYTES = 56


def seal(
    data: bytes,
    codec: Codec = Codec.STORED,
    aead: Aead = Aead.CHACHA20_POLY1305,
    object_id: ObjectId | None = None,
    piece: int = 1 << 18,
) -> bytes:
    out = io.BytesIO()
    writer = SealedObjectWriter(out, object_id or new_object_id(), DATA_KEY, aead, codec)
    for at in range(0, len(data), piece):
        writer.write(memoryview(data)[at : at + piece])
    content = writer.finish()
    assert content.size_bytes == len(data)
    assert writer.stored_bytes == len(out.getvalue())
    return out.getvalue()


def unseal(sealed: bytes, **limits: int) -> tuple[bytes, Content]:
    *pieces, content = read_sealed(io.BytesIO(sealed), UNWRAP, **limits)  # type: ignore[arg-type]
    assert isinstance(content, Content)
    return b"".join(piece for piece in pieces if isinstance(piece, bytes)), content


EDGES = [
    0,
    1,
    LAST_FRAME_BYTES - TAG_BYTES,
    *(FRAME_BYTES + d for d in (-56, -40, -16, -1, 0, 1, 40, 56)),
    3 * FRAME_BYTES,
]


@pytest.mark.parametrize("aead", Aead)
@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("size", EDGES)
def test_round_trip_at_the_edges_of_a_frame(size: int, codec: Codec, aead: Aead) -> None:
    data = os.urandom(size)
    opened, content = unseal(seal(data, codec, aead))
    assert opened == data
    assert content.size_bytes == size


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=4096), st.sampled_from(Codec), st.integers(1, 4096))
def test_round_trip_whatever_the_pieces(data: bytes, codec: Codec, piece: int) -> None:
    assert unseal(seal(data, codec, piece=piece))[0] == data


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_changed_byte_is_refused(data: st.DataObject) -> None:
    sealed = bytearray(seal(b"abc" * 500, data.draw(st.sampled_from(Codec))))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((SealedObjectError, SealingKeyError)):
        unseal(bytes(sealed))


@pytest.mark.parametrize("codec", Codec)
def test_every_cut_of_a_small_object_is_refused(codec: Codec) -> None:
    sealed = seal(b"x" * 100, codec)
    for length in range(len(sealed)):
        with pytest.raises((TruncatedError, TamperedError)):
            unseal(sealed[:length])


def test_a_cut_between_frames_is_called_truncated() -> None:
    sealed = seal(os.urandom(2 * FRAME_BYTES + 56))
    with pytest.raises(TruncatedError):
        unseal(sealed[:HEADER_BYTES])
    with pytest.raises((TruncatedError, TamperedError)):
        unseal(sealed[: HEADER_BYTES + FRAME_BYTES + TAG_BYTES])


def test_swapped_repeated_and_dropped_frames_are_refused() -> None:
    sealed = seal(os.urandom(3 * FRAME_BYTES))
    header, size = sealed[:HEADER_BYTES], FRAME_BYTES + TAG_BYTES
    frames = [sealed[HEADER_BYTES + n * size : HEADER_BYTES + (n + 1) * size] for n in range(3)]
    last = sealed[-LAST_FRAME_BYTES:]
    for order in ([1, 0, 2], [0, 0, 1, 2], [0, 2], [0, 1]):
        with pytest.raises(TamperedError):
            unseal(header + b"".join(frames[n] for n in order) + last)
    with pytest.raises(TamperedError):
        unseal(sealed + last)
    with pytest.raises(SealedObjectError):
        unseal(sealed + b"\0")


def test_a_frame_or_header_of_another_object_is_refused() -> None:
    one, two = seal(b"1" * 100), seal(b"2" * 100)
    with pytest.raises(TamperedError):
        unseal(one[:HEADER_BYTES] + two[HEADER_BYTES:])
    with pytest.raises(TamperedError):
        list(read_sealed(io.BytesIO(one), UNWRAP, expected_object_id=new_object_id()))


def test_nothing_is_given_out_of_a_frame_that_does_not_verify() -> None:
    sealed = bytearray(seal(os.urandom(2 * FRAME_BYTES)))
    sealed[HEADER_BYTES + FRAME_BYTES + TAG_BYTES + 5] ^= 1
    reader = read_sealed(io.BytesIO(bytes(sealed)), UNWRAP)
    assert len(next(reader)) == FRAME_BYTES  # type: ignore[arg-type]
    with pytest.raises(TamperedError, match="frame 1"):
        next(reader)


def test_somebody_elses_object_stays_closed() -> None:
    other = RecipientPrivateKey.generate()
    with pytest.raises(SealingKeyError):
        list(read_sealed(io.BytesIO(seal(b"x")), Unwrapper({other.public_key().key_id: other})))


def test_a_second_recipient_opens_it_too() -> None:
    local = RecipientPrivateKey.generate()
    key = DataKey.generate((PRIVATE.public_key(), local.public_key()))
    out = io.BytesIO()
    writer = SealedObjectWriter(out, new_object_id(), key, Aead.AES_256_GCM, Codec.ZSTD)
    writer.write(b"both")
    writer.finish()
    for private in (PRIVATE, local):
        opened = read_sealed(io.BytesIO(out.getvalue()), Unwrapper({private.public_key().key_id: private}))
        assert next(opened) == b"both"


def test_a_bomb_is_cut_off_at_the_limit_and_never_held_whole() -> None:
    sealed = seal(bytes(64 << 20), Codec.ZSTD)
    assert len(sealed) < 100_000
    largest = 0
    with pytest.raises(SealedObjectError, match="larger than"):  # noqa: PT012 (what came before it counts)
        for piece in read_sealed(io.BytesIO(sealed), UNWRAP, max_size_bytes=1 << 20):
            largest = max(largest, len(piece) if isinstance(piece, bytes) else 0)
    assert largest <= FRAME_BYTES


class _Forger(SealedObjectWriter):
    """Seals a coded stream of its own making: what a lying box with the right key could send."""

    def forge(self, coded: bytes) -> None:
        self.write(b"whole" * 100)  # the hash and size it will vouch for
        self._coder = StoredCoder()  # nothing more of its own
        self.take([coded])


@pytest.mark.parametrize(
    "coded",
    [
        b"not zstandard at all",
        zstandard.ZstdCompressor().compress(b"one") + zstandard.ZstdCompressor().compress(b"two"),
        zstandard.ZstdCompressor().compress(b"whole" * 100)[:-3],
        zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(window_log=27)
        ).compress(os.urandom(9 << 20)),
    ],
    ids=["garbage", "two frames", "cut", "window too large"],
)
def test_a_sealed_but_lying_compressed_stream_is_refused(coded: bytes) -> None:
    out = io.BytesIO()
    writer = _Forger(out, new_object_id(), DATA_KEY, Aead.AES_256_GCM, Codec.ZSTD)
    writer.forge(coded)
    writer.finish()
    with pytest.raises(TamperedError):
        unseal(out.getvalue())


@pytest.mark.parametrize(
    "coded",
    [
        b"not segments at all",
        struct.pack(">BII", 0, 500, 500) + b"whole" * 99,
        struct.pack(">BII", 0, 500, 500) + b"whole" * 100 + b"\0",
        struct.pack(">BII", 9, 500, 500) + b"whole" * 100,
        struct.pack(">BII", 0, 500, 500) + b"WHOLE" * 100,
    ],
    ids=["garbage", "cut", "trailing byte", "unknown kind", "other content"],
)
def test_sealed_but_lying_segments_are_refused(coded: bytes) -> None:
    out = io.BytesIO()
    writer = _Forger(out, new_object_id(), DATA_KEY, Aead.AES_256_GCM, Codec.SEGMENTS)
    writer.forge(coded)
    writer.finish()
    with pytest.raises(TamperedError):
        unseal(out.getvalue())


def test_a_forger_who_tells_the_truth_is_believed() -> None:
    """The proof that the forgeries above are refused for their lies."""
    for codec, coded in (
        (Codec.SEGMENTS, struct.pack(">BII", 0, 500, 500) + b"whole" * 100),
        (Codec.ZSTD, zstandard.ZstdCompressor().compress(b"whole" * 100)),
    ):
        out = io.BytesIO()
        writer = _Forger(out, new_object_id(), DATA_KEY, Aead.AES_256_GCM, codec)
        writer.forge(coded)
        writer.finish()
        assert unseal(out.getvalue())[0] == b"whole" * 100


def test_headers_outside_the_format_are_refused_before_anything_is_read() -> None:
    sealed = seal(b"x")
    for at, value in ((0, 0x88), (8, 2), (9, 3), (10, 3), (11, 0), (11, 9), (12, 0xFF)):
        changed = bytearray(sealed)
        changed[at] = value
        with pytest.raises(NotSealedError):
            read_header(io.BytesIO(bytes(changed)))


def test_memory_is_a_few_frames_whatever_the_size() -> None:
    import tracemalloc

    class Source(io.RawIOBase):
        """A sealed object that is made as it is read, so that only the reader's memory counts."""

        def __init__(self, pieces: Iterator[bytes]) -> None:
            self._pieces, self._held = pieces, b""

        def read(self, size: int = -1) -> bytes:
            while len(self._held) < size and (piece := next(self._pieces, b"")):
                self._held += piece
            given, self._held = self._held[:size], self._held[size:]
            return given

    def sealing() -> Iterator[bytes]:
        out = io.BytesIO()
        writer = SealedObjectWriter(out, new_object_id(), DATA_KEY, Aead.AES_256_GCM, Codec.STORED)
        block = os.urandom(1 << 20)
        for _ in range(64):
            writer.write(block)
            yield out.getvalue()
            out.seek(0)
            out.truncate()
        writer.finish()
        yield out.getvalue()

    tracemalloc.start()
    try:
        for _ in read_sealed(Source(sealing()), UNWRAP):  # type: ignore[arg-type]
            pass
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()
