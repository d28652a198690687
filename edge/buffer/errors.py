"""What the spool refuses, split by whether the same call may succeed later."""

from __future__ import annotations

import errno

from contract.identifiers import ObjectId

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SpoolError(Exception):
    """Root of every error this room raises."""


class TransientSpoolError(SpoolError):
    """The bytes are fine: the same call may succeed once the box is in a better state."""


class PermanentSpoolError(SpoolError):
    """Trying the same call again cannot help."""


class NotEnrolledError(TransientSpoolError):
    """There is nobody to seal for yet, so nothing may be taken in."""

    def __init__(self) -> None:
        super().__init__("the box is not enrolled at central yet")


class DiskFullError(TransientSpoolError):
    """Less room than the reserve is left, or the file system refused a write for want of room.

    Attributes
    ----------
    free_bytes : what was free when it was noticed; None when the write itself failed.
    reserve_bytes : what must stay free.
    free_files : how many files more fit, where it is files that are short.
    """

    def __init__(self, *, free_bytes: int | None, reserve_bytes: int, free_files: int | None = None) -> None:
        left = "no room is left" if free_bytes is None else f"{free_bytes} bytes are free"
        if free_files is not None:
            left = f"only {free_files} files more fit, {left}"
        super().__init__(f"the disk is full: {left}, {reserve_bytes} are kept in reserve")
        self.free_bytes = free_bytes
        self.reserve_bytes = reserve_bytes
        self.free_files = free_files


class StorageFailedError(TransientSpoolError):
    """The file system failed otherwise (an I/O error, mounted read-only).

    Attributes
    ----------
    errno_name : symbolic name such as ``EIO``.
    """

    def __init__(self, error: OSError) -> None:
        self.errno_name = errno.errorcode.get(error.errno or 0, "unknown")
        super().__init__(f"the spool's file system failed: {self.errno_name}")


class SpoolClosedError(TransientSpoolError):
    """The spool is shutting down."""

    def __init__(self) -> None:
        super().__init__("the spool is closed")


class SpoolInUseError(PermanentSpoolError):
    """Another process owns this spool directory."""


class IndexUnreadableError(PermanentSpoolError):
    """`index.sqlite3` was written by a newer program, so this one must not touch it."""


class UnknownObjectError(PermanentSpoolError):
    """No such object is here.

    Attributes
    ----------
    object_id
    """

    def __init__(self, object_id: ObjectId) -> None:
        super().__init__(f"object {object_id} is not in the spool")
        self.object_id = object_id


class WrongStateError(PermanentSpoolError):
    """The object is not in the state this step starts from: somebody else moved it on.

    Attributes
    ----------
    object_id
    found : the state it is in.
    step : what was asked for.
    """

    def __init__(self, object_id: ObjectId, *, step: str, found: str) -> None:
        super().__init__(f"object {object_id} is {found}, so it cannot {step}")
        self.object_id = object_id
        self.found = found
        self.step = step


def storage_error(error: OSError, *, reserve_bytes: int) -> TransientSpoolError:
    """Translate what the file system said into this room's terms."""
    if error.errno in _NO_SPACE:
        return DiskFullError(free_bytes=None, reserve_bytes=reserve_bytes)
    return StorageFailedError(error)
