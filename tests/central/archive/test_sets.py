"""A packed set is unpacked as it was, by whichever version it was packed, or not at all."""

from __future__ import annotations

import random
import zlib

import pytest
import zstandard

from central.archive.sets import SLICE, DamagedSetError, bits_of, ids_of, of_ids, packed, unpacked

CHANCE = random.Random(4)
SLICES = [bits_of(CHANCE.sample(range(SLICE), count)) for count in (0, 1, 300, 20_000, SLICE)]


def test_a_set_is_unpacked_as_it_was() -> None:
    for bits in SLICES:
        assert unpacked(packed(bits)) == bits
        assert of_ids(ids_of({0: bits, 7: bits})) == ({0: bits, 7: bits} if bits else {})


def test_what_an_older_version_packed_is_read() -> None:
    for bits in SLICES:
        assert unpacked(zlib.compress(bits.to_bytes((bits.bit_length() + 7) // 8, "little"), 1)) == bits


def test_nothing_else_is_taken_for_a_set() -> None:
    whole = packed(SLICES[2])
    for at in range(len(whole)):
        other = bytearray(whole)
        other[at] ^= 1 << CHANCE.randrange(8)
        try:
            assert unpacked(bytes(other)) == SLICES[2]  # a bit of the header that nobody reads
        except DamagedSetError:
            continue
    longer = zstandard.ZstdCompressor().compress(bytes(SLICE))
    for damaged in (b"", b"torn", whole[:-1], longer):
        with pytest.raises(DamagedSetError):
            unpacked(damaged)
