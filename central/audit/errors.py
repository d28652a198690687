"""What can go wrong with the audit record. There is one kind of trouble, and it is transient."""

from __future__ import annotations


class AuditError(Exception):
    """Root of this room's errors."""


class AuditUnavailableError(AuditError):
    """The record could not be made durable (disk full, file damaged, closed).

    Transient: whoever asked must refuse the access that was to be recorded, and may try again later.
    """
