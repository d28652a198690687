"""Where contents are kept: one a content, named by its SHA-256, written once, never changed.

`ObjectStore` is the interface; `central.archive.object_files` has the one on a folder, `central.archive.s3` the one
on S3.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Protocol

from central.archive.errors import StorageFullError
from central.archive.sealed_file import ObjectFile, SealedObject
from contract.identifiers import InvalidIdentifierError, check_sha256

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

    def sweep(self, is_indexed: Callable[[str], bool]) -> None:
        """End what a crash left: what is half written goes, and what the index names comes into its place.

        For the one that has the folder to itself, before it writes.

        Parameters
        ----------
        is_indexed : whether a row names the content of this SHA-256.
        """

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
    def sync(self) -> None:
        """Begin what `commit` would wait for: make the bytes durable where they lie, if they lie on this machine.

        After `readable`, beside whoever reads there. StorageFullError : the disk is full.
        """

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
    """Writes as it comes. Raises `StorageFullError` from `write` and `commit` when the disk is full.

    Parameters
    ----------
    is_made : the file is there already, empty.
    keeps_here : the store keeps the very file, so its bytes are to be durable before `keep`.
    """

    def __init__(self, path: Path, keep: Keep, *, is_made: bool = False, keeps_here: bool = False) -> None:
        self._path = path
        self._keep = keep
        self._file: BinaryIO | None = path.open("wb" if is_made else "xb")
        self._is_durable = not keeps_here
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

    def sync(self) -> None:
        assert self._file is not None, "the sink is closed"
        if self._is_durable:
            return
        try:
            self._file.flush()
            os.fdatasync(self._file.fileno())
        except OSError as error:
            raise storage_error(error) from error
        self._is_durable = True

    def commit(self) -> StoredObject:
        assert self._file is not None, "the sink is closed"
        try:
            self._file.flush()
            self.sync()
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
