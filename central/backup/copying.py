"""Contents from one object store to another, each compared with its name on the way.

Always true: what lies in the target under a name has that content; what cannot be read, or is something else, is
named and does not stop the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from central.archive.errors import NoSuchObjectError, ObjectDamagedError
from central.archive.objects import ObjectStore, file_sha256

_CHUNK_BYTES: Final = 1 << 20
_PROGRESS_S: Final = 10.0
_MOST_NAMED: Final = 20
_MIB: Final = 1 << 20


@dataclass
class Copied:
    """How a copy went. `lacking` names the first of the contents that could not be had."""

    objects: int = 0
    bytes: int = 0
    were_there: int = 0
    lacking_count: int = 0
    lacking: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        said = f"{self.objects:,} objects, {self.bytes / _MIB:,.1f} MiB; {self.were_there:,} of them were there already"
        return f"{said}; {self.lacking_count:,} LACKING" if self.lacking_count else said

    def lacks(self, sha256: str, why: str) -> None:
        self.lacking_count += 1
        if len(self.lacking) < _MOST_NAMED:
            self.lacking.append(f"{sha256}: {why}")


def copy_objects(
    listed: Iterable[tuple[str, int]], source: ObjectStore, target: ObjectStore, say: Callable[[str], None]
) -> Copied:
    """Copy what `target` has not. StorageError or OSError if `target` takes no more, or `source` is away."""
    copied = Copied()
    said_s = time.monotonic()
    for sha256, size_bytes in listed:
        if _has(target, sha256, size_bytes):
            copied.were_there += 1
        elif why := _copy(source, target, sha256):
            copied.lacks(sha256, why)
            continue
        copied.objects += 1
        copied.bytes += size_bytes
        if time.monotonic() - said_s >= _PROGRESS_S:
            said_s = time.monotonic()
            say(copied.line)
    return copied


def check_objects(
    listed: Iterable[tuple[str, int]], store: ObjectStore, say: Callable[[str], None]
) -> Copied:
    """Read every content in `store` and compare it with its name."""
    found = Copied()
    said_s = time.monotonic()
    for sha256, size_bytes in listed:
        if why := _wrong(store, sha256):
            found.lacks(sha256, why)
            continue
        found.objects += 1
        found.were_there += 1
        found.bytes += size_bytes
        if time.monotonic() - said_s >= _PROGRESS_S:
            said_s = time.monotonic()
            say(found.line)
    return found


def _has(store: ObjectStore, sha256: str, size_bytes: int) -> bool:
    try:
        return store.path_of(sha256).stat().st_size == size_bytes
    except (NoSuchObjectError, ObjectDamagedError, FileNotFoundError):
        return False


def _copy(source: ObjectStore, target: ObjectStore, sha256: str) -> str:
    """Copy one; why it could not be, "" when it is there."""
    try:
        file = source.path_of(sha256).open("rb")
    except (NoSuchObjectError, FileNotFoundError):
        return "it is not there"
    except ObjectDamagedError:
        return "its content is another"
    sink = target.new_object()
    with file, sink:
        try:
            while chunk := file.read(_CHUNK_BYTES):
                sink.write(chunk)
        except OSError as error:
            return f"it cannot be read ({error.strerror})"
        if sink.sha256 != sha256:
            return "its content is another"
        sink.commit()
    return ""


def _wrong(store: ObjectStore, sha256: str) -> str:
    """What is wrong with one; "" when it is as it was."""
    try:
        return "" if file_sha256(store.path_of(sha256)) == sha256 else "its content is another"
    except (NoSuchObjectError, FileNotFoundError):
        return "it is not there"
    except ObjectDamagedError:
        return "its content is another"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
