"""What the DICOMDIR of a disc or folder names, and whether it is there (PS3.10 section 8.6).

Everything that lies there is imported whether it is named or not; but what is named and missing is a disc that was
copied in part, and somebody has to know.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydicom import dcmread

from central.archive.errors import NotDicomError
from central.archive.sealed_file import ObjectFile
from central.importing.sources import Candidate

MAX_BYTES: Final = 64 << 20
_FILE_ID: Final = re.compile(r"[A-Za-z0-9_]{1,8}(/[A-Za-z0-9_]{1,8}){0,7}")


def missing_files(candidate: Candidate, path: ObjectFile, size_bytes: int) -> tuple[str, ...]:
    """File IDs that the directory at `path`, a copy of `candidate`, names and that do not lie beside it.

    Raises
    ------
    NotDicomError : it is too large, or cannot be read.
    """
    if size_bytes > MAX_BYTES:
        raise NotDicomError("a DICOMDIR larger than any is")
    try:
        named = list(_named(path))
    except Exception as error:  # a parser fed by strangers
        raise NotDicomError(f"the DICOMDIR cannot be read ({type(error).__name__})") from error
    if candidate.member:
        with zipfile.ZipFile(candidate.path) as archive:
            there = {name.casefold() for name in archive.namelist()}
        folder = candidate.member.rpartition("/")[0].casefold()
        return tuple(name for name in named if f"{folder}/{name.casefold()}".lstrip("/") not in there)
    return tuple(name for name in named if not _is_there(candidate.path.parent, name))


def _named(path: ObjectFile) -> Iterator[str]:
    with path.open("rb") as file:
        directory = dcmread(file)
    for record in directory.get("DirectoryRecordSequence") or []:
        file_id = record.get("ReferencedFileID")
        if file_id:
            yield file_id if isinstance(file_id, str) else "/".join(map(str, file_id))


def _is_there(folder: Path, file_id: str) -> bool:
    """Names of discs often come down in small letters, and with the dot that ISO 9660 puts behind them."""
    if not _FILE_ID.fullmatch(file_id):
        return False
    for part in file_id.split("/"):
        wanted = {part.casefold(), f"{part.casefold()}."}
        if (folder / part).exists():
            folder = folder / part
            continue
        try:
            match = next((entry for entry in folder.iterdir() if entry.name.casefold() in wanted), None)
        except OSError:
            return False
        if match is None:
            return False
        folder = match
    return True
