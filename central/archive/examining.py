"""What an object says of itself: all that the index will hold of it, read from the file alone.

Nothing here knows a database: it may run on many threads and in other processes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

from central.archive.attributes import Attributes, attributes_of, text_of
from central.archive.dicom_json import dicom_json
from central.archive.header import Header, read_header
from central.archive.indexing import ObjectOrigin
from central.archive.objects import StoredObject
from central.archive.sealed_file import ObjectFile

_ZLIB_LEVEL: Final = 6


@dataclass(frozen=True)
class Examined:
    """What a Part 10 file says of itself. `metadata` is its DICOM JSON, compressed."""

    header: Header
    attributes: Attributes
    metadata: bytes

    @property
    def is_filed_as_sent(self) -> bool:
        """Whether the archive knows it under the UIDs that it has, and had to make none up."""
        return all(text_of(self.header, tag) == uid for tag, uid in self.attributes.filed_under.items())


@dataclass(frozen=True)
class Indexable:
    """A durable file and what its row will say. `metadata` is its DICOM JSON, compressed."""

    stored: StoredObject
    origin: ObjectOrigin
    attributes: Attributes
    metadata: bytes


def examined(path: ObjectFile) -> Examined:
    """What the Part 10 file at `path` says of itself. NotDicomError if nothing names its SOP instance."""
    header = read_header(path)
    attributes = attributes_of(header)
    return Examined(
        header, attributes, zlib.compress(dicom_json(header, attributes.filed_under), _ZLIB_LEVEL)
    )
