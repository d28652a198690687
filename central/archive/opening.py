"""Where the bytes of an instance are, for whoever was granted it.

Always true: an object that is listed as damaged or missing is not given out, nor one that has not the size that its row
says; one look in so many compares all of it, and lists what it finds.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from central.archive.errors import NoSuchObjectError, ObjectDamagedError
from central.archive.faults import UNREADABLE, FaultKind, Faults
from central.archive.object_names import is_indexed
from central.archive.objects import ObjectStore
from central.archive.rows import StoredInstance
from central.archive.sealed_file import ObjectFile, SealedFile, sealed_size
from central.archive.study_keys import StudyKeys
from central.database import Database

_STORED: Final = (
    "sha256",
    "size_bytes",
    "series_instance_uid",
    "sop_class_uid",
    "sop_instance_uid",
    "transfer_syntax_uid",
)
_SAMPLED: Final = 1 / 64
_SAMPLED_BYTES: Final = 16 << 20  # somebody waits: what is larger is left to the scrub


class Opening:
    """Of the objects in one store. Safe to call from many threads."""

    def __init__(self, db: Database, objects: ObjectStore, study_keys: StudyKeys, faults: Faults) -> None:
        self._db = db
        self._objects = objects
        self._study_keys = study_keys
        self._faults = faults

    def stored(self, row: Mapping[str, Any], *, compared: bool = False) -> StoredInstance:
        """The instance of a row that `granted.in_study` found. `compared`: see `Reading.open_instance`."""
        located = partial(self._located, row, compared=compared)
        return StoredInstance(located, **{name: row[name] for name in _STORED})

    def _located(self, row: Mapping[str, Any], *, compared: bool) -> ObjectFile:
        """See `StoredInstance.path`. Its size is looked at; where `compared`, and one in so many, all of it is read."""
        name = row["address"] or row["sha256"]
        if row["kind"] in UNREADABLE:
            raise NoSuchObjectError(name) if row["kind"] == FaultKind.MISSING else ObjectDamagedError(name)
        is_sealed = row["address"] is not None
        compared = (compared and not is_sealed) or random.random() < _SAMPLED  # noqa: S311  # not a secret
        size_bytes = row["size_bytes"]
        try:
            path = self._whole(
                name,
                sealed_size(size_bytes) if is_sealed else size_bytes,
                compared=compared and size_bytes <= _SAMPLED_BYTES,
            )
        except ObjectDamagedError:
            self._faults.note(name, FaultKind.DAMAGED)
            raise
        except NoSuchObjectError:
            if is_indexed(self._db, name):  # else it was erased a moment ago
                self._faults.note(name, FaultKind.MISSING)
            raise
        if not is_sealed:
            return path
        return SealedFile(path, name, size_bytes, self._study_keys.unwrap(row).key)

    def _whole(self, name: str, size_bytes: int, *, compared: bool) -> Path:
        """What reads to the end of a file would take a cut one for the whole."""
        path = self._objects.path_of(name, compare=compared)
        try:
            found_bytes = path.stat().st_size
        except FileNotFoundError as error:  # it was removed a moment ago
            raise NoSuchObjectError(name) from error
        if found_bytes != size_bytes:
            raise ObjectDamagedError(name)
        return path
