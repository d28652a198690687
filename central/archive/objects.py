"""Where contents are kept: one a content, named by its SHA-256, written once, never changed.

`ObjectStore` is the interface, `ObjectFiles` the one on a folder; `central.archive.s3` has the one on S3.

Always true of the folder: a file under ``objects/ab/cd/`` is whole and durable, because it got its name by a rename
after fsync, and the folder was fsynced after that. What a crash leaves: files in ``objects/incoming``, for
`ObjectFiles.sweep` (what writes beside the server has a folder of its own for that); or a whole file without a row in
the index, which the resend finds again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Protocol

from central.archive.errors import NoSuchObjectError, ObjectDamagedError, StorageFullError
from central.archive.sealed_file import ObjectFile, SealedObject
from contract.identifiers import InvalidIdentifierError, check_sha256

_PIECE_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class StoredObject:
    """A durable content that the index does not know of yet. `path` may be read until the object is indexed.

    `sealed`: how it lies in the store, where it is encrypted; None: plain, under its own SHA-256.
    """

    sha256: str
    size_bytes: int
    path: ObjectFile
    sealed: SealedObject | None = None

    @property
    def name(self) -> str:
        """Its name in the store."""
        return self.sealed.address if self.sealed is not None else self.sha256


@dataclass(frozen=True)
class KeptObject:
    """What the store says of a content: its name, and when it came."""

    sha256: str
    kept_at_s: float


class ObjectStore(Protocol):
    """A place for contents. Safe to call from many threads; every implementation passes the same tests."""

    def new_object(self) -> FileSink:
        """Where the bytes of one object go."""

    def path_of(self, sha256: str, *, compare: bool = False) -> Path:
        """A local file with this content, to be opened at once.

        Parameters
        ----------
        compare : read the file first and compare it with its name.

        Raises
        ------
        NoSuchObjectError : it is not here.
        ObjectDamagedError : what is kept under this name is something else.
        StoreUnavailableError : the store does not answer.
        """

    def remove(self, sha256: str) -> None:
        """Forget a content; one that is not here is forgotten already. StoreUnavailableError as above."""

    def sweep(self) -> None:
        """Remove what a crash left half written. For the one that has the folder to itself, before it writes."""

    def kept(self, after: str = "") -> Iterator[KeptObject]:
        """Everything that is here, by name, from behind `after` on. StoreUnavailableError as above."""

    def read_through(self, sha256: str) -> Iterator[bytes | memoryview]:
        """The bytes as they are kept (not a copy at hand), a piece at a time, whatever they are.

        Raises
        ------
        NoSuchObjectError, StoreUnavailableError : as above.
        OSError : the disk cannot read them.
        """


Keep = Callable[[BinaryIO, Path, str, int], StoredObject]
"""Makes a written file durable under its SHA-256 and size, and closes it."""


class ObjectSink(ABC):
    """Writes one object. As a context manager it discards what was not committed."""

    @abstractmethod
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes of the Part 10 file. StorageFullError : the disk is full."""

    @abstractmethod
    def readable(self) -> ObjectFile:
        """Where the bytes can be read until the object is committed or discarded. Ends the writing."""

    @abstractmethod
    def commit(self) -> StoredObject:
        """Make the object durable under its content address. The same content twice is one object.

        Raises
        ------
        StorageFullError, StoreUnavailableError : it is not durable.
        """

    @abstractmethod
    def discard(self) -> None:
        """Forget what was written; nothing to do after a commit."""

    def __enter__(self) -> ObjectSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


class FileSink(ObjectSink):
    """Writes as it comes. Raises `StorageFullError` from `write` and `commit` when the disk is full."""

    def __init__(self, path: Path, keep: Keep) -> None:
        self._path = path
        self._keep = keep
        self._file: BinaryIO | None = path.open("xb")
        self._hash = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
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
        assert self._file is not None, "the sink is closed"
        try:
            self._file.flush()
        except OSError as error:
            raise storage_error(error) from error
        return self._path

    def commit(self) -> StoredObject:
        assert self._file is not None, "the sink is closed"
        try:
            self._file.flush()
            stored = self._keep(self._file, self._path, self._hash.hexdigest(), self._size)
        except OSError as error:
            raise storage_error(error) from error
        self._file = None
        return stored

    def discard(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # on a full disk close tries to write once more
                self._file.close()
            self._file = None
            self._path.unlink(missing_ok=True)


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
        """Make the folder if needed."""
        files = cls(root, incoming)
        files._make_durable_folder(files._incoming)
        return files

    def new_object(self) -> FileSink:
        return FileSink(self._incoming / secrets.token_hex(16), self._keep)

    def path_of(self, sha256: str, *, compare: bool = False) -> Path:
        path = self._place(sha256)
        if not path.exists():
            raise NoSuchObjectError(sha256)
        if compare and file_sha256(path) != sha256:
            raise ObjectDamagedError(sha256)
        return path

    def remove(self, sha256: str) -> None:
        self._place(sha256).unlink(missing_ok=True)

    def sweep(self) -> None:
        sweep_folder(self._incoming)

    def kept(self, after: str = "") -> Iterator[KeptObject]:
        for first in _folders(self._root, after[:2]):
            for second in _folders(first, after[2:4] if first.name == after[:2] else ""):
                for path in sorted(second.glob("*.dcm")):
                    name = path.stem
                    if name > after and is_sha256(name):
                        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                            yield KeptObject(name, path.stat().st_mtime)

    def read_through(self, sha256: str) -> Iterator[bytes | memoryview]:
        try:
            with self._place(sha256).open("rb", buffering=0) as file:
                # Past what memory still holds: it is the disk that is asked.
                with contextlib.suppress(OSError):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while piece := file.read(_PIECE_BYTES):
                    yield piece
        except FileNotFoundError as error:
            raise NoSuchObjectError(sha256) from error

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


def _folders(root: Path, since: str) -> list[Path]:
    """The folders of two letters in `root`, by name, from `since` on."""
    return sorted(path for path in root.glob("[0-9a-f][0-9a-f]") if path.name >= since)


def is_sha256(name: str) -> bool:
    """Whether `name` is one that a content can have."""
    try:
        check_sha256(name)
    except InvalidIdentifierError:
        return False
    return True


def file_sha256(path: Path) -> str:
    """Of the bytes at `path`, lower case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep_folder(incoming: Path) -> None:
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
