"""What ends an import before its end. Each is transient: what is done stays done, and the same command goes on."""

from __future__ import annotations


class ImportingError(Exception):
    """Root of this room's errors."""


class NoRoomError(ImportingError):
    """The disk is as full as storage.reserve_bytes lets it become."""


class WorkerLostError(ImportingError):
    """A worker process ended: killed, or out of memory."""


class SourceAwayError(ImportingError):
    """The other archive cannot be reached, and was waited for long enough. The text says how it could not."""


class StoppedError(ImportingError):
    """Somebody stopped the import."""
