"""One instance on its way in: a sealed file that grows as the bytes arrive, then is kept, or is gone.

The order that makes an acknowledgement true: write, label, sync, row. Bytes and label become durable together with
one sync of a file whose name was durable before; the row is a copy of the label and needs no sync of its own. When
`commit` returns, success may be answered; when anything fails before that, the file is removed and the error
raised, and the sender, never told success, keeps its copy. A crash leaves a file without a sound label (swept) or
a labelled one without a row (recovery makes the row).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol

from contract.identifiers import ObjectId
from contract.pixel_rows import PixelLayout
from contract.sealed_object import Content, SealedObjectWriter
from contract.segment_coder import SegmentCoder
from edge.buffer.coding_pace import CodingPace
from edge.buffer.errors import storage_error
from edge.buffer.label import Label
from edge.buffer.records import InstanceIdentity, Origin, Stored
from edge.buffer.sealed_file import SealedFile

_ROOM_CHECK_BYTES = 64 << 20  # a gigabyte study must notice on its way in that the reserve is reached


class Registrar(Protocol):
    """What a reception asks of the spool it belongs to. All three are safe to call from any thread."""

    @property
    def reserve_bytes(self) -> int: ...

    def check_room(self) -> None:
        """DiskFullError when less than the reserve is free."""

    def absorb(self, label: Label, identity: InstanceIdentity) -> ObjectId | None:
        """An older object that holds the same bytes, and takes over where these were to go; None if there is none."""

    def register(self, label: Label, identity: InstanceIdentity) -> ObjectId:
        """Commit the row of a durable file; the id of the object that holds the bytes (an older one: duplicate)."""

    def register_quarantined(self, label: Label) -> None:
        """Move a durable file to quarantine and commit its row."""


class Reception:
    """Made by `Entrance.receive`. Used by one thread; leaving the ``with`` block undecided discards it."""

    def __init__(
        self,
        object_id: ObjectId,
        origin: Origin,
        file: SealedFile,
        registrar: Registrar,
        writer: SealedObjectWriter,
        coder: SegmentCoder | None,
        pace: CodingPace,
        sealed_for: tuple[str, ...],
    ) -> None:
        self.object_id = object_id
        self._origin = origin
        self._file = file
        self._registrar = registrar
        self._writer = writer
        self._coder = coder
        self._pace = pace
        self._sealed_for = sealed_for
        self._spent_s = 0.0  # by the clock
        self._cpu_began_s = time.thread_time()
        self._open = True
        self._room_checked_at_bytes = 0

    @property
    def wants_pixels(self) -> bool:
        """Whether `begin_pixels` would be of use."""
        return self._coder is not None

    def begin_pixels(self, layout: PixelLayout, size_bytes: int) -> None:
        """Say that the next `size_bytes` are uncompressed pixels; they are then coded as such where it pays.

        Raises
        ------
        DiskFullError, StorageFailedError : the reception has discarded itself.
        """
        if self._coder is not None:
            with self._step():
                self._writer.take(self._coder.begin_pixels(layout, size_bytes))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes of the Part 10 file; `data` may be reused by the caller at once.

        Raises
        ------
        DiskFullError, StorageFailedError : the reception has discarded itself.
        """
        with self._step():
            self._writer.write(data)
            if self._writer.stored_bytes - self._room_checked_at_bytes >= _ROOM_CHECK_BYTES:
                self._room_checked_at_bytes = self._writer.stored_bytes
                self._registrar.check_room()

    def commit(self, identity: InstanceIdentity) -> Stored:
        """Make the instance durable. Only after this returns may the sender be told success.

        Raises
        ------
        TransientSpoolError : nothing was kept.
        """

        def keep(content: Content) -> ObjectId:
            label = self._label(content, identity, None)
            known = self._registrar.absorb(label, identity)
            if known is not None:
                return known  # spares the sync; a duplicate that appears from here on is found by register
            self._file.finish(label)
            return self._registrar.register(label, identity)

        content, kept_as = self._finish(keep)
        self._pace.note(
            self._origin,
            size_bytes=content.size_bytes,
            spent_s=self._spent_s,
            cpu_s=time.thread_time() - self._cpu_began_s,
            tight=self._coder is not None,
        )
        return Stored(
            object_id=kept_as,
            outcome="stored" if kept_as == self.object_id else "duplicate",
            sha256=content.sha256,
            size_bytes=content.size_bytes,
            stored_bytes=self._writer.stored_bytes,
        )

    def quarantine(self, reason: str) -> None:
        """Keep the bytes apart with the reason; the sender is to be told failure.

        Raises
        ------
        TransientSpoolError : nothing was kept.
        """

        def keep(content: Content) -> ObjectId:
            label = self._label(content, None, reason)
            self._file.finish(label)
            self._registrar.register_quarantined(label)
            return self.object_id

        self._finish(keep)

    def discard(self) -> None:
        """Drop what was written. Does nothing once the reception has ended."""
        if not self._open:
            return
        self._open = False
        self._file.discard()

    def __enter__(self) -> Reception:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _label(self, content: Content, identity: InstanceIdentity | None, reason: str | None) -> Label:
        return Label(
            object_id=self.object_id,
            origin=self._origin,
            identity=identity,
            sha256=content.sha256,
            size_bytes=content.size_bytes,
            stored_bytes=self._writer.stored_bytes,
            received_at_utc=datetime.now(UTC),
            reason=reason,
            sealed_for=self._sealed_for,
        )

    def _finish(self, keep: Callable[[Content], ObjectId]) -> tuple[Content, ObjectId]:
        """Complete the sealed stream and let `keep` make it durable; on any failure leave nothing behind."""
        if not self._open:
            raise RuntimeError("this reception has ended")
        with self._step():
            content = self._writer.finish()
            kept_as = keep(content)
        if kept_as != self.object_id:
            self.discard()
        self._open = False
        return content, kept_as

    def _step(self) -> _Step:
        return _Step(self)

    def _end_step(self, spent_s: float, error: BaseException | None) -> None:
        """On any failure leave nothing behind, and say a disk's in this room's terms."""
        self._spent_s += spent_s
        if error is not None:
            self.discard()
        if isinstance(error, OSError):
            raise storage_error(error, reserve_bytes=self._registrar.reserve_bytes) from error


class _Step:
    """A stretch of work on one reception. A class, since each fragment passes through one."""

    __slots__ = ("_began_s", "_reception")

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    def __enter__(self) -> None:
        self._began_s = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reception._end_step(time.monotonic() - self._began_s, error)
