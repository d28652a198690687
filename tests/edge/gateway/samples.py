"""pydicom's own test files, found on the disk: asking pydicom for them makes it try to download more."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from pathlib import Path

from pydicom import dcmread

from contract.errors import ContractError
from contract.identifiers import check_uid


@functools.cache
def pydicom_instances() -> tuple[Path, ...]:
    """Every file that is one instance of a study: with file meta, and with all its UIDs."""
    folders: list[Path] = []
    for package in ("pydicom", "data_store"):
        spec = importlib.util.find_spec(package)
        if spec is not None:
            folders += [Path(place) for place in spec.submodule_search_locations or ()]
    return tuple(
        path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and _is_instance(path)
    )


def data_set_bytes(path: Path) -> bytes:
    """What follows the File Meta Information, as it lies in the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta = dcmread(path, stop_before_pixels=True).file_meta
    return path.read_bytes()[128 + 4 + 12 + int(meta.FileMetaInformationGroupLength) :]


def _is_instance(path: Path) -> bool:
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = dcmread(path, stop_before_pixels=True)
            for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
                check_uid(str(ds.get(keyword, "")))
    except (ContractError, ValueError, EOFError, OSError, KeyError, AttributeError, NotImplementedError):
        return False
    return "TransferSyntaxUID" in ds.file_meta and "FileMetaInformationGroupLength" in ds.file_meta
