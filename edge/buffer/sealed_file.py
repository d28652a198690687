"""One sealed file on its way to the disk, past the page cache.

Sealed bytes are written once and not read again soon, so they go straight from aligned buffers to the disk
(O_DIRECT): no copy in the kernel, no memory that grows with the queue, and the final sync has nothing left to
write. A full buffer is written on another thread while the next one fills, so that the disk works while the wire
does; that thread reckons the label's checksum as well. Where the file system has no direct writes, ordinary ones do
the same. `finish` ends with the one sync that makes bytes and label durable together; the name was made durable
before (`edge.buffer.files`).

A failed write or sync is never tried again on the same descriptor: the kernel has marked the pages clean, so a
second one would succeed and prove nothing. The caller throws the file away and the peer resends.
"""

from __future__ import annotations

import contextlib
import errno
import io
import mmap
import os
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edge.buffer.label import BLOCK_BYTES, Label, encode_label

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER_BYTES = 1 << 18
_IDLE_BUFFERS = 16
_WRITERS = 4


class AlignedBuffers:
    """Buffers that start on a page, kept for the next file: the first touch of memory costs more than its use.

    Attributes
    ----------
    writers : the threads that write full ones.
    """

    def __init__(self) -> None:
        self._idle: deque[mmap.mmap] = deque()
        self.writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="spool-write")

    def take(self) -> mmap.mmap:
        try:
            return self._idle.pop()
        except IndexError:
            return mmap.mmap(-1, BUFFER_BYTES)

    def give_back(self, buffer: mmap.mmap) -> None:
        if len(self._idle) < _IDLE_BUFFERS:
            self._idle.append(buffer)


def takes_direct_writes(folder: Path) -> bool:
    """Whether files in `folder` can be written with O_DIRECT; found out by doing it."""
    path = folder / "direct.probe"
    block = mmap.mmap(-1, BLOCK_BYTES)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_DIRECT, 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        path.unlink(missing_ok=True)
        return False
    try:
        return os.write(descriptor, block) == BLOCK_BYTES
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOSPC}:
            raise
        return error.errno == errno.ENOSPC  # full, but not of another mind
    finally:
        os.close(descriptor)
        path.unlink()


class SealedFile:
    """Written by one thread. `discard` at any time, `finish` once."""

    def __init__(self, path: str, buffers: AlignedBuffers, *, direct: bool) -> None:
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_DIRECT if direct else 0)
        self.path = path
        self._buffers = buffers
        self._buffer = buffers.take()  # before the descriptor, which nobody would close
        self._descriptor: int | None = os.open(path, flags)
        self._used = 0
        self._crc32 = 0
        self._writing: Future[None] | None = None  # the buffer before this one; never more than one
        self._other: mmap.mmap | None = None

    def write(self, data: bytes) -> None:
        """Add sealed bytes; `OSError` when the disk did not take these or others before them."""
        view = memoryview(data)
        while view:
            taken = min(len(view), BUFFER_BYTES - self._used)
            self._fill(view[:taken])
            view = view[taken:]
            if self._used == BUFFER_BYTES:
                self._write_behind()

    def finish(self, label: Label) -> None:
        """Put the label behind the sealed bytes and make all of it durable.

        Raises
        ------
        OSError : nothing is known of what reached the disk; the file must go.
        """
        self._settle()
        self._count(self._buffer, self._used)
        text = encode_label(label, self._crc32)
        end = memoryview(bytes(-(label.stored_bytes + len(text)) % BLOCK_BYTES) + text)
        while end:
            taken = min(len(end), BUFFER_BYTES - self._used)
            self._fill(end[:taken])
            end = end[taken:]
            if self._used == BUFFER_BYTES or not end:
                self._write_out(self._buffer, self._used)
                self._used = 0
        assert self._descriptor is not None
        os.fdatasync(self._descriptor)
        self._close()

    def discard(self) -> None:
        """Close and delete, whatever state it is in. What a failing disk keeps, the next start sweeps."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            Path(self.path).unlink(missing_ok=True)

    def _fill(self, data: memoryview) -> None:
        self._buffer[self._used : self._used + len(data)] = data
        self._used += len(data)

    def _write_behind(self) -> None:
        """Hand the full buffer to another thread and go on with the other one."""
        self._settle()
        full, self._buffer = self._buffer, self._other or self._buffers.take()
        self._other, self._used = full, 0
        self._writing = self._buffers.writers.submit(self._write_sealed, full)

    def _settle(self) -> None:
        """Wait until the other buffer is on the disk; its failure comes out here."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write_sealed(self, full: mmap.mmap) -> None:
        self._count(full, BUFFER_BYTES)
        self._write_out(full, BUFFER_BYTES)

    def _count(self, buffer: mmap.mmap, used: int) -> None:
        """Take sealed bytes into the checksum: in their order, since the buffer before was settled."""
        with memoryview(buffer) as whole, whole[:used] as sealed:
            self._crc32 = zlib.crc32(sealed, self._crc32)

    def _write_out(self, buffer: mmap.mmap, used: int) -> None:
        assert self._descriptor is not None
        with memoryview(buffer) as whole:
            at = 0
            while at < used:
                with whole[at:used] as rest:
                    written = os.write(self._descriptor, rest)
                if not written:
                    raise OSError(errno.EIO, "the disk took nothing of a write")
                at += written

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if self._writing is not None:
            wait((self._writing,))  # a number that is closed may be another file's a moment later
        self._buffers.give_back(self._buffer)
        if self._other is not None:
            self._buffers.give_back(self._other)
        os.close(descriptor)


class SealedBytes(io.RawIOBase):
    """The sealed bytes of a file, without the label behind them: what travels. Closes `file` with itself."""

    def __init__(self, file: BinaryIO, stored_bytes: int) -> None:
        self._file = file
        self._size = stored_bytes
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        with memoryview(buffer) as whole, whole[: max(0, self._size - self._at)] as wanted:
            if not len(wanted):
                return 0
            self._file.seek(self._at)
            taken: int = self._file.readinto(wanted)  # type: ignore[attr-defined]  # BinaryIO leaves it out
        self._at += taken
        return taken

    def close(self) -> None:
        self._file.close()
        super().close()
