"""The bytes of a pack, read from the spool while they are sent: one file open at a time, nothing gathered in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import BinaryIO

from contract.identifiers import ObjectId
from contract.pack import Pack
from edge.uplink.errors import ObjectDamagedError


class PackSource:
    """What `Transfer` reads from: `seek` and `read`, as of one file that begins with the pack's head."""

    def __init__(self, pack: Pack, open_object: Callable[[ObjectId], BinaryIO]) -> None:
        self._pack = pack
        self._open_object = open_object
        self._at = 0
        self._open: tuple[ObjectId, BinaryIO] | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset if whence == os.SEEK_SET else self._pack.length_bytes + offset
        return self._at

    def read(self, size: int) -> bytes:
        """At most `size` bytes from here on, and no further than the end of the object they begin in."""
        head = self._pack.head
        if self._at < len(head):
            piece = head[self._at : self._at + size]
            self._at += len(piece)
            return piece
        for entry in self._pack.entries:
            inside = self._at - entry.offset_bytes
            if inside < entry.stored_bytes:
                file = self._file(entry.object_id)
                file.seek(inside)
                piece = file.read(min(size, entry.stored_bytes - inside))
                if not piece:
                    raise ObjectDamagedError("a sealed file on this box became shorter while it was sent")
                self._at += len(piece)
                return piece
        return b""

    def _file(self, object_id: ObjectId) -> BinaryIO:
        if self._open is None or self._open[0] != object_id:
            self._close()
            self._open = object_id, self._open_object(object_id)
        return self._open[1]

    def _close(self) -> None:
        if self._open is not None:
            with suppress(OSError):  # it was only read
                self._open[1].close()
            self._open = None

    def __enter__(self) -> PackSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
