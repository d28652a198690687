"""Sealed objects on their way in: ``uploads/<gateway id>/<object id>-<length>.part``.

Always true: the bytes in the file are the offset; there is no row to keep in step with it, and the announced
length stands in the file's name. What a crash leaves: a shorter file, from whose end the box goes on.
A file nobody touched for a week is swept, at start and once an hour as long as uploads begin; so is a gateway's
folder that has become empty. Before that the one that was left for longest makes way, where a gateway has begun too
many: a box does not ask again for a pack that it had begun before a restart, or over which central failed.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final

from central.ingest.errors import ObjectRefusedError, TryAgainError
from contract.identifiers import ObjectId, check_gateway_id, check_object_id
from contract.transfer import Problem

KEPT_S: Final = 7 * 86_400
_SWEEP_EVERY_S: Final = 3600.0
_IDLE_S: Final = 180.0
"""Without a byte for so long no request is at work on it: one that is silent for a minute is given up."""
_NAME: Final = re.compile(r"(?P<object_id>[0-9a-f]{32})-(?P<length>[0-9]{1,19})\.part")


@dataclass(frozen=True)
class UploadLimits:
    """`max_object_bytes` bounds a sealed object and its content; `reserve_bytes` of the disk stay free."""

    max_object_bytes: int
    max_uploads_per_gateway: int
    reserve_bytes: int
    spend: Callable[[str, int], None] = lambda _gateway_id, _size_bytes: None
    """Lets an upload of so many bytes of a gateway begin, or raises TryAgainError."""


@dataclass(frozen=True)
class PartialUpload:
    """`reserve_bytes` of the disk stay free while it grows."""

    path: Path
    length_bytes: int
    reserve_bytes: int = 0

    @property
    def offset_bytes(self) -> int:
        """How many bytes are here."""
        return self.path.stat().st_size

    @property
    def is_whole(self) -> bool:
        return self.offset_bytes == self.length_bytes

    @property
    def expires_at_s(self) -> float:
        """When it is swept if nothing more comes, in seconds since 1970."""
        return self.path.stat().st_mtime + KEPT_S

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)

    def cut_back(self, offset_bytes: int) -> None:
        """Let go of everything from byte `offset_bytes` on."""
        with self.path.open("r+b") as file:
            file.truncate(offset_bytes)
            os.fsync(file.fileno())


class Appender:
    """Adds bytes to an upload. Leaving the context makes them durable, also after an error.

    A write that failed may have taken part of its bytes, so no other follows it.
    """

    def __init__(self, upload: PartialUpload) -> None:
        self._reserve_bytes = upload.reserve_bytes
        self._file = upload.path.open("ab", buffering=0)
        self._failure: OSError | None = None

    def write(self, data: bytes | bytearray) -> None:
        """Append all of `data`; TryAgainError (STORAGE) when the disk is full, or was at an earlier write."""
        left = memoryview(data)
        try:
            if left:
                self._check_room()
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._failure = error
            raise storage_error(error) from error

    def _check_room(self) -> None:
        """Asked again and again: what several uploads were let begin with, they share."""
        if self._failure is not None:
            raise self._failure
        room = os.fstatvfs(self._file.fileno())
        if room.f_bavail * room.f_frsize < self._reserve_bytes:
            raise OSError(errno.ENOSPC, "the reserve is reached")

    def __enter__(self) -> Appender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as failed:
            raise storage_error(failed) from failed
        finally:
            self._file.close()


class PartialUploads:
    """The folder ``uploads``. One upload is changed by one caller at a time (see `central.ingest.turns`)."""

    def __init__(self, root: Path, limits: UploadLimits) -> None:
        self._root = root
        self._limits = limits
        self._swept_at_s = time.monotonic()

    @classmethod
    def open(cls, root: Path, limits: UploadLimits) -> PartialUploads:
        """Make the folder if needed and sweep what was given up."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        partials = cls(root, limits)
        partials.sweep()
        return partials

    def sweep(self) -> None:
        """Remove what was given up: files without a byte more for a week, then folders without a file."""
        self._swept_at_s = time.monotonic()
        too_old = time.time() - KEPT_S
        for path in self._root.glob("*/*.part"):
            with suppress(FileNotFoundError):  # finished at this moment
                if path.stat().st_mtime < too_old:
                    path.unlink()
        for folder in self._root.iterdir():
            with suppress(OSError):  # not empty, as most
                folder.rmdir()

    def find(self, gateway_id: str, object_id: ObjectId) -> PartialUpload | None:
        """The upload that has begun under this id, if any."""
        return next((upload for known, upload in self._of(gateway_id) if known == object_id), None)

    def create(self, gateway_id: str, object_id: ObjectId, length_bytes: int) -> PartialUpload:
        """Begin an upload of `length_bytes`, or go on with the one of the same length.

        Raises
        ------
        ObjectRefusedError : it is larger than allowed.
        TryAgainError : the disk's reserve is reached, or the gateway has too many uploads under way or had its share.
        """
        check_object_id(object_id)
        if length_bytes > self._limits.max_object_bytes:
            raise ObjectRefusedError(
                Problem.TOO_LARGE, f"an object may have {self._limits.max_object_bytes} bytes"
            )
        if time.monotonic() - self._swept_at_s >= _SWEEP_EVERY_S:
            self.sweep()
        begun = dict(self._of(gateway_id))
        known = begun.pop(object_id, None)
        if known is not None:
            if known.length_bytes == length_bytes:
                return known
            known.drop()
        if len(begun) >= self._limits.max_uploads_per_gateway:
            _drop_idle(begun.values())
        # Twice: the sealed object and, for a moment, its content are on the disk together.
        if shutil.disk_usage(self._root).free < self._limits.reserve_bytes + 2 * length_bytes:
            raise TryAgainError(Problem.STORAGE, "central's disk is nearly full")
        self._limits.spend(gateway_id, length_bytes)
        folder = self._root / check_gateway_id(gateway_id)
        path = folder / f"{object_id}-{length_bytes}.part"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            path.touch(mode=0o600)
        except OSError as error:
            raise storage_error(error) from error
        return PartialUpload(path, length_bytes, self._limits.reserve_bytes)

    def _of(self, gateway_id: str) -> list[tuple[str, PartialUpload]]:
        reserve_bytes = self._limits.reserve_bytes
        return [
            (match["object_id"], PartialUpload(path, int(match["length"]), reserve_bytes))
            for match, path in _named(self._root, gateway_id)
        ]


def begun_bytes(root: Path, gateway_id: str, since: datetime) -> int:
    """How many bytes a gateway has announced of the uploads below `root` that are not ended and grew since then."""
    begun = 0
    for match, path in _named(root, gateway_id):
        with suppress(FileNotFoundError):  # ended at this moment
            if path.stat().st_mtime >= since.timestamp():
                begun += int(match["length"])
    return begun


def _named(root: Path, gateway_id: str) -> list[tuple[re.Match[str], Path]]:
    folder = root / check_gateway_id(gateway_id)
    if not folder.is_dir():
        return []
    return [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]


def _drop_idle(begun: Iterable[PartialUpload]) -> None:
    """Let go of the one that got no byte for longest; TryAgainError where all of them may be on their way."""
    with suppress(FileNotFoundError):  # one was finished at this moment: there is room
        oldest = min(begun, key=lambda upload: upload.expires_at_s)
        if oldest.expires_at_s - KEPT_S > time.time() - _IDLE_S:
            raise TryAgainError(Problem.UNAVAILABLE, "this gateway has too many unfinished uploads")
        oldest.drop()


def storage_error(error: OSError) -> Exception:
    """A full disk as the transient problem it is; anything else as it came."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return TryAgainError(Problem.STORAGE, "central's disk is full")
    return error
