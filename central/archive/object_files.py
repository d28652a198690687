"""Contents in a folder of this machine, and how one gets there with one sync of its own.

    objects/ab/<SHA-256>.dcm      a content
    objects/ab/cd/<SHA-256>.dcm   one that an older version kept
    objects/incoming/<random>     is being written, or a name kept ready for one (empty)

Always true: a file under its SHA-256 is whole, for its bytes were durable before it got that name. Its name is durable
when `commit` returns; or, in a store that `relies_on_sweep`, one of two is: the name in ``incoming`` was, before the
first byte, and a rename leaves a crash the one or the other. So nothing waits for the rename: what the index names and
a crash left in ``incoming``, `ObjectFiles.sweep` puts into its place.

What a crash leaves: files in ``incoming``, for `sweep` (what writes beside the server has a folder of its own for
that, and waits for its renames); or a whole file without a row in the index, which the resend finds again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from central.archive.errors import NoSuchObjectError, ObjectDamagedError
from central.archive.objects import (
    INCOMING,
    FileSink,
    KeptObject,
    StoredObject,
    file_sha256,
    fsync_folder,
    is_sha256,
)
from contract.identifiers import check_sha256

_PIECE_BYTES: Final = 1 << 20
_FOLDERS: Final = [f"{number:02x}" for number in range(256)]
_NAMES_AT_ONCE: Final = 64
_FEW_NAMES: Final = 32  # so many left: more are made, while objects take these
_log = logging.getLogger(__name__)


class ObjectFiles:
    """The folder ``objects``. Safe to call from many threads.

    Parameters
    ----------
    incoming : name of the folder for what is being written.
    relies_on_sweep : `sweep` is given an index before anybody reads after a crash.
    """

    def __init__(self, root: Path, incoming: str = INCOMING, *, relies_on_sweep: bool = False) -> None:
        self._root = root
        self._incoming = root / incoming
        self._names: _NamesAhead | None = _NamesAhead(self._incoming) if relies_on_sweep else None

    @classmethod
    def open(cls, root: Path, incoming: str = INCOMING, *, relies_on_sweep: bool = False) -> ObjectFiles:
        """Make the folders if needed, all of them durable."""
        files = cls(root, incoming, relies_on_sweep=relies_on_sweep)
        root.parent.mkdir(parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
        present = {entry.name for entry in os.scandir(root)}
        for name in {incoming, *_FOLDERS} - present:
            (root / name).mkdir(mode=0o700, exist_ok=True)
        fsync_folder(root)
        fsync_folder(root.parent)
        return files

    def new_object(self) -> FileSink:
        if self._names is None:
            return FileSink(self._incoming / secrets.token_hex(16), self._keep, keeps_here=True)
        return FileSink(self._names.take(), self._keep, is_made=True, keeps_here=True)

    def path_of(self, sha256: str, *, compare: bool = False) -> Path:
        path = self._found(sha256)
        if compare and file_sha256(path) != sha256:
            raise ObjectDamagedError(sha256)
        return path

    def remove(self, sha256: str) -> None:
        for place in self._places(sha256):
            place.unlink(missing_ok=True)

    def sweep(self, is_indexed: Callable[[str], bool]) -> None:
        changed = set()
        for left in list(self._incoming.iterdir()):
            try:
                sha256 = file_sha256(left) if left.stat().st_size else ""
            except OSError as error:  # perhaps the only copy of what somebody was told is here
                _log.error("event=incoming-unreadable file=%s error=%s", left.name, error.strerror)
                continue
            if sha256 and is_indexed(sha256):
                place = self._place_for(sha256)
                left.rename(place)
                changed.add(place.parent)
                _log.info("event=object-placed sha256=%s", sha256)
            else:
                left.unlink()
        for folder in (*changed, self._incoming):
            fsync_folder(folder)

    def kept(self, after: str = "") -> Iterator[KeptObject]:
        for first in (self._root / name for name in _FOLDERS if name >= after[:2]):
            found = [path for pattern in ("*.dcm", "[0-9a-f][0-9a-f]/*.dcm") for path in first.glob(pattern)]
            for path in sorted(found, key=lambda path: path.name):
                name = path.stem
                if name > after and is_sha256(name):
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        yield KeptObject(name, path.stat().st_mtime)

    def read_through(self, sha256: str) -> Iterator[bytes | memoryview]:
        try:
            with self._found(sha256).open("rb", buffering=0) as file:
                # Past what memory still holds: it is the disk that is asked.
                with contextlib.suppress(OSError):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while piece := file.read(_PIECE_BYTES):
                    yield piece
        except FileNotFoundError as error:
            raise NoSuchObjectError(sha256) from error

    def _places(self, sha256: str) -> tuple[Path, Path]:
        """Where a new content is put, and where an older version put it."""
        check_sha256(sha256)
        folder, name = self._root / sha256[:2], f"{sha256}.dcm"
        return folder / name, folder / sha256[2:4] / name

    def _place_for(self, sha256: str) -> Path:
        """Where a content belongs: in the place that it has, so that it never has two."""
        place, former = self._places(sha256)
        return former if former.exists() else place

    def _found(self, sha256: str) -> Path:
        for place in self._places(sha256):
            if place.exists():
                return place
        raise NoSuchObjectError(sha256)

    def _keep(self, file: BinaryIO, path: Path, sha256: str, size_bytes: int) -> StoredObject:
        """Give a file that is durable its name."""
        place = self._place_for(sha256)
        file.close()
        # Over an existing file too: it has the same content, and what is durable of this one holds for both, whatever
        # became of the writer that was there first.
        path.rename(place)
        if self._names is None:
            fsync_folder(place.parent)
        return StoredObject(sha256, size_bytes, place)


class _NamesAhead:
    """Names of empty files in one folder, made and synced many at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._names: list[Path] = []
        self._is_making = False

    def take(self) -> Path:
        """A durable name of an empty file. OSError if none can be made."""
        with self._lock:
            if not self._names:
                self._names = self._make()
            taken = self._names.pop()
            if len(self._names) <= _FEW_NAMES and not self._is_making:
                self._is_making = True
                threading.Thread(target=self._make_more, name="object-names", daemon=True).start()
            return taken

    def _make_more(self) -> None:
        """Beside what is being stored: to create a file takes as long as to write a small one."""
        made: list[Path] = []
        with contextlib.suppress(OSError):  # whoever finds no name left meets the same failure, and says it
            made = self._make()
        with self._lock:
            self._names += made
            self._is_making = False

    def _make(self) -> list[Path]:
        names = [self._folder / secrets.token_hex(16) for _ in range(_NAMES_AT_ONCE)]
        try:
            for name in names:
                name.touch(mode=0o600, exist_ok=False)
            fsync_folder(self._folder)
        except OSError:
            for name in names:
                name.unlink(missing_ok=True)
            raise
        return names
