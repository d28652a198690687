"""Where files to import lie: folders, walked one level at a time, and ZIP files.

Always true: a link is never followed, so what is looked at lies where the person said; a folder costs memory for its
names only; a candidate's key changes when its file does.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from central.errors import StartError


@dataclass(frozen=True)
class Candidate:
    """One file that may be DICOM. `member` is its name in the ZIP file at `path`, "" where it is `path` itself."""

    path: Path
    size_bytes: int
    key: str
    member: str = ""

    @property
    def shown(self) -> str:
        return f"{self.path}!{self.member}" if self.member else str(self.path)


@dataclass(frozen=True)
class Unreadable:
    """A place that could not be looked into."""

    shown: str
    reason: str


def require_readable(sources: Sequence[Path]) -> None:
    """StartError for a source that is neither a folder nor a ZIP file."""
    for source in sources:
        if source.is_dir():
            continue
        if not source.exists():
            raise StartError(f"{source} is not there")
        if not zipfile.is_zipfile(source):
            raise StartError(f"{source} is neither a folder nor a ZIP file")


def candidates(sources: Sequence[Path]) -> Iterator[Candidate | Unreadable]:
    """Every file below the folders and in the ZIP files, in no certain order."""
    for source in sources:
        if source.is_dir():
            yield from _in_folder(source.resolve())
        else:
            yield from _in_zip(source.resolve())


@contextmanager
def opened(candidate: Candidate) -> Iterator[BinaryIO]:
    """Its bytes. OSError, BadZipFile, RuntimeError (encrypted) or NotImplementedError (coding) if it cannot be read."""
    if not candidate.member:
        with candidate.path.open("rb") as file:
            yield file
        return
    with _archive(candidate.path).open(candidate.member) as member:
        yield member  # type: ignore[misc]  # it reads as a binary file does


@functools.lru_cache(maxsize=1)
def _archive(path: Path) -> zipfile.ZipFile:
    """The ZIP file that was read last: opening one reads its whole list."""
    return zipfile.ZipFile(path)


def _in_folder(root: Path) -> Iterator[Candidate | Unreadable]:
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        yield _of_entry(entry)
        except OSError as error:
            yield Unreadable(str(folder), f"the folder cannot be read: {error.strerror}")


def _of_entry(entry: os.DirEntry[str]) -> Candidate | Unreadable:
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError as error:
        return Unreadable(entry.path, f"it cannot be looked at: {error.strerror}")
    if not stat.S_ISREG(found.st_mode):
        return Unreadable(entry.path, "a link or a device: it is not followed")
    key = _key(entry.path, "", found.st_size, found.st_mtime_ns)
    return Candidate(Path(entry.path), found.st_size, key)


def _in_zip(path: Path) -> Iterator[Candidate | Unreadable]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        yield Unreadable(str(path), f"not a whole ZIP file ({type(error).__name__})")
        return
    for member in members:
        if not member.is_dir():
            key = _key(str(path), member.filename, member.file_size, member.CRC)
            yield Candidate(path, member.file_size, key, member.filename)


def _key(path: str, member: str, size_bytes: int, version: int) -> str:
    said = f"{path}\0{member}\0{size_bytes}\0{version}"
    return hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()
