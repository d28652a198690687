"""Sets of studies as bits, in slices of 32,768 by their ids: how they are intersected, and how a slice is packed.

Always true: what was packed is unpacked as it was, or `DamagedSetError` is raised; there is a checksum in it.
"""

from __future__ import annotations

import threading
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

import zstandard

SLICE: Final = 1 << 15
Sets = dict[int, int]
"""A set of studies: the bits of each slice that is not empty. Bit b of slice s is the study s * SLICE + b."""
_BYTES: Final = SLICE // 8
_LEVEL: Final = 1
_ZLIB: Final = 0x78  # what all begins with that an older version packed


class DamagedSetError(Exception):
    """What is kept of a set cannot be unpacked; `objects mend-searches` makes it again."""


class _Codec(threading.local):
    """Each thread's own: to make one costs more than to use it."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        self.decompressor = zstandard.ZstdDecompressor()


_codec: Final = _Codec()


def packed(bits: int) -> bytes:
    return _codec.compressor.compress(bits.to_bytes((bits.bit_length() + 7) // 8, "little"))


def unpacked(members: bytes) -> int:
    """The bits of a slice. A search unpacks hundreds of them: with zlib that was a third of its processor time.

    Raises
    ------
    DamagedSetError : that is not what was packed.
    """
    try:
        if members[0] == _ZLIB:
            return int.from_bytes(zlib.decompress(members), "little")
        if zstandard.frame_content_size(members) > _BYTES:
            raise DamagedSetError("a set of searches is longer than it can be")
        return int.from_bytes(_codec.decompressor.decompress(members), "little")
    except (IndexError, zlib.error, zstandard.ZstdError) as error:
        raise DamagedSetError("a set of searches cannot be read") from error


def bits_of(places: Iterable[int]) -> int:
    """The bits at `places` of a slice."""
    members = bytearray(_BYTES)
    for bit in places:
        members[bit >> 3] |= 1 << (bit & 7)
    return int.from_bytes(members, "little")


def union(sets: Iterable[Sets]) -> Sets:
    whole: Sets = {}
    for one in sets:
        for number, bits in one.items():
            whole[number] = whole.get(number, 0) | bits
    return whole


def intersection(some: Sets, others: Sets) -> Sets:
    both = {number: bits & others.get(number, 0) for number, bits in some.items()}
    return {number: bits for number, bits in both.items() if bits}


def without(some: Sets, others: Sets) -> Sets:
    left = {number: bits & ~others.get(number, 0) for number, bits in some.items()}
    return {number: bits for number, bits in left.items() if bits}


def of_ids(ids: Iterable[int]) -> Sets:
    places: dict[int, list[int]] = defaultdict(list)
    for at in ids:
        number, bit = divmod(at, SLICE)
        places[number].append(bit)
    return {number: bits_of(some) for number, some in places.items()}


def size(some: Sets) -> int:
    return sum(bits.bit_count() for bits in some.values())


def ids_of(some: Sets) -> Iterator[int]:
    for number, bits in some.items():
        written = bin(bits)[:1:-1]
        at = written.find("1")
        while at >= 0:
            yield number * SLICE + at
            at = written.find("1", at + 1)
