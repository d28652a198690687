"""A reader of coded streams, written from docs/formats/sealed-object.md alone, but for the image decoder."""

from __future__ import annotations

import imagecodecs
import zstandard


class RefusedError(Exception):
    """The document says that a reader must refuse this."""


def refuse_unless(condition: object, why: str) -> None:
    if not condition:
        raise RefusedError(why)


def read_coded(codec: int, coded: bytes) -> bytes:
    """Whole in memory, and without mercy."""
    if codec == 0:
        return coded
    if codec == 1:
        return zstandard.ZstdDecompressor().decompressobj().decompress(coded)
    refuse_unless(codec == 2, "codec")
    content = b""
    while coded:
        refuse_unless(len(coded) >= 9, "the stream ends inside a segment")
        kind, size, k = coded[0], int.from_bytes(coded[1:5]), int.from_bytes(coded[5:9])
        refuse_unless(1 <= size <= 1_048_576 and 1 <= k <= size, "size")
        refuse_unless(len(coded) >= 9 + k, "the stream ends inside a segment")
        content += segment(kind, size, coded[9 : 9 + k])
        coded = coded[9 + k :]
    return content


def segment(kind: int, size: int, coded: bytes) -> bytes:
    if kind == 0:
        refuse_unless(len(coded) == size, "raw size")
        return coded
    if kind == 1:
        try:
            refuse_unless(zstandard.frame_content_size(coded) == size, "declared size")
            return zstandard.ZstdDecompressor().decompress(coded, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise RefusedError("frame") from error
    refuse_unless(kind == 2, "kind")
    return pixel_rows(size, coded)


def pixel_rows(size: int, coded: bytes) -> bytes:
    refuse_unless(len(coded) > 8, "pixel fields")
    columns, samples, sample = int.from_bytes(coded[:2]), coded[2], coded[3] & 0x7F
    lowest, gap = int.from_bytes(coded[4:6]), int.from_bytes(coded[6:8])
    refuse_unless(columns and samples in (1, 3) and sample in (1, 2), "pixel fields")
    limit = 2 ** (8 * sample)
    refuse_unless(lowest < limit and gap < limit, "pixel fields")
    rows, rest = divmod(size, columns * samples * sample)
    refuse_unless(rows and not rest, "whole rows")
    stream = coded[8:]
    check_header(stream, columns, rows, samples, 8 * sample)
    try:
        image = imagecodecs.htj2k_decode(stream)
    except imagecodecs.Htj2kError as error:
        raise RefusedError("codestream") from error
    content = bytearray()
    for p in image.reshape(-1).tolist():
        value = lowest if gap and not p else (p + lowest + gap) % limit
        content += value.to_bytes(sample, "little")
    return bytes(content)


def check_header(stream: bytes, c: int, r: int, s: int, b: int) -> None:
    def four(number: int) -> str:
        return f"{number:08X}"

    t = int(s == 3)
    e, f = f"{8 * (b + t + 1):02X}", f"{8 * (b + t + 2):02X}"
    expected = bytes.fromhex(
        "FF4F"
        + f"FF51 {38 + 3 * s:04X} 4000"
        + (four(c) + four(r) + four(0) + four(0)) * 2
        + f"{s:04X}"
        + f"{b - 1:02X} 01 01" * s
        + f"FF50 0008 00020000 {b - 6 + t:04X}"
        + f"FF52 000C 00 02 0001 {t:02X} 05 04 04 40 01"
        + f"FF5C 0013 20 {e} {f * 12} {e * 3}"
    )
    refuse_unless(stream[: len(expected)] == expected, "main header")
    rest = stream[len(expected) :]
    if rest[:2] == b"\xff\x64":
        length = int.from_bytes(rest[2:4])
        refuse_unless(length <= 256, "comment")
        rest = rest[2 + length :]
    refuse_unless(rest[:6] == bytes.fromhex("FF90000A0000"), "SOT")
    refuse_unless(int.from_bytes(rest[6:10]) == len(rest) - 2, "tile-part length")
    refuse_unless(rest[10:14] == bytes.fromhex("0001FF93"), "SOD")
    refuse_unless(rest[-2:] == bytes.fromhex("FFD9"), "EOC")
