"""Rows of uncompressed pixels to HTJ2K and back, bit for bit (ISO/IEC 15444-15, the reversible path).

Generic compressors see bytes; a codec made for images sees slopes, and halves what they leave. One thing hurts
it: scanners write everything outside the round field of view as one value far below all others (-2000 beside
air at -1000), and that cliff costs bits all around the circle. So the lowest value is brought to just below the
second lowest before coding, and put back after.

Always true: `encode_rows` decodes its own work and compares before it gives it out. `decode_rows` hands a
codestream to the decoder only if it begins as those of its size do (`contract.htj2k_header`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from contract.errors import PermanentError
from contract.htj2k_header import is_expected

MAX_COLUMNS = 65_535


class PixelRowsError(PermanentError):
    """The coded rows are not what was declared for them."""


@dataclass(frozen=True)
class PixelLayout:
    """How uncompressed pixels lie in memory, little endian, pixel after pixel, row after row.

    Attributes
    ----------
    columns : pixels in a row, 1 to 65,535.
    samples : samples of a pixel, interleaved: 1, or 3 for colour.
    sample_bytes : 1 or 2.
    signed : two's complement (Pixel Representation 1).
    """

    columns: int
    samples: int
    sample_bytes: int
    signed: bool

    @property
    def row_bytes(self) -> int:
        return self.columns * self.samples * self.sample_bytes


@dataclass(frozen=True)
class CodedRows:
    """Coded rows, and the two numbers that put the lowest value back (both unsigned, of the sample's width)."""

    coded: bytes
    lowest: int
    gap: int


def encode_rows(raw: bytes | bytearray | memoryview, layout: PixelLayout) -> CodedRows | None:
    """Code whole rows; None where the result would not be smaller or does not decode to the same bytes.

    Parameters
    ----------
    raw : a whole number of rows.
    """
    unsigned = np.dtype(f"<u{layout.sample_bytes}")
    values = np.frombuffer(raw, dtype=np.dtype(f"<i{layout.sample_bytes}") if layout.signed else unsigned)
    # All arithmetic is modulo the sample's width: the lowest value, one below zero, wraps to the top.
    top = (1 << 8 * layout.sample_bytes) - 1
    lowest = int(values.min()) & top
    above = values.view(unsigned) - unsigned.type(lowest + 1 & top)
    gap = int(above.min())
    packed = above - unsigned.type(gap - 1 & top)
    if gap:
        packed[above == top] = 0
    coded = _encode(packed.reshape(_shape(len(raw), layout)))
    if coded is None or len(coded) >= len(raw):
        return None
    rows = CodedRows(coded, lowest, gap)
    try:
        return rows if decode_rows(rows, len(raw), layout) == raw else None
    except PixelRowsError:
        return None


def decode_rows(rows: CodedRows, size_bytes: int, layout: PixelLayout) -> bytes:
    """The bytes that `encode_rows` was given, `size_bytes` of them.

    Raises
    ------
    PixelRowsError : the codestream is damaged, or is an image of another size than declared.
    """
    shape = _shape(size_bytes, layout)
    if not is_expected(
        rows.coded, columns=shape[1], rows=shape[0], samples=layout.samples, sample_bytes=layout.sample_bytes
    ):
        raise PixelRowsError("coded pixel rows are not in the one form that rows of their size have")
    unsigned = np.dtype(f"<u{layout.sample_bytes}")
    try:
        packed: NDArray[Any] = imagecodecs.htj2k_decode(rows.coded)
    except imagecodecs.Htj2kError as error:
        raise PixelRowsError("coded pixel rows are damaged") from error
    if packed.shape != shape or packed.dtype.itemsize != layout.sample_bytes:
        raise PixelRowsError("coded pixel rows are an image of another shape than declared")
    packed = packed.view(unsigned)
    values = packed + unsigned.type(rows.lowest + rows.gap & (1 << 8 * layout.sample_bytes) - 1)
    if rows.gap:
        values[packed == 0] = rows.lowest
    return bytes(values.tobytes())  # numpy's stub says Any


def _shape(size_bytes: int, layout: PixelLayout) -> tuple[int, ...]:
    rows, rest = divmod(size_bytes, layout.row_bytes)
    if rest or not rows:
        raise PixelRowsError("coded pixels are not whole rows")
    return (rows, layout.columns) if layout.samples == 1 else (rows, layout.columns, layout.samples)


def _encode(image: NDArray[Any]) -> bytes | None:
    try:
        return bytes(imagecodecs.htj2k_encode(image, reversible=True))
    except imagecodecs.Htj2kError:
        return None  # a form the codec cannot take; the caller has a way that takes everything
