"""One file into the object store, in a worker process: read once, hashed, made durable; what an index needs comes back.

Always true: what is refused was never under its content's address; a worker touches no database. What a crash leaves:
files in the importer's own incoming folder, swept by its next start, or a durable file without a row, which the next
run finds again.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from central.archive.errors import NotDicomError, StorageError
from central.archive.examining import Examined, Indexable, examined
from central.archive.indexing import ObjectOrigin
from central.archive.objects import ObjectStore
from central.archive.sealing_sink import new_sink
from central.archive.settings import StorageSettings
from central.foundation import open_objects
from central.importing.media_directory import missing_files
from central.importing.sources import Candidate, opened
from central.quietness import quiet_libraries
from contract.identifiers import is_uid

INCOMING: Final = "importing"
_MEDIA_DIRECTORY: Final = "1.2.840.10008.1.3.10"
_PREFIX_BYTES: Final = 132
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Taken:
    """Durable, to be indexed."""

    candidate: Candidate
    indexable: Indexable


@dataclass(frozen=True)
class Ignored:
    """No DICOM file: nothing is lost by leaving it."""

    candidate: Candidate
    reason: str


@dataclass(frozen=True)
class Failed:
    """It should have been imported, or it could not be known whether.

    `ends_run`: the archive takes nothing now, so the other files would fare no better.
    """

    shown: str
    reason: str
    ends_run: bool = False


@dataclass(frozen=True)
class Listed:
    """The directory of a medium. `missing` are files that it names and that are not there."""

    candidate: Candidate
    missing: tuple[str, ...]


Result = Taken | Ignored | Failed | Listed


class Examiner:
    """Takes files into `objects`, encrypted at rest or not."""

    def __init__(
        self,
        objects: ObjectStore,
        max_object_bytes: int,
        imported_by: str,
        run_id: str,
        institution: str,
        *,
        encrypts: bool,
    ) -> None:
        self._objects = objects
        self._encrypts = encrypts
        self._max_object_bytes = max_object_bytes
        self._imported_by = imported_by
        self._run_id = run_id
        self._institution = institution

    def take(self, candidate: Candidate) -> Result:
        try:
            return self._taken(candidate)
        except NotDicomError as error:
            return Failed(candidate.shown, error.reason)
        except StorageError as error:
            return Failed(candidate.shown, str(error), ends_run=True)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            return Failed(candidate.shown, f"it cannot be unpacked ({type(error).__name__})")
        except OSError as error:
            return Failed(candidate.shown, f"it cannot be read: {error.strerror or type(error).__name__}")

    def _taken(self, candidate: Candidate) -> Result:
        if candidate.size_bytes > self._max_object_bytes:
            return Failed(candidate.shown, "larger than limits.max_object_bytes")
        with opened(candidate) as source, new_sink(self._objects, encrypts=self._encrypts) as sink:
            head = source.read(_PREFIX_BYTES)
            if head[128:] != b"DICM":
                return Ignored(candidate, "no DICOM file: DICM does not stand at byte 128")
            sink.write(head)
            size_bytes = len(head)
            while chunk := source.read(_CHUNK_BYTES):
                size_bytes += len(chunk)
                if size_bytes > self._max_object_bytes:
                    return Failed(candidate.shown, "larger than limits.max_object_bytes")
                sink.write(chunk)
            path = sink.readable()
            said = examined(path)
            if said.header.media_storage_sop_class_uid == _MEDIA_DIRECTORY:
                return Listed(candidate, missing_files(candidate, path, size_bytes))
            if refusal := _refusal(said):
                return Failed(candidate.shown, refusal)
            origin = ObjectOrigin(
                f"import:{self._imported_by}", self._run_id, datetime.now(UTC), self._institution
            )
            return Taken(candidate, Indexable(sink.commit(), origin, said.attributes, said.metadata))


def _refusal(said: Examined) -> str:
    """Why the archive does not take it; "": it does."""
    if not is_uid(str(said.attributes.instance["sop_class_uid"])):
        return "it names no SOP class"
    if not is_uid(said.header.transfer_syntax_uid):
        return "its transfer syntax is no UID"
    return ""


_examiner: Examiner | None = None  # of a worker process: opened once, by `begin`


def begin(
    storage: StorageSettings, max_object_bytes: int, imported_by: str, run_id: str, institution: str
) -> None:
    """Make a worker process ready."""
    global _examiner  # a process of a pool has nowhere else to keep it
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to the whole group; the importer ends us in order
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet_libraries()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold an image
    objects = open_objects(storage, INCOMING)
    _examiner = Examiner(
        objects, max_object_bytes, imported_by, run_id, institution, encrypts=storage.encrypt
    )


def examine_all(batch: list[Candidate]) -> list[Result]:
    """In a worker process that has begun."""
    assert _examiner is not None, "begin makes it"
    return [_examiner.take(candidate) for candidate in batch]


def _end_with_parent() -> None:
    """A parent that was killed does not close the pool's queue: a worker would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has one"
    parent.join()
    os._exit(1)
