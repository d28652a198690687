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


class StudyErasedError(ArchiveError):
    """Permanent until an administrator allows it again: the study was erased, and nothing of it is taken in."""

    def __init__(self, study_instance_uid: str) -> None:
        super().__init__("this study was erased at central, and nothing of it is taken in any more")
        self.study_instance_uid = study_instance_uid


class ErasureRefusedError(ArchiveError):
    """Permanent: the study cannot be erased, held or released. The sentence is for an administrator."""


class QueryError(ArchiveError):
    """Permanent: a matching key is malformed (a date, a range, a UID). The text may be shown to the caller."""


class StorageError(ArchiveError):
    """Transient: what keeps the contents does not do so just now."""


class StorageFullError(StorageError):
    """The disk is full; nothing was kept of what was being written."""


class StoreUnavailableError(StorageError):
    """The object store does not answer, or not as it should. The text says what was tried, without any secret."""


class NoSuchObjectError(ArchiveError):
    """The index knows this content and the store has it not."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"the object store has no content {sha256}")
        self.sha256 = sha256


class ObjectDamagedError(ArchiveError):
    """What the store keeps under a content's name is something else. It is not shown."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"the object store returned wrong bytes for content {sha256}")
        self.sha256 = sha256
