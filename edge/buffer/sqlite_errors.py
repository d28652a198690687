"""What SQLite says when it fails, in this room's terms."""

from __future__ import annotations

import sqlite3

from peewee import DatabaseError

from edge.buffer.errors import DiskFullError, StorageFailedError, TransientSpoolError


def sqlite_error(error: DatabaseError, *, reserve_bytes: int) -> TransientSpoolError:
    """A full disk is told from every other failure."""
    if sqlite3.SQLITE_FULL in _codes(error):
        return DiskFullError(free_bytes=None, reserve_bytes=reserve_bytes)
    return StorageFailedError(OSError(5, str(error)))


def is_damage(error: DatabaseError) -> bool:
    """Whether the file itself is wrong, not the disk under it at the moment."""
    return bool({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} & _codes(error))


def _codes(error: BaseException) -> set[int]:
    """Result codes of the sqlite3 errors behind peewee's, extended bits cut off.

    All of them: when the disk is full SQLite rolls back by itself, and peewee's own rollback then fails on top.
    """
    codes: set[int] = set()
    cause: BaseException | None = error
    while cause is not None:
        code = getattr(cause, "sqlite_errorcode", None)
        if code is not None:
            codes.add(int(code) & 0xFF)
        cause = cause.__cause__ or cause.__context__
    return codes
