"""A granted study, or some series of it, as a DICOM File-set (PS3.10 section 8): its files and the DICOMDIR over them.

Always true: the files are byte for byte what the archive holds, in the transfer syntax they came in; each of them is in
the directory; of a study that cannot be sent whole, the ZIP has no end and is refused by whoever opens it.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Final

from pydicom.uid import UID

from central.access.policy import Grant
from central.archive.reading import Reading
from central.archive.rows import InstanceRow, SeriesRow
from central.archive.sealed_file import ObjectFile
from central.media.directory import Directory
from central.media.records import (
    instance_record,
    patient_keys,
    private_record,
    series_keys,
    study_keys,
)
from central.media.zip_stream import CHUNK_BYTES, Member, zipped

DIRECTORY_NAME: Final = "DICOMDIR"
_FOLDER: Final = "DICOM"
_PATIENT, _STUDY, _SERIES, _INSTANCE = range(4)
_log = logging.getLogger(__name__)


class FileSet:
    """What is to be sent: instances of one granted study."""

    def __init__(
        self, archive: Reading, grant: Grant, series: Sequence[SeriesRow], sop_instance_uid: str | None = None
    ) -> None:
        self._archive = archive
        self._grant = grant
        self._series = series
        self._sop_instance_uid = sop_instance_uid

    def zip(self) -> Generator[bytes, None, None]:
        """The ZIP, in pieces. ArchiveError or OSError, in the middle, for an instance that cannot be read."""
        with Directory() as directory:
            yield from zipped(self._members(directory))

    def _members(self, directory: Directory) -> Iterator[Member]:
        # Of several institutions that have it, the own one says whose images these are.
        study = min(self._series, key=lambda row: self._grant.institutions.index(row.study.institution)).study
        directory.add(_PATIENT, "PATIENT", patient_keys(study))
        directory.add(_STUDY, "STUDY", study_keys(study))
        for number, series in enumerate(self._series, 1):
            directory.add(_SERIES, "SERIES", series_keys(series, number))
            yield from self._of_series(directory, series.series_instance_uid, f"SE{number:06}")
        yield Member(DIRECTORY_NAME, 0, False, directory.chunks)  # last: by now it knows all others

    def _of_series(self, directory: Directory, series_instance_uid: str, folder: str) -> Iterator[Member]:
        of_series = (self._grant, series_instance_uid, self._sop_instance_uid)
        rows = {row.sop_instance_uid: row for row in self._archive.instances_of(*of_series)}
        for number, stored in enumerate(self._archive.open_instances(*of_series), 1):
            row = rows.get(stored.sop_instance_uid)
            if row is None:  # it arrived between the two questions
                continue
            file_id = (_FOLDER, folder, f"IM{number:06}")
            path = stored.path
            _add(directory, row, number, file_id, path)
            yield Member("/".join(file_id), stored.size_bytes, _is_packed(row), partial(_chunks, path))


def _chunks(path: ObjectFile) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _add(
    directory: Directory, row: InstanceRow, number: int, file_id: tuple[str, ...], path: ObjectFile
) -> None:
    try:
        directory.add(_INSTANCE, *instance_record(row, number, file_id, path))
    except OSError:
        raise
    except Exception as error:  # a header from outside: what pydicom trips over is no reason to leave it out
        _log.info("event=private-directory-record error=%s", type(error).__name__)
        directory.add(_INSTANCE, *private_record(row, file_id))


def _is_packed(row: InstanceRow) -> bool:
    syntax = UID(row.transfer_syntax_uid)
    return syntax.is_transfer_syntax and (syntax.is_compressed or syntax.is_deflated)
