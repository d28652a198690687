"""`services.sqlite3`: what the services beside storage must not forget, apart from the spool's index.

One file beside the spool, one connection, WAL with `synchronous=FULL`; each store (commitments, work list,
performed procedures) declares its own tables in it. Always true: when `transaction` has been left, what was done in
it survives a power cut. It is apart from the index because losing it costs reports and a cache, never an image: a
file that cannot be read is put aside and begun anew, and the box goes on receiving.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from peewee import DatabaseError, Model, SqliteDatabase

from edge.buffer.errors import IndexUnreadableError, SpoolClosedError, StorageFailedError
from edge.buffer.sqlite_errors import sqlite_error

_LOG = logging.getLogger(__name__)
_PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}
_SCHEMA_VERSION = 1


class ServiceDatabase:
    """Opened once by the program; safe from any thread.

    Stores run their queries with ``.execute(database.db)`` inside `transaction` or `reading`: models are not bound
    to a database, since a test may have several open.

    Raises
    ------
    IndexUnreadableError : a newer program made the file.
    StorageFailedError : the file cannot be opened at all.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._closed = False
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self.db = _open(path)
        except DatabaseError as error:
            if "locked" in str(error) or "unable to open" in str(error):
                raise StorageFailedError(OSError(5, str(error))) from error
            aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
            for suffix in ("-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)  # they belong to the damaged file alone
            path.rename(aside)
            _LOG.error("the services' database is damaged; begun anew", extra={"kept_as": aside.name})
            self.db = _open(path)

    def declare(self, models: Sequence[type[Model]]) -> None:
        """Make the tables of a store that are not there yet."""
        with self.transaction(), self.db.bind_ctx(models):
            self.db.create_tables(models)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and durable when left. Not nestable.

        Raises
        ------
        DiskFullError, StorageFailedError, SpoolClosedError
        """
        with self.reading(), self.db.transaction("IMMEDIATE"):
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The connection for questions; SQLite's failures come out in this room's terms."""
        with self._lock:
            if self._closed:
                raise SpoolClosedError
            try:
                yield
            except DatabaseError as error:
                raise sqlite_error(error, reserve_bytes=0) from error

    def close(self) -> None:
        """Idempotent. Whoever comes later gets `SpoolClosedError`."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self.db.close()


def _open(path: Path) -> SqliteDatabase:
    path.touch(mode=0o600, exist_ok=True)  # before SQLite does, for its mode; -wal and -shm take it over
    db = SqliteDatabase(str(path), pragmas=_PRAGMAS, thread_safe=False, check_same_thread=False)
    try:
        db.connect()
        _check_version(path, db.pragma("user_version"))
        db.pragma("user_version", _SCHEMA_VERSION)
    except BaseException:
        db.close()
        raise
    return db


def _check_version(path: Path, version: int) -> None:
    if version > _SCHEMA_VERSION:
        raise IndexUnreadableError(
            f"{path.name} has version {version}; this program knows {_SCHEMA_VERSION}: install the newer one"
        )
