"""The spool's index: SQLite in WAL, one connection, one small transaction a step of `edge.buffer.states`.

What is asked and written stands with the idea it belongs to, as a statement written out: peewee takes 0.3 ms to put one
together. Here is what all of them go through.

Always true: a row in a live state has a durable file (the file comes first). A new row is a copy of its file's
label and is not synced; a step that the files do not tell (acknowledged, set aside, queued again) is durable when
its method returns. Callers hold the spool's lock: the connection is one and shared. A crash leaves what SQLite
guarantees: every transaction whole or not at all; a power cut may take the last rows, and recovery makes them again.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from peewee import DatabaseError, SqliteDatabase

from contract.identifiers import ObjectId
from edge.buffer.errors import (
    IndexUnreadableError,
    StorageFailedError,
    UnknownObjectError,
    WrongStateError,
)
from edge.buffer.sqlite_errors import sqlite_error
from edge.buffer.states import Step
from edge.buffer.tables import FORMER_INDEXES, SCHEMA_VERSION, TABLES, SpoolObject

LIVE = SpoolObject.freed_at_utc.is_null()
_FIND = "SELECT * FROM objects WHERE object_id = ?"
_SYNCED, _NOT_SYNCED = 2, 1  # FULL syncs the WAL at every commit, NORMAL at checkpoints alone
_PRAGMAS = {"journal_mode": "wal", "synchronous": _NOT_SYNCED, "foreign_keys": 1, "busy_timeout": 10_000}


class SpoolIndex:
    """The database, its transactions, and the steps of the `objects` table.

    Attributes
    ----------
    is_new : not known to have had a row for every file; until `note_complete`, whatever lives that takes.

    Raises
    ------
    peewee.DatabaseError : the file is not a usable SQLite database.
    IndexUnreadableError : a newer program made it.
    """

    def __init__(self, path: Path, *, reserve_bytes: int) -> None:
        self._reserve_bytes = reserve_bytes
        self._wal_in_doubt = False
        # Made before SQLite does, for its mode; the -wal and -shm files take the mode of the database.
        path.touch(mode=0o600, exist_ok=True)
        # One connection for all threads, under the spool's lock.
        self.db = SqliteDatabase(str(path), pragmas=_PRAGMAS, thread_safe=False, check_same_thread=False)
        try:
            self._prepare()
        except BaseException:
            self.db.close()
            raise

    def _prepare(self) -> None:
        self.db.connect()
        version = self.db.pragma("user_version")
        if version > SCHEMA_VERSION:
            raise IndexUnreadableError(
                f"the spool's index has version {version}; this program knows {SCHEMA_VERSION}"
            )
        # A column more does not disturb an older program, should the box be set back to it. Before the indexes on it.
        columns = {column.name for column in self.db.get_columns("objects")}
        for name in ("damaged", "priority"):
            if columns and name not in columns:
                self.execute(f"ALTER TABLE objects ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0", ())
        for name in ("station", "department", "sealed_for"):
            if columns and name not in columns:
                self.execute(f"ALTER TABLE objects ADD COLUMN {name} TEXT", ())
        of_deliveries = {column.name for column in self.db.get_columns("deliveries")}
        if of_deliveries and "receipt" not in of_deliveries:
            self.execute("ALTER TABLE deliveries ADD COLUMN receipt TEXT", ())
        if of_deliveries and "receipt_number" not in of_deliveries:
            self.execute("ALTER TABLE deliveries ADD COLUMN receipt_number INTEGER", ())
            self.execute("UPDATE deliveries SET receipt_number = number WHERE receipt IS NOT NULL", ())
        for name in FORMER_INDEXES:
            self.execute(f"DROP INDEX IF EXISTS {name}", ())
        if columns and "receipt_number" not in columns:
            self.execute("ALTER TABLE objects ADD COLUMN receipt_number INTEGER", ())
            self.execute("UPDATE objects SET receipt_number = sequence WHERE receipt IS NOT NULL", ())
        with self.db.bind_ctx(TABLES):
            self.db.create_tables(TABLES)
        self.is_new = version == 0
        self._renew_wal()  # the last life may have ended in a failed sync

    def close(self) -> None:
        self.db.close()

    def note_complete(self) -> None:
        """It has a row for every file that was here. Inside `transaction`."""
        self.db.pragma("user_version", SCHEMA_VERSION)
        self.is_new = False

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """All or nothing; survives a power cut from here on if `durable`. Not nestable."""
        with self.translated():
            if self._wal_in_doubt:
                self._renew_wal()
            try:
                with self._synced(durable), self.db.transaction("IMMEDIATE"):
                    yield
            except DatabaseError:
                self._wal_in_doubt = True
                raise

    @contextmanager
    def _synced(self, durable: bool) -> Iterator[None]:
        if not durable:
            yield
            return
        self.db.pragma("synchronous", _SYNCED)
        try:
            yield
        finally:
            self.db.pragma("synchronous", _NOT_SYNCED)

    def _renew_wal(self) -> None:
        """Write what the WAL holds into the database, and begin a new WAL.

        A sync that failed has dropped frames of earlier, unsynced commits, which the kernel still shows: what is
        appended behind that hole would be lost with the next power cut, though its own sync succeeds.
        """
        busy, *_ = self.execute("PRAGMA wal_checkpoint(TRUNCATE)", ()).fetchone()
        if busy:
            raise StorageFailedError(OSError(errno.EBUSY, "the index's log cannot be renewed"))
        self._wal_in_doubt = False

    @contextmanager
    def translated(self) -> Iterator[None]:
        """SQLite's failures come out in this room's terms."""
        try:
            yield
        except DatabaseError as error:
            raise sqlite_error(error, reserve_bytes=self._reserve_bytes) from error

    def execute(self, statement: str, values: tuple[object, ...] | dict[str, object]) -> sqlite3.Cursor:
        """Run one written-out statement with bound values."""
        cursor: sqlite3.Cursor = self.db.execute_sql(statement, values)  # type: ignore[no-untyped-call]  # stubs
        return cursor

    def execute_many(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        """The same with each of these; past peewee, which takes several times as long over a row as SQLite."""
        try:
            self._connection().executemany(statement, rows)
        except sqlite3.Error as error:
            raise DatabaseError(str(error)) from error

    def first(self, statement: str, values: tuple[object, ...]) -> tuple[Any, ...] | None:
        """The first row of the answer; past peewee, too."""
        try:
            found: tuple[Any, ...] | None = self._connection().execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise DatabaseError(str(error)) from error
        return found

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection = self.db.connection()  # type: ignore[no-untyped-call]  # stubs
        return connection

    def step(self, object_id: ObjectId, step: Step, *, durable: bool = True, **values: Any) -> None:
        """Take one step of the table in `edge.buffer.states`, with `values` written beside the new state.

        Raises
        ------
        UnknownObjectError, WrongStateError
        """
        with self.transaction(durable=durable):
            self.step_within(object_id, step, **values)

    def step_within(self, object_id: ObjectId, step: Step, **values: Any) -> None:
        """The same inside a `transaction` of the caller's."""
        bound = (step.to, *values.values(), object_id)
        if self.execute(_step_statement(step, tuple(values)), bound).rowcount:
            return
        row = self.find(object_id)
        if row is None:
            raise UnknownObjectError(object_id)
        found = row["state"]
        if step.answered and not row["success_answered"]:
            found += ", never acknowledged to its sender,"
        raise WrongStateError(object_id, step=step.name, found=found)

    def find(self, object_id: ObjectId) -> dict[str, Any] | None:
        """The columns of `SpoolObject` by name, truth values as 0 and 1."""
        cursor = self.execute(_FIND, (object_id,))
        row = cursor.fetchone()
        return (
            None if row is None else dict(zip((column[0] for column in cursor.description), row, strict=True))
        )

    def was_freed(self, object_id: ObjectId) -> bool | None:
        """Whether its row says freed; None if there is no row."""
        question = "SELECT freed_at_utc IS NOT NULL FROM objects WHERE object_id = ?"
        found = self.execute(question, (object_id,)).fetchone()
        return None if found is None else bool(found[0])

    def last_sequence(self) -> int:
        """The newest object's place in the order; 0 if there never was one."""
        last: int | None = self.execute("SELECT MAX(sequence) FROM objects", ()).fetchone()[0]
        return last or 0


@cache
def _step_statement(step: Step, columns: tuple[str, ...]) -> str:
    """The update of one step that writes these columns besides; bound are the new state, their values, the object."""
    changes = "".join(f", {column} = ?" for column in columns)
    states = ", ".join(f"'{state}'" for state in step.from_states)
    answered = "" if step.answered is None else f" AND success_answered = {int(step.answered)}"
    return f"UPDATE objects SET state = ?{changes} WHERE object_id = ? AND state IN ({states}){answered}"  # noqa: S608  # names of our own
