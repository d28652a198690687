"""The spool's folders: where a sealed file lies, and how it gets there without ever being half there.

    incoming/<object id>.part              being written; nobody was told anything
    objects/<first two>/<object id>.sealed whole and durable
    quarantine/<object id>.sealed          whole and durable, waits for a person

Always true: a name ending in ``.sealed`` is a complete file whose bytes were fsynced before it got the name.
A crash leaves at most a ``.part`` file, or a sealed file no row knows yet; recovery handles both. Files are
named by our object ids alone, never by anything a peer sent.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from contract.identifiers import InvalidIdentifierError, ObjectId, check_object_id
from edge.buffer.errors import SpoolInUseError

_SEALED = ".sealed"
_PART = ".part"
_SHARDS = [f"{number:02x}" for number in range(256)]
_WRITE_BUFFER_BYTES = 1 << 17


class Place(Enum):
    """The two folders of sealed files."""

    OBJECTS = "objects"
    QUARANTINE = "quarantine"


class SpoolFiles:
    """Owns the directory tree below `root`. Holds a lock on it for as long as it lives.

    Raises
    ------
    SpoolInUseError : another process holds the directory.
    OSError : not a directory, not writable.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)
        self._owner = os.open(root / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._owner)
            raise SpoolInUseError(f"another process is using the spool {root}") from error
        try:
            self._make_folders()
        except OSError:
            self.close()
            raise

    def _make_folders(self) -> None:
        """All 256 shards are made once, so that a reception never has to make a parent durable as well."""
        for name in ("incoming", Place.OBJECTS.value, Place.QUARANTINE.value):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)
        objects = self.root / Place.OBJECTS.value
        present = {entry.name for entry in os.scandir(objects)}
        for shard in _SHARDS:
            if shard not in present:
                (objects / shard).mkdir(mode=0o700)
        _fsync_directory(objects)
        _fsync_directory(self.root)

    def close(self) -> None:
        os.close(self._owner)

    def create_incoming(self, object_id: ObjectId) -> BinaryIO:
        """A new, empty ``.part`` file of mode 0600."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._incoming(object_id), flags, 0o600)
        return open(descriptor, "wb", buffering=_WRITE_BUFFER_BYTES)

    def seal(self, object_id: ObjectId, file: BinaryIO, place: Place) -> None:
        """Make a finished ``.part`` durable and give it its name: fsync file, rename, fsync directory.

        A failed fsync is never tried again on the same descriptor: the kernel has marked the pages clean, so
        a second one would succeed and prove nothing. The caller throws the file away and the peer resends.
        """
        file.flush()
        os.fsync(file.fileno())
        file.close()
        target = self._sealed(object_id, place)
        self._incoming(object_id).rename(target)
        _fsync_directory(target.parent)

    def discard_incoming(self, object_id: ObjectId, file: BinaryIO) -> None:
        """Drop a ``.part`` file whatever state it is in."""
        # Closing flushes what is buffered, which may fail once more when the disk is full; these bytes are
        # being thrown away and the first failure was reported.
        with contextlib.suppress(OSError):
            file.close()
        self._incoming(object_id).unlink(missing_ok=True)

    def open_sealed(self, object_id: ObjectId) -> BinaryIO | None:
        """The sealed file wherever it lies; None if it is gone."""
        for place in Place:
            try:
                return self._sealed(object_id, place).open("rb")
            except FileNotFoundError:
                continue
        return None

    def move(self, object_id: ObjectId, to: Place) -> bool:
        """Bring a sealed file to `to`; True if it had to be moved. FileNotFoundError if it is nowhere."""
        target = self._sealed(object_id, to)
        if target.exists():
            return False
        source = self._sealed(object_id, Place.OBJECTS if to is Place.QUARANTINE else Place.QUARANTINE)
        source.rename(target)
        _fsync_directory(target.parent)
        _fsync_directory(source.parent)
        return True

    def unlink(self, object_id: ObjectId) -> bool:
        """Delete a sealed file; True if there was one. Not fsynced: recovery deletes it again if need be."""
        found = False
        for place in Place:
            try:
                self._sealed(object_id, place).unlink()
            except FileNotFoundError:
                continue
            found = True
        return found

    def sweep_incoming(self) -> int:
        """Delete every torn file a former life left; how many there were."""
        torn = list((self.root / "incoming").iterdir())
        for path in torn:
            path.unlink()
        return len(torn)

    def sealed_files(self) -> Iterator[tuple[ObjectId, Place, int]]:
        """Every sealed file with its place and size in bytes. Names that are not ours are left alone."""
        folders = [(self.root / Place.OBJECTS.value / shard, Place.OBJECTS) for shard in _SHARDS]
        folders.append((self.root / Place.QUARANTINE.value, Place.QUARANTINE))
        for folder, place in folders:
            for entry in os.scandir(folder):
                object_id = _object_id_of(entry.name)
                if object_id is not None:
                    yield object_id, place, entry.stat().st_size

    def room(self) -> tuple[int, int]:
        """Total and free bytes of the file system, as far as this user may fill it."""
        found = os.statvfs(self.root)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def _incoming(self, object_id: ObjectId) -> Path:
        return self.root / "incoming" / (object_id + _PART)

    def _sealed(self, object_id: ObjectId, place: Place) -> Path:
        folder = self.root / place.value
        if place is Place.OBJECTS:
            folder /= object_id[:2]
        return folder / (object_id + _SEALED)


def _object_id_of(name: str) -> ObjectId | None:
    if not name.endswith(_SEALED):
        return None
    try:
        return check_object_id(name.removesuffix(_SEALED))
    except InvalidIdentifierError:
        return None


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
