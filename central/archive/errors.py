"""What can go wrong in the archive, split by whether trying again can help."""

from __future__ import annotations


class ArchiveError(Exception):
    """Root of this room's errors."""


class NotDicomError(ArchiveError):
    """Permanent: the bytes are not a DICOM Part 10 file that names its SOP instance.

    Attributes
    ----------
    reason : what is wrong, without any text from the data set.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"not a DICOM file that can be archived: {reason}")
        self.reason = reason


class NoSuchInstanceError(ArchiveError):
    """Permanent: nothing is archived under these UIDs in the study the grant is for."""


class QueryError(ArchiveError):
    """Permanent: a matching key is malformed (a date, a range, a UID). The text may be shown to the caller."""


class StorageFullError(ArchiveError):
    """Transient: the disk is full; nothing was kept of what was being written."""
