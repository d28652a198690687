"""One instance on its way in: a sealed file that grows as the bytes arrive, then is kept, or is gone.

The order that makes an acknowledgement true: write → fsync file → rename → fsync directory → commit the row.
When `commit` returns, success may be answered; when anything fails before that, the file is removed and the
error raised, and the sender, never told success, keeps its copy. A crash leaves a ``.part`` file (swept) or a
sealed file without a row (set aside); never a row without a file.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, Protocol

from contract.identifiers import ObjectId
from contract.sealed_object import Content, SealedObjectWriter
from edge.buffer.errors import SpoolError, storage_error
from edge.buffer.files import Place, SpoolFiles
from edge.buffer.records import InstanceIdentity, Origin, Stored

_ROOM_CHECK_BYTES = 64 << 20  # a gigabyte study must notice on its way in that the reserve is reached


class Registrar(Protocol):
    """What a reception asks of the spool it belongs to. All three are safe to call from any thread."""

    @property
    def reserve_bytes(self) -> int: ...

    def check_room(self) -> None:
        """DiskFullError when less than the reserve is free."""

    def duplicate_of(self, sop_instance_uid: str, sha256: str) -> ObjectId | None: ...

    def register(
        self,
        object_id: ObjectId,
        origin: Origin,
        identity: InstanceIdentity,
        content: Content,
        stored_bytes: int,
    ) -> ObjectId:
        """Commit the row of a durable file; the id of the object that holds the bytes (an older one: duplicate)."""

    def register_quarantined(
        self, object_id: ObjectId, origin: Origin, content: Content, stored_bytes: int, reason: str
    ) -> None: ...


class Reception:
    """Made by `Spool.receive`. Used by one thread; leaving the ``with`` block undecided discards it."""

    def __init__(
        self,
        object_id: ObjectId,
        origin: Origin,
        files: SpoolFiles,
        registrar: Registrar,
        make_writer: Callable[[BinaryIO], SealedObjectWriter],
    ) -> None:
        self.object_id = object_id
        self._origin = origin
        self._files = files
        self._registrar = registrar
        self._open = True
        self._sealed = False
        self._room_checked_at_bytes = 0
        self._file: BinaryIO | None = None
        try:
            self._file = files.create_incoming(object_id)
            self._writer = make_writer(self._file)
        except OSError as error:
            self.discard()
            raise storage_error(error, reserve_bytes=registrar.reserve_bytes) from error

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes of the Part 10 file; `data` may be reused by the caller at once.

        Raises
        ------
        DiskFullError, StorageFailedError : the reception has discarded itself.
        """
        try:
            self._writer.write(data)
            if self._writer.stored_bytes - self._room_checked_at_bytes >= _ROOM_CHECK_BYTES:
                self._room_checked_at_bytes = self._writer.stored_bytes
                self._registrar.check_room()
        except OSError as error:
            self.discard()
            raise storage_error(error, reserve_bytes=self._registrar.reserve_bytes) from error
        except SpoolError:
            self.discard()
            raise

    def commit(self, identity: InstanceIdentity) -> Stored:
        """Make the instance durable. Only after this returns may the sender be told success.

        Raises
        ------
        TransientSpoolError : nothing was kept.
        """

        def keep(content: Content, file: BinaryIO) -> ObjectId:
            known = self._registrar.duplicate_of(identity.sop_instance_uid, content.sha256)
            if known is not None:
                return known  # spares the fsyncs; a duplicate that appears from here on is found by register
            self._seal(file, Place.OBJECTS)
            return self._registrar.register(
                self.object_id, self._origin, identity, content, self._writer.stored_bytes
            )

        content, kept_as = self._finish(keep)
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

        def keep(content: Content, file: BinaryIO) -> ObjectId:
            self._seal(file, Place.QUARANTINE)
            self._registrar.register_quarantined(
                self.object_id, self._origin, content, self._writer.stored_bytes, reason
            )
            return self.object_id

        self._finish(keep)

    def discard(self) -> None:
        """Drop what was written. Does nothing once the reception has ended."""
        if not self._open:
            return
        self._open = False
        if self._file is not None:
            self._files.discard_incoming(self.object_id, self._file)
        if self._sealed:
            self._files.unlink(self.object_id)

    def __enter__(self) -> Reception:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _finish(self, keep: Callable[[Content, BinaryIO], ObjectId]) -> tuple[Content, ObjectId]:
        """Complete the sealed stream and let `keep` place it; on any failure leave nothing behind."""
        if not self._open or self._file is None:
            raise RuntimeError("this reception has ended")
        try:
            content = self._writer.finish()
            kept_as = keep(content, self._file)
        except OSError as error:
            self.discard()
            raise storage_error(error, reserve_bytes=self._registrar.reserve_bytes) from error
        except BaseException:
            self.discard()
            raise
        if kept_as != self.object_id:
            self.discard()
        self._open = False
        return content, kept_as

    def _seal(self, file: BinaryIO, place: Place) -> None:
        self._sealed = (
            True  # before the fact: a failure between rename and return must remove the new name too
        )
        self._files.seal(self.object_id, file, place)
