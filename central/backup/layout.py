"""What a backup folder holds.

::

    objects/ab/<SHA-256>.dcm        every object, once, for all backups in the folder, encrypted or not as it lay
    <YYYYMMDDTHHMMSSZ>/             one backup
        central.sqlite3, audit.sqlite3   or  postgresql.dump: index and audit record
        keys.tar                    the keys' folder; nothing in it is encrypted
        objects.txt                 name and size of every object that this index names
        backup.json                 the manifest, written last

Always true: a folder without ``backup.json`` is no backup; one with it was whole when that was written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from central.archive.objects import file_sha256
from central.archive.sealed_file import sealed_size
from central.errors import StartError
from central.identity.keyfiles import write_whole

OBJECTS: Final = "objects"
MANIFEST: Final = "backup.json"
LIST: Final = "objects.txt"
KEYS: Final = "keys.tar"
_FORMAT: Final = 1
_NAME: Final = re.compile(r"\d{8}T\d{6}Z")
_LINE: Final = re.compile(r"([0-9a-f]{64}) ([0-9]{1,18})\n")


@dataclass(frozen=True)
class Manifest:
    """`files`: SHA-256 of each other file of the backup. `lacking`: contents that could not be read then."""

    central_id: str
    at_utc: str
    objects: int
    bytes: int
    lacking: int
    files: dict[str, str]
    format: int = _FORMAT


def write_manifest(backup: Path, manifest: Manifest) -> None:
    write_whole(backup / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())


def read_manifest(backup: Path) -> Manifest:
    """The manifest of a backup whose files are as they were.

    Raises
    ------
    StartError : it is not there, or one of the files is another.
    """
    try:
        manifest = Manifest(**json.loads((backup / MANIFEST).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise StartError(f"{backup} is no whole backup: {MANIFEST} cannot be read") from error
    if manifest.format != _FORMAT:
        raise StartError(f"{backup} was made by another version of central (format {manifest.format})")
    for name, sha256 in manifest.files.items():
        try:
            is_same = file_sha256(backup / name) == sha256
        except OSError as error:
            raise StartError(f"{backup / name} cannot be read: {error.strerror}") from error
        if not is_same:
            raise StartError(f"{backup / name} is damaged: its content is not what was backed up")
    return manifest


def newest(folder: Path) -> Path:
    """The newest whole backup in `folder`. StartError if there is none."""
    whole = [path.parent for path in folder.glob(f"*/{MANIFEST}") if _NAME.fullmatch(path.parent.name)]
    if not whole:
        raise StartError(f"there is no whole backup in {folder}")
    return max(whole)


def write_list(backup: Path, named: Iterable[tuple[str, int, str | None]]) -> None:
    """List what an index names: of each content SHA-256 and size, and the address of what is encrypted."""
    descriptor = os.open(backup / LIST, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        for sha256, size_bytes, address in named:
            out.write(f"{address} {sealed_size(size_bytes)}\n" if address else f"{sha256} {size_bytes}\n")
        out.flush()
        os.fsync(descriptor)


def listed_objects(backup: Path) -> Iterator[tuple[str, int]]:
    """SHA-256 and size of every content. StartError for a line that is none."""
    with (backup / LIST).open(encoding="ascii") as lines:
        for line in lines:
            found = _LINE.fullmatch(line)
            if found is None:
                raise StartError(f"{backup / LIST} has a line that is none")
            yield found[1], int(found[2])
