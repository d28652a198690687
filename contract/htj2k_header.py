"""The one form of HTJ2K codestream that pixel rows have (ISO/IEC 15444-15 over 15444-1 Annex A).

A decoder of images believes what a codestream says of itself. Tiles of no size make it divide by zero, which
ends the process; tiles of one pixel make it take kilobytes for each. So a reader here builds the only main header
that rows of this size can have, and hands on nothing that begins otherwise: what is left to a liar are coded bits,
which decode to other pixels, and those do not match the hash the object ends with.
"""

from __future__ import annotations

import struct

_SOC = b"\xff\x4f"
_SIZ = struct.Struct(">HHHIIIIIIIIH")
_HIGH_THROUGHPUT = 0x4000  # Rsiz: Part 15 is needed
_CAP = struct.Struct(">HHIH")
_PART_15 = 1 << 17
# Order RPCL, one layer; five levels, blocks of 64 by 64, high throughput, the reversible 5-3 wavelet.
_COD = bytes.fromhex("ff52000c 00 02 0001 00 05 0404 40 01")
_COLOUR_AT = 8  # in COD: 1 when the reversible colour transform mixes the three components
# No quantization, one guard bit; the exponents of 16 subbands follow.
_QCD = bytes.fromhex("ff5c 0013 20")
_COM = b"\xff\x64"
_MAX_COMMENT_BYTES = 256
_TILE = struct.Struct(">HHHIBBH")  # SOT, its length, tile, tile-part bytes, tile-part, tile-parts, SOD
_EOC = b"\xff\xd9"


def main_header(*, columns: int, rows: int, samples: int, sample_bytes: int) -> bytes:
    """Everything from SOC to QCD for one tile at the origin that holds the whole image."""
    bits = 8 * sample_bytes
    colour = samples == 3
    size = (columns, rows, 0, 0)
    siz = _SIZ.pack(0xFF51, 38 + 3 * samples, _HIGH_THROUGHPUT, *size, *size, samples)
    components = struct.pack(">BBB", bits - 1, 1, 1) * samples
    cap = _CAP.pack(0xFF50, 8, _PART_15, bits - 6 + colour)
    cod = bytearray(_COD)
    cod[_COLOUR_AT] = colour
    low, high = (struct.pack("B", bits + colour + gain << 3) for gain in (1, 2))
    return _SOC + siz + components + cap + cod + _QCD + low + high * 12 + low * 3


def is_expected(coded: bytes, *, columns: int, rows: int, samples: int, sample_bytes: int) -> bool:
    """Whether `coded` is that main header, at most one comment, and one tile-part up to the end."""
    expected = main_header(columns=columns, rows=rows, samples=samples, sample_bytes=sample_bytes)
    at = len(expected)
    if not coded.startswith(expected):
        return False
    if coded[at : at + 2] == _COM:
        length = int.from_bytes(coded[at + 2 : at + 4])
        if length > _MAX_COMMENT_BYTES:
            return False
        at += 2 + length
    if len(coded) < at + _TILE.size + len(_EOC):
        return False
    marker, length, tile, part_bytes, part, parts, data = _TILE.unpack_from(coded, at)
    return (
        (marker, length, tile, part, parts, data) == (0xFF90, 10, 0, 0, 1, 0xFF93)
        and at + part_bytes + len(_EOC) == len(coded)
        and coded.endswith(_EOC)
    )
