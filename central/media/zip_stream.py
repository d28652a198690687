"""A ZIP that is made while it is sent (ISO/IEC 21320-1): no file in it is ever whole in memory.

Every file is deflated, in name only where its pixels are compressed already: readers that take a ZIP as it comes
need that form, because the sizes stand behind the files. ZIP64 where a file or the whole is too large without.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

CHUNK_BYTES: Final = 1 << 20
_FAST: Final = 1
_STORED_BLOCKS: Final = 0
_LARGE_BYTES: Final = 2_000_000_000  # deflated data may grow a little, and some readers take sizes as signed


@dataclass(frozen=True)
class Member:
    """A file of a ZIP. `chunks` is called when its turn has come."""

    name: str
    size_bytes: int
    is_packed: bool
    chunks: Callable[[], Iterator[bytes]]


class _Outlet:
    """What `zipfile` takes for an unseekable file, emptied by whoever sends."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size_bytes = 0

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        self.size_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        self.size_bytes = 0
        return taken


def zipped(members: Iterable[Member]) -> Generator[bytes, None, None]:
    """The ZIP of `members` in pieces of about `CHUNK_BYTES`. What reading one raises leaves it unended."""
    outlet = _Outlet()
    with zipfile.ZipFile(outlet, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]  # it needs no more
        for member in members:
            archive.compresslevel = _STORED_BLOCKS if member.is_packed else _FAST
            with archive.open(member.name, "w", force_zip64=member.size_bytes > _LARGE_BYTES) as target:
                for chunk in member.chunks():
                    target.write(chunk)
                    if outlet.size_bytes >= CHUNK_BYTES:
                        yield outlet.take()
    yield outlet.take()
