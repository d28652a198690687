"""A DICOMDIR while it is being written (PS3.3 Annex F, PS3.10 section 8.6): records in order, linked by their offsets.

Records come depth first: a patient, a study of it, a series of that, its instances, the next series. What a record
points at is known only later, so its offsets are filled in then. The file grows in memory up to a bound and from there
on in a temporary file without a name, so a study of many instances costs no more than a small one.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import Final

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from contract.part10 import file_meta

MAX_MEMORY_BYTES: Final = 4 << 20
_CHUNK_BYTES: Final = 1 << 20
_IN_USE: Final = 0xFFFF
# Where the offsets lie in an item: behind its head of 8 bytes come (0004,1400) UL, (0004,1410) US, (0004,1420) UL.
_NEXT_AT: Final = 8 + 8
_LOWER_AT: Final = 8 + 12 + 10 + 8


class Directory:
    """One DICOMDIR. Use as a context manager: the temporary file ends with it."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(MAX_MEMORY_BYTES)  # noqa: SIM115  # closed by __exit__
        self._newest: list[int] = []  # offset of the newest record at each depth
        write = self._file.write
        write(file_meta(MediaStorageDirectoryStorage, f"2.25.{uuid.uuid4().int}", ExplicitVRLittleEndian))
        write(struct.pack("<HH2sH", 0x0004, 0x1130, b"CS", 0))  # File-set ID
        self._first_root_at = self._file.tell() + 8
        write(struct.pack("<HH2sHI", 0x0004, 0x1200, b"UL", 4, 0))
        self._last_root_at = self._file.tell() + 8
        write(struct.pack("<HH2sHI", 0x0004, 0x1202, b"UL", 4, 0))
        write(struct.pack("<HH2sHH", 0x0004, 0x1212, b"US", 2, 0))  # File-set Consistency Flag
        write(struct.pack("<HH2sHI", 0x0004, 0x1220, b"SQ", 0, 0))  # Directory Record Sequence
        self._records_at = self._file.tell()

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, depth: int, record_type: str, keys: Dataset) -> None:
        """Add a record below the newest one of the depth above; depth 0 is the root.

        Parameters
        ----------
        keys : everything behind Directory Record Type (0004,1430). Raises whatever pydicom finds wrong with it, and
            the directory is then as it was.
        """
        record = Dataset()
        record.OffsetOfTheNextDirectoryRecord = 0
        record.RecordInUseFlag = _IN_USE
        record.OffsetOfReferencedLowerLevelDirectoryEntity = 0
        record.DirectoryRecordType = record_type
        record.update(keys)
        encoded = DicomBytesIO()
        encoded.is_little_endian, encoded.is_implicit_VR = True, False
        write_dataset(encoded, record)
        content = encoded.getvalue()
        offset = self._file.tell()
        self._file.write(struct.pack("<HHI", 0xFFFE, 0xE000, len(content)))
        self._file.write(content)
        if depth < len(self._newest):
            self._patch(self._newest[depth] + _NEXT_AT, offset)
        elif depth:
            self._patch(self._newest[depth - 1] + _LOWER_AT, offset)
        else:
            self._patch(self._first_root_at, offset)
        self._newest[depth:] = [offset]

    def chunks(self) -> Iterator[bytes]:
        """The whole file; nothing is added any more."""
        end = self._file.tell()
        self._patch(self._records_at - 4, end - self._records_at)
        if self._newest:
            self._patch(self._last_root_at, self._newest[0])
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK_BYTES):
            yield chunk

    def _patch(self, at: int, value: int) -> None:
        self._file.seek(at)
        self._file.write(struct.pack("<I", value))
        self._file.seek(0, 2)
