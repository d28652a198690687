"""A label comes back as it was written, or not at all."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.identifiers import new_object_id
from edge.buffer.label import (
    BLOCK_BYTES,
    MAX_LABEL_BYTES,
    Label,
    UnlabelledError,
    encode_label,
    is_sound,
    read_label,
)
from edge.buffer.states import State
from tests.edge.buffer.instances import ORIGIN, identity

SEALED = bytes(range(256)) * 40
TAIL = struct.Struct(">IQII8s")
LABEL = Label(
    new_object_id(),
    ORIGIN,
    identity(1),
    "ab" * 32,
    99_999,
    len(SEALED),
    datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC),
)


def file_of(label: Label = LABEL, sealed: bytes = SEALED) -> bytes:
    text = encode_label(label, zlib.crc32(sealed))
    return sealed + bytes(-(len(sealed) + len(text)) % BLOCK_BYTES) + text


def forged(text: bytes, stored_bytes: int, *, length: int | None = None, magic: bytes = b"DNlabel1") -> bytes:
    """A tail whose own checksum is right, whatever it claims."""
    checked = struct.pack(">IQI", len(text) if length is None else length, stored_bytes, zlib.crc32(SEALED))
    return text + checked + struct.pack(">I8s", zlib.crc32(checked, zlib.crc32(text)), magic)


def test_round_trip() -> None:
    file = io.BytesIO(file_of())
    found = read_label(file)
    assert found.label == LABEL
    assert found.label.state is State.READY
    assert is_sound(file, found)
    assert len(file.getvalue()) % BLOCK_BYTES == 0


def test_what_quarantine_keeps() -> None:
    label = replace(LABEL, identity=None, reason="the data set has no SOP Instance UID, \x00 é 😀")
    found = read_label(io.BytesIO(file_of(label))).label
    assert found == label
    assert found.state is State.QUARANTINED


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=64), st.text(max_size=64), st.integers(0, 2**60), st.binary(max_size=9000))
def test_round_trip_of_anything_a_peer_may_be_called(ae: str, reason: str, size: int, sealed: bytes) -> None:
    label = replace(
        LABEL,
        origin=replace(ORIGIN, calling_ae_title=ae),
        reason=reason,
        size_bytes=size,
        stored_bytes=len(sealed),
    )
    file = io.BytesIO(file_of(label, sealed))
    found = read_label(file)
    assert found.label == label
    assert is_sound(file, found)
    assert len(file.getvalue()) % BLOCK_BYTES == 0


def test_every_torn_end_is_noticed() -> None:
    whole = file_of()
    for length in range(len(whole)):
        with pytest.raises(UnlabelledError):
            read_label(io.BytesIO(whole[:length]))


def test_every_damaged_bit_of_label_and_tail_is_noticed() -> None:
    whole = file_of()
    start = len(whole) - len(encode_label(LABEL, zlib.crc32(SEALED)))
    for at in range(start, len(whole)):
        for bit in (0x01, 0x80):
            changed = bytearray(whole)
            changed[at] ^= bit
            with pytest.raises(UnlabelledError):
                read_label(io.BytesIO(bytes(changed)))


def test_damage_before_the_label_is_noticed_by_whoever_reads_it() -> None:
    whole = file_of()
    for at in (0, 1, len(SEALED) // 2, len(SEALED) - 1):
        changed = bytearray(whole)
        changed[at] ^= 1
        file = io.BytesIO(bytes(changed))
        assert not is_sound(file, read_label(file))
    gap = bytearray(whole)
    gap[len(SEALED)] ^= 1  # the padding means nothing
    file = io.BytesIO(bytes(gap))
    assert is_sound(file, read_label(file))


def test_a_block_of_the_body_that_never_arrived() -> None:
    """A power cut before the sync returned may leave the end and not the middle."""
    sealed = b"x" * (1 << 20)
    whole = bytearray(file_of(replace(LABEL, stored_bytes=len(sealed)), sealed))
    whole[BLOCK_BYTES : 2 * BLOCK_BYTES] = bytes(BLOCK_BYTES)
    file = io.BytesIO(bytes(whole))
    assert not is_sound(file, read_label(file))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(BLOCK_BYTES),
        b"DNlabel1",
        bytes(BLOCK_BYTES - 8) + b"DNlabel1",
        SEALED + forged(b"{}", len(SEALED), magic=b"DNlabel2"),
        forged(b"{}", 1),
        forged(b"{}", 2**64 - 1),
        forged(b"{}", 0, length=3),
        forged(b"{}", 0, length=2**32 - 1),
        bytes(2 * MAX_LABEL_BYTES) + forged(b"{" + b" " * MAX_LABEL_BYTES + b"}", 0),
        SEALED + forged(b"{}", len(SEALED) + 1),
    ],
    ids=[
        "empty",
        "zeros",
        "magic alone",
        "magic without a body",
        "another version",
        "more sealed bytes than the file has",
        "far more",
        "more label than the file has",
        "far more label",
        "a label over the limit",
        "one sealed byte too many",
    ],
)
def test_what_is_no_label(content: bytes) -> None:
    with pytest.raises(UnlabelledError):
        read_label(io.BytesIO(content))


def test_an_oversize_label_is_refused_before_it_is_read() -> None:
    class Counting(io.BytesIO):
        read_bytes = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.read_bytes += len(data)
            return data

    file = Counting(bytes(1 << 20) + forged(b"x" * (MAX_LABEL_BYTES + 1), 0))
    with pytest.raises(UnlabelledError):
        read_label(file)
    assert file.read_bytes <= BLOCK_BYTES


def test_a_label_names_no_patient() -> None:
    text = encode_label(LABEL, 0)
    assert b"patient" not in text.lower()
    assert len(text) < 1000
