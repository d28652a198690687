"""What this room refuses; each is told to the caller as a problem (RFC 9457) by the routes."""

from __future__ import annotations


class WorkflowError(Exception):
    """Root of this room's errors. The text is for the caller and quotes nothing of a data set."""


class UnusableItemError(WorkflowError):
    """Permanent: this worklist item cannot be scheduled like this."""


class WorklistFullError(WorkflowError):
    """Transient: the worklist has as many items as it may; some must go first."""


class UnusableMessageError(WorkflowError):
    """Permanent: this message about a procedure step will be refused again."""
