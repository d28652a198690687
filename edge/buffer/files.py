"""The spool's folders, and the names in them.

    objects/<first two>/<object id>.sealed   taken for an instance, or a name kept ready for one (empty)
    quarantine/<object id>.sealed            waits for a person

Always true: the name of a file was durable before its first byte was written. Names are made ahead, sixty-four with
one sync of their folder, so that an instance pays for its bytes alone. A crash leaves empty and torn files, which
have no label (`edge.buffer.label`) and are swept. Files are named by our object ids, never by anything a peer sent.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import threading
from enum import Enum
from pathlib import Path
from typing import BinaryIO, NamedTuple

from contract.identifiers import InvalidIdentifierError, ObjectId, check_object_id, new_object_id
from edge.buffer.durable_file import fsync_directory
from edge.buffer.errors import SpoolInUseError
from edge.buffer.sealed_file import AlignedBuffers, SealedFile, takes_direct_writes

_LOG = logging.getLogger(__name__)
_SEALED = ".sealed"
SHARDS = [f"{number:02x}" for number in range(256)]
_COPY = ".copy"
_COPIED_BYTES = 1 << 20
_NAMES_AT_ONCE = 64
_FEW_NAMES = 32  # so many left: more are made, while instances take these


class Place(Enum):
    """The two folders of sealed files."""

    OBJECTS = "objects"
    QUARANTINE = "quarantine"


class Room(NamedTuple):
    """What `statvfs` says. `total_files` is 0 on a file system that has no bound of its own for files."""

    total_bytes: int
    free_bytes: int
    total_files: int
    free_files: int


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
        fsync_directory(root.parent)
        self._owner = os.open(root / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._owner)
            raise SpoolInUseError(f"another process is using the spool {root}") from error
        self._buffers = AlignedBuffers()
        self._naming = threading.Lock()
        self._names: list[ObjectId] = []
        self._making_names = False
        try:
            self._make_folders()
            self.takes_direct_writes = takes_direct_writes(root)
        except OSError:
            self.close()
            raise

    def _make_folders(self) -> None:
        """All 256 shards are made once, so that a reception never has to make a parent durable as well."""
        for place in Place:
            (self.root / place.value).mkdir(mode=0o700, exist_ok=True)
        objects = self.root / Place.OBJECTS.value
        present = {entry.name for entry in os.scandir(objects)}
        for shard in SHARDS:
            if shard not in present:
                (objects / shard).mkdir(mode=0o700)
        fsync_directory(objects)
        fsync_directory(self.root)

    def close(self) -> None:
        """Give the directory back, without the names that were not used. May be called once."""
        self._buffers.writers.shutdown()
        with self._naming:
            for object_id in self._names:
                with contextlib.suppress(OSError):  # recovery removes it as well
                    self._sealed(object_id, Place.OBJECTS).unlink()
            self._names = []
        os.close(self._owner)

    def new_file(self) -> tuple[ObjectId, SealedFile]:
        """A file under a durable name of its own, open for writing."""
        object_id = self.take_names(1)[0]
        return object_id, SealedFile(
            object_path(self.root, object_id), self._buffers, direct=self.takes_direct_writes
        )

    def take_names(self, count: int) -> list[ObjectId]:
        """Durable names, at most `count` and at least one, each of an empty file in the queue's place."""
        with self._naming:
            if not self._names:
                self._names = self._make_names()
            taken, self._names = self._names[:count], self._names[count:]
            if len(self._names) <= _FEW_NAMES and not self._making_names:
                self._making_names = True
                self._buffers.writers.submit(self._make_more_names)
            return taken

    def give_back(self, names: list[ObjectId]) -> None:
        """Names that were taken, and whose files are still empty."""
        with self._naming:
            self._names += names

    def _make_more_names(self) -> None:
        """Beside the receptions: to create a file takes as long as to write a small one."""
        names: list[ObjectId] = []
        with contextlib.suppress(OSError):  # whoever finds no name left meets the same failure, and says it
            names = self._make_names()
        with self._naming:
            self._names += names
            self._making_names = False

    def _make_names(self) -> list[ObjectId]:
        """Create empty files in one folder and make them durable together."""
        shard = secrets.choice(SHARDS)
        names = [ObjectId(shard + new_object_id()[2:]) for _ in range(_NAMES_AT_ONCE)]
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            for object_id in names:
                os.close(os.open(object_path(self.root, object_id), flags, 0o600))
            fsync_directory(self.root / Place.OBJECTS.value / shard)
        except OSError:
            for object_id in names:
                self.unlink(object_id)
            raise
        return names

    def open_file(self, object_id: ObjectId) -> BinaryIO | None:
        """The file wherever it lies, label and all; None if it is gone."""
        for place in Place:
            try:
                return self._sealed(object_id, place).open("rb")
            except FileNotFoundError:
                continue
        return None

    def place_of(self, object_id: ObjectId) -> Place | None:
        """Where the file lies; None if it is gone."""
        return next((place for place in Place if self._sealed(object_id, place).exists()), None)

    def move(self, object_id: ObjectId, to: Place) -> bool:
        """Bring a sealed file to `to`; True if it had to be moved. FileNotFoundError if it is nowhere."""
        target = self._sealed(object_id, to)
        if target.exists():
            return False
        source = self._sealed(object_id, Place.OBJECTS if to is Place.QUARANTINE else Place.QUARANTINE)
        source.rename(target)
        fsync_directory(target.parent)
        fsync_directory(source.parent)
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

    def unlink_freed(self, object_id: ObjectId) -> None:
        """Give the room back. The row says freed already, so a failure here is recovery's to repair."""
        try:
            self.unlink(object_id)
        except OSError as error:
            _LOG.warning(
                "could not delete a freed file", extra={"object_id": object_id, "reason": error.strerror}
            )

    def write_anew(self, object_id: ObjectId) -> None:
        """Write a file's bytes again, as the kernel shows them, and make them durable.

        A sync that failed has left them clean in memory and not on the disk; another sync of them would prove nothing.
        """
        place = self.place_of(object_id)
        if place is None:
            return
        path = self._sealed(object_id, place)
        copy = path.with_suffix(_COPY)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with path.open("rb") as source, open(os.open(copy, flags, 0o600), "wb") as target:
                shutil.copyfileobj(source, target, _COPIED_BYTES)
                target.flush()
                os.fsync(target.fileno())
            shutil.copystat(path, copy)
            copy.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                copy.unlink(missing_ok=True)
            raise
        fsync_directory(path.parent)

    def names_in(self, place: Place, shard: str = "") -> set[ObjectId]:
        """Ids of the files in one folder; of the queue's, one shard. Copies that were cut off are deleted."""
        found: set[ObjectId] = set()
        for entry in os.scandir(self.root / place.value / shard):
            object_id = _object_id_of(entry.name)
            if object_id is not None:
                found.add(object_id)
            elif entry.name.endswith(_COPY):
                Path(entry.path).unlink()
        return found

    def size_of(self, object_id: ObjectId) -> int:
        """Bytes of the file wherever it lies, label and all; 0 if it is gone."""
        place = self.place_of(object_id)
        return 0 if place is None else self._sealed(object_id, place).stat().st_size

    def written_at_ns(self, object_id: ObjectId) -> int:
        """When the file got its last byte, in nanoseconds since 1970; 0 if it is gone."""
        place = self.place_of(object_id)
        return 0 if place is None else self._sealed(object_id, place).stat().st_mtime_ns

    def room(self) -> Room:
        """Of the file system, as far as this user may fill it."""
        found = os.statvfs(self.root)
        return Room(
            total_bytes=found.f_blocks * found.f_frsize,
            free_bytes=found.f_bavail * found.f_frsize,
            total_files=found.f_files,
            free_files=found.f_favail,
        )

    def _sealed(self, object_id: ObjectId, place: Place) -> Path:
        shard = f"{object_id[:2]}/" if place is Place.OBJECTS else ""
        return self.root / f"{place.value}/{shard}{object_id}{_SEALED}"


def object_path(root: Path | str, object_id: ObjectId) -> str:
    """Of a file in the queue. Text: to build a Path costs a small instance more than its hash."""
    return f"{root}/{Place.OBJECTS.value}/{object_id[:2]}/{object_id}{_SEALED}"


def sealed_path(root: Path | str, object_id: ObjectId, place: Place) -> str:
    """The same of a file in either folder."""
    if place is Place.OBJECTS:
        return object_path(root, object_id)
    return f"{root}/{place.value}/{object_id}{_SEALED}"


def _object_id_of(name: str) -> ObjectId | None:
    if not name.endswith(_SEALED):
        return None
    try:
        return check_object_id(name.removesuffix(_SEALED))
    except InvalidIdentifierError:
        return None
