"""Cuts a Part 10 file into segments as its bytes stream past, each coded in the way that suits it.

What is not pixels goes through Zstandard. Pixels, once their layout is announced, are cut into bands of whole
rows and coded as images; a band that does not gain by it goes the way of the rest. At most one band is held.
"""

from __future__ import annotations

import zstandard

from contract.pixel_rows import PixelLayout
from contract.segments import pixel_segment, zstd_segment

BAND_BYTES = 1 << 19
"""A CT slice. Larger bands gain little (the codec adapts within a few rows) and are held in memory."""

_ZSTD_LEVEL = 3  # what is not pixels is little
_MAX_ROW_BYTES = BAND_BYTES

Part = bytes | bytearray | memoryview


class SegmentCoder:
    """For `Codec.SEGMENTS`."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._layout: PixelLayout | None = None
        self._pixel_bytes_left = 0

    def begin_pixels(self, layout: PixelLayout, size_bytes: int) -> list[Part]:
        """The next `size_bytes` are pixels. Returns what was held, coded; ignored where rows do not add up."""
        if layout.row_bytes > _MAX_ROW_BYTES or size_bytes < layout.row_bytes:
            return []
        parts = self._emit()
        self._layout = layout
        self._pixel_bytes_left = size_bytes
        return parts

    def write(self, data: Part) -> list[Part]:
        """Coded parts that are ready."""
        view = memoryview(data)
        parts: list[Part] = []
        while view:
            taken = min(len(view), self._room())
            self._held += view[:taken]
            if not self._room():
                parts += self._emit()
            view = view[taken:]
            self._count(taken, parts)
        return parts

    def finish(self) -> list[Part]:
        return self._emit()

    def _room(self) -> int:
        """How many bytes until what is held is to be coded."""
        if self._layout is None:
            return BAND_BYTES - len(self._held)
        row_bytes = self._layout.row_bytes
        whole = BAND_BYTES // row_bytes * row_bytes
        return min(whole - len(self._held), self._pixel_bytes_left)

    def _count(self, taken: int, parts: list[Part]) -> None:
        if self._layout is None:
            return
        self._pixel_bytes_left -= taken
        if not self._pixel_bytes_left:
            parts += self._emit()
            self._layout = None

    def _emit(self) -> list[Part]:
        """Code what is held."""
        held = self._held
        if not held:
            return []
        self._held = bytearray()
        if self._layout is None:
            return zstd_segment(held, _compressor())
        coded = None
        if not len(held) % self._layout.row_bytes:
            coded = pixel_segment(held, self._layout)
        return coded or zstd_segment(held, _compressor())


def _compressor() -> zstandard.ZstdCompressor:
    """For one segment: one that was used holds two megabytes, and many objects are under way at a time."""
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
