"""Where contents are kept: one a content, named by its SHA-256, written once, never changed.

`ObjectStore` is the interface, `ObjectFiles` the one on a folder; `central.archive.s3` has the one on S3.

Always true of the folder: a file under ``objects/ab/cd/`` is whole and durable, because it got its name by a rename
after fsync, and the folder was fsynced after that. What a crash leaves: files in ``objects/incoming``, swept by
`ObjectFiles.open` (what writes beside the server has a folder of its own for that); or a whole file without a row in
the index, which the resend finds again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Protocol

from central.archive.errors import NoSuchObjectError, StorageFullError
from contract.identifiers import check_sha256

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class StoredObject:
    """A durable content that the index does not know of yet. `path` may be read until the object is indexed."""

    sha256: str
    size_bytes: int
    path: Path


class ObjectStore(Protocol):
    """A place for contents. Safe to call from many threads; every implementation passes the same tests."""

    def new_object(self) -> ObjectSink:
        """Where the bytes of one Part 10 file go."""

    def path_of(self, sha256: str) -> Path:
        """A local file with this content, to be opened at once.

        Raises
        ------
        NoSuchObjectError : it is not here.
        ObjectDamagedError : what is kept under this name is something else.
        StoreUnavailableError : the store does not answer.
        """

    def remove(self, sha256: str) -> None:
        """Forget a content; one that is not here is forgotten already. StoreUnavailableError as above."""


Keep = Callable[[BinaryIO, Path, str, int], StoredObject]
"""Makes a written file durable under its SHA-256 and size, and closes it."""


class ObjectSink:
    """Writes one object. As a context manager it discards what was not committed.

    Raises `StorageFullError` from `write` and `commit` when the disk is full.
    """

    def __init__(self, path: Path, keep: Keep) -> None:
        self._path = path
        self._keep = keep
        self._file: BinaryIO | None = path.open("xb")
        self._hash = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes of the Part 10 file."""
        assert self._file is not None, "the sink is closed"
        try:
            self._file.write(data)
        except OSError as error:
            raise storage_error(error) from error
        self._hash.update(data)
        self._size += len(data)

    @property
    def sha256(self) -> str:
        """Of the bytes written so far."""
        return self._hash.hexdigest()

    def readable(self) -> Path:
        """Where the bytes written so far can be read, for as long as the object is neither committed nor discarded."""
        assert self._file is not None, "the sink is closed"
        try:
            self._file.flush()
        except OSError as error:
            raise storage_error(error) from error
        return self._path

    def commit(self) -> StoredObject:
        """Make the object durable under its content address. The same content twice is one object.

        Raises
        ------
        StorageFullError, StoreUnavailableError : it is not durable.
        """
        assert self._file is not None, "the sink is closed"
        try:
            self._file.flush()
            stored = self._keep(self._file, self._path, self._hash.hexdigest(), self._size)
        except OSError as error:
            raise storage_error(error) from error
        self._file = None
        return stored

    def discard(self) -> None:
        """Forget what was written; nothing to do after a commit."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # on a full disk close tries to write once more
                self._file.close()
            self._file = None
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> ObjectSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


INCOMING: Final = "incoming"
"""Where the server's objects are while they are written. What else writes names another folder: each sweeps its own."""


class ObjectFiles:
    """The folder ``objects``. Safe to call from many threads.

    Parameters
    ----------
    incoming : name of the folder for what is being written.
    """

    def __init__(self, root: Path, incoming: str = INCOMING) -> None:
        self._root = root
        self._incoming = root / incoming
        self._lock = threading.Lock()
        self._durable: set[Path] = set()  # folders whose names this process has fsynced; 65,792 at most

    @classmethod
    def open(cls, root: Path, incoming: str = INCOMING) -> ObjectFiles:
        """Make the folder if needed and sweep what a crash left half written."""
        files = cls(root, incoming)
        files._make_durable_folder(files._incoming)
        sweep(files._incoming)
        return files

    def new_object(self) -> ObjectSink:
        return ObjectSink(self._incoming / secrets.token_hex(16), self._keep)

    def path_of(self, sha256: str) -> Path:
        path = self._place(sha256)
        if not path.exists():
            raise NoSuchObjectError(sha256)
        return path

    def remove(self, sha256: str) -> None:
        self._place(sha256).unlink(missing_ok=True)

    def _place(self, sha256: str) -> Path:
        check_sha256(sha256)
        return self._root / sha256[:2] / sha256[2:4] / f"{sha256}.dcm"

    def _keep(self, file: BinaryIO, path: Path, sha256: str, size_bytes: int) -> StoredObject:
        target = self._place(sha256)
        os.fsync(file.fileno())
        file.close()
        self._make_durable_folder(target.parent)
        # Over an existing file too: it has the same content, and the folder's fsync below then
        # holds for both, whatever became of the writer that was there first.
        path.rename(target)
        fsync_folder(target.parent)
        return StoredObject(sha256, size_bytes, target)

    def _make_durable_folder(self, folder: Path) -> None:
        """Make `folder` and its parents down from the root, each durable before this returns.

        One that is there already may have been made a moment ago, by another thread or before a crash,
        and not be durable yet: so every folder's name is fsynced once a process.
        """
        with self._lock:
            self._make_durable(folder)

    def _make_durable(self, folder: Path) -> None:
        if folder in self._durable:
            return
        if folder == self._root:
            folder.parent.mkdir(parents=True, exist_ok=True)
        else:
            self._make_durable(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        beside = list(folder.parent.iterdir())
        fsync_folder(folder.parent)
        self._durable.update(beside)  # all that were there before the sync are durable with this one


def sweep(incoming: Path) -> None:
    """Remove what a crash left half written."""
    for left in incoming.iterdir():
        left.unlink()


def fsync_folder(folder: Path) -> None:
    """Make names in `folder` durable (POSIX: a rename is, once its directory is fsynced)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(error: OSError) -> Exception:
    """`error`, or what it means where it means that the disk is full."""
    if error.errno in _FULL:
        return StorageFullError("the disk that holds the archive is full")
    return error
