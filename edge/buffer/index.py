"""The spool's index: SQLite in WAL, one connection, one small transaction a step.

Always true: a row in a live state has a durable file (the file comes first). A new row is a copy of its file's
label and is not synced; a step that the files do not tell (acknowledged, set aside, queued again) is durable when
its method returns. Callers hold the spool's lock: the connection is one and shared. A crash leaves what SQLite
guarantees: every transaction whole or not at all; a power cut may take the last rows, and recovery makes them again.
"""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from peewee import DatabaseError, SqliteDatabase

from contract.identifiers import ObjectId
from contract.priority import Priority
from edge.buffer.errors import (
    IndexUnreadableError,
    StorageFailedError,
    UnknownObjectError,
    WrongStateError,
)
from edge.buffer.label import Label
from edge.buffer.records import SealedRow
from edge.buffer.sqlite_errors import sqlite_error
from edge.buffer.states import (
    CONDEMN,
    EVICT,
    FREE,
    FREED_IF_LOST,
    REPLACE,
    SAFE_HERE,
    State,
    Step,
)
from edge.buffer.tables import (
    FORMER_INDEXES,
    SCHEMA_VERSION,
    TABLES,
    SpoolObject,
    utc_from_text,
    utc_text,
)

LIVE = SpoolObject.freed_at_utc.is_null()
# The statements of every reception and every receipt, written out: peewee takes 0.3 ms to put one together. The
# columns are those of `SpoolObject`.
_INSERT = """
    INSERT INTO objects (
        object_id, state, success_answered, sop_class_uid, sop_instance_uid, study_instance_uid,
        series_instance_uid, modality, transfer_syntax_uid, calling_ae_title, called_ae_title, peer_address,
        sha256, size_bytes, stored_bytes, received_at_utc, due_s, attempts, last_error, damaged,
        station, department, sealed_for, priority
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
        COALESCE((SELECT priority FROM study_priorities WHERE study_instance_uid = ?), ?))
"""
_FIND_DUPLICATE = """
    SELECT object_id FROM objects
    WHERE freed_at_utc IS NULL AND sop_instance_uid = ? AND sha256 = ? AND state IN (?, ?, ?, ?, ?) LIMIT 1
"""
_FIND_CONTENTS = """
    SELECT o.sop_instance_uid, o.sha256
    FROM json_each(?) AS j CROSS JOIN objects AS o INDEXED BY live_by_instance ON o.sop_instance_uid = j.value
    WHERE o.freed_at_utc IS NULL AND o.state IN (?, ?, ?, ?, ?)
"""
# The state stands in the text because SQLite must see that the partial index `retained_by_sequence` covers it.
_FIND_RETAINED = """
    SELECT object_id, stored_bytes, received_at_utc FROM objects INDEXED BY retained_by_sequence
    WHERE state = 'retained' ORDER BY sequence LIMIT ?
"""
_FIND_DAMAGED_TWINS = """
    SELECT twin.object_id FROM objects AS twin JOIN objects AS one USING (sop_instance_uid, sha256)
    WHERE one.object_id = ? AND twin.freed_at_utc IS NULL AND twin.damaged
"""
_FIND_LOST_TWINS = """
    SELECT twin.object_id FROM objects AS one, objects AS twin INDEXED BY lost_by_instance
    WHERE one.object_id = ? AND twin.state = 'lost' AND twin.sop_instance_uid = one.sop_instance_uid
"""
# What was checked counts, too: receipts go with their age, the newest among them on a box that was idle for long.
_LAST_RECEIPT_NUMBER = """
    SELECT MAX(number) FROM (
        SELECT MAX(receipt_number) AS number FROM objects INDEXED BY receipts_by_number
        WHERE receipt_number IS NOT NULL
        UNION ALL SELECT checked_through FROM receipt_check
    )
"""
_FIND_SEALED = """
    SELECT sequence, object_id, state, stored_bytes, sha256, sop_instance_uid, calling_ae_title
    FROM objects INDEXED BY live_by_sequence
    WHERE freed_at_utc IS NULL AND NOT damaged AND sequence > ? ORDER BY sequence LIMIT ?
"""
_OWE = """
    INSERT OR IGNORE INTO deliveries (object_id, destination, state, due_s, attempts, stored_bytes)
    VALUES (?, ?, 'waiting', 0, 0, ?)
"""
_FIND = "SELECT * FROM objects WHERE object_id = ?"
_EARLIEST = """
    SELECT MIN(due_s) FROM objects INDEXED BY live_by_state WHERE freed_at_utc IS NULL AND state IN ('ready', 'sending')
"""
OPENED_BY = "EXISTS (SELECT 1 FROM json_each({}) AS k WHERE instr(sealed_for, k.value))"
"""A condition: the object was sealed for one of the keys of a JSON list."""
_EARLIEST_OPENED_BY = f"""
    SELECT MIN(due_s) FROM objects INDEXED BY live_by_state
    WHERE freed_at_utc IS NULL AND state IN ('ready', 'sending') AND {OPENED_BY.format("?")}
"""  # noqa: S608  # put together from the constant above alone
_IS_OWED = "SELECT 1 FROM deliveries WHERE object_id = ? AND state IN ('waiting', 'set-aside') LIMIT 1"
_SET_DELIVERIES_ASIDE = """
    UPDATE deliveries SET state = 'set-aside', last_error = ? WHERE object_id = ? AND state = 'waiting'
"""
_FORGET_OPEN = "DELETE FROM deliveries WHERE object_id = ? AND state IN ('waiting', 'set-aside')"
_FORGET_ENDED = """
    DELETE FROM deliveries WHERE state IN ('delivered', 'given-up', 'lost')
        AND object_id IN (SELECT object_id FROM objects WHERE freed_at_utc < ?)
"""
# At start-up: what a crash left between two steps.
_OWED_WITH_NOTHING_OPEN = """
    UPDATE objects SET state = 'acknowledged' WHERE freed_at_utc IS NULL AND state = 'owed' AND NOT EXISTS (
        SELECT 1 FROM deliveries AS d WHERE d.object_id = objects.object_id AND d.state IN ('waiting', 'set-aside'))
"""
_ACKNOWLEDGED_WITH_SOME_OPEN = """
    UPDATE objects SET state = 'owed' WHERE freed_at_utc IS NULL AND state = 'acknowledged' AND EXISTS (
        SELECT 1 FROM deliveries AS d WHERE d.object_id = objects.object_id AND d.state IN ('waiting', 'set-aside'))
"""
_SYNCED, _NOT_SYNCED = 2, 1  # FULL syncs the WAL at every commit, NORMAL at checkpoints alone
_PRAGMAS = {"journal_mode": "wal", "synchronous": _NOT_SYNCED, "foreign_keys": 1, "busy_timeout": 10_000}


Route = Callable[[Label], Collection[str]]
"""To which destinations beside central an identified instance goes, by name."""


def to_central_alone(_: Label) -> Collection[str]:
    return ()


Rank = Callable[[Label], Priority]
"""How urgent an identified instance is, unless a person has decided about its study."""


def as_routine(_: Label) -> Priority:
    return Priority.ROUTINE


class Content(NamedTuple):
    """What makes two objects the same."""

    sop_instance_uid: str
    sha256: str


class NewRow(NamedTuple):
    """A file that gets a row: in its label's state or another.

    Attributes
    ----------
    success_answered : its sender was told that it is safe, or may have been.
    damaged : its bytes are not what the label says.
    """

    label: Label
    success_answered: bool = True
    state: State | None = None
    damaged: bool = False


class SpoolIndex:
    """Questions and steps over the `objects` table, and the rows of `deliveries` that go with its own.

    Parameters
    ----------
    route : what a new row is owed to.
    rank : its priority.

    Attributes
    ----------
    is_new : not known to have had a row for every file; until `note_complete`, whatever lives that takes.

    Raises
    ------
    peewee.DatabaseError : the file is not a usable SQLite database.
    IndexUnreadableError : a newer program made it.
    """

    def __init__(
        self,
        path: Path,
        *,
        reserve_bytes: int,
        route: Route = to_central_alone,
        rank: Rank = as_routine,
    ) -> None:
        self._route = route
        self._rank = rank
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

    def insert(self, label: Label, *, success_answered: bool) -> None:
        """The row of a file that is durable already. Inside `transaction`."""
        self.insert_rows([NewRow(label, success_answered)])

    def insert_answered(self, labels: Iterable[Label]) -> None:
        """The rows of instances whose senders were told success, in this order. Inside `transaction`."""
        self.insert_rows([NewRow(label) for label in labels])

    def insert_rows(self, rows: Sequence[NewRow]) -> None:
        """The same of several that came by different ways."""
        self._run_many(_INSERT, [self._row(row) for row in rows])
        self._owe([row.label for row in rows if row.success_answered])

    def _row(self, row: NewRow) -> tuple[object, ...]:
        label, identity = row.label, row.label.identity
        return (
            *_row(row),
            (identity and identity.station_name) or None,
            (identity and identity.department) or None,
            " ".join(label.sealed_for[1:]) or None,
            identity and identity.study_instance_uid,
            int(self._rank(label)) if identity else 0,
        )

    def _owe(self, labels: Iterable[Label]) -> None:
        rows = [
            (label.object_id, destination, label.stored_bytes)
            for label in labels
            if label.identity is not None
            for destination in self._route(label)
        ]
        if rows:
            self._run_many(_OWE, rows)

    def is_owed(self, object_id: ObjectId) -> bool:
        """Whether a destination beside central still waits for it, or has set it aside."""
        return self.execute(_IS_OWED, (object_id,)).fetchone() is not None

    def mend_owed(self) -> None:
        """Bring `owed` and `acknowledged` into agreement with the deliveries. Inside `transaction`."""
        self.execute(_OWED_WITH_NOTHING_OPEN, ())
        self.execute(_ACKNOWLEDGED_WITH_SOME_OPEN, ())

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection = self.db.connection()  # type: ignore[no-untyped-call]  # stubs
        return connection

    def _run_many(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Past peewee, which takes several times as long over a row as SQLite."""
        try:
            self._connection().executemany(statement, rows)
        except sqlite3.Error as error:
            raise DatabaseError(str(error)) from error

    def duplicate_of(self, sop_instance_uid: str, sha256: str) -> ObjectId | None:
        """An object that holds these very bytes and is on its way to central already."""
        try:
            found = (
                self._connection().execute(_FIND_DUPLICATE, (sop_instance_uid, sha256, *SAFE_HERE)).fetchone()
            )
        except sqlite3.Error as error:
            raise DatabaseError(str(error)) from error
        return None if found is None else ObjectId(found[0])

    def contents_of(self, sop_instance_uids: Collection[str]) -> set[Content]:
        """Those of `duplicate_of`, for many instances with one question."""
        return {
            Content(*found)
            for found in self.execute(_FIND_CONTENTS, (json.dumps(list(sop_instance_uids)), *SAFE_HERE))
        }

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

    def live_states(self) -> Iterator[tuple[ObjectId, State]]:
        """Every object that should have a file, and its state; read as it is asked for."""
        question = "SELECT object_id, state FROM objects WHERE freed_at_utc IS NULL"
        for object_id, state in self.execute(question, ()):
            yield ObjectId(object_id), State(state)

    def sealed_after(self, sequence: int, *, limit: int) -> list[SealedRow]:
        """Objects with a file that counts as sound, in the order they came, from behind `sequence`."""
        return [
            SealedRow(at, ObjectId(object_id), State(state), *rest)
            for at, object_id, state, *rest in self.execute(_FIND_SEALED, (sequence, limit))
        ]

    def last_sequence(self) -> int:
        """The newest object's place in the order; 0 if there never was one."""
        last: int | None = self.execute("SELECT MAX(sequence) FROM objects", ()).fetchone()[0]
        return last or 0

    def sequence_of(self, object_id: ObjectId) -> int:
        """Its place in the order; 0 if it has no row."""
        found = self.execute("SELECT sequence FROM objects WHERE object_id = ?", (object_id,)).fetchone()
        return 0 if found is None else int(found[0])

    def lose(self, object_ids: Collection[ObjectId], *, reason: str) -> tuple[list[ObjectId], list[ObjectId]]:
        """Files of these rows are gone: those that central has are freed, others condemned; which were which."""
        freed, condemned = [], []
        now = utc_text(datetime.now(UTC))
        with self.transaction():
            for object_id in object_ids:
                row = self.find(object_id)
                if row is None or row["state"] in FREED_IF_LOST:
                    self.step_within(
                        object_id, FREED_IF_LOST[row["state"]] if row else FREE, freed_at_utc=now
                    )
                    freed.append(object_id)
                elif not row["damaged"]:
                    self.step_within(object_id, CONDEMN, damaged=True, last_error=reason)
                    condemned.append(object_id)
                self.execute(_SET_DELIVERIES_ASIDE, (reason, object_id))
        return freed, condemned

    def oldest_retained(self, limit: int) -> list[tuple[ObjectId, int, datetime]]:
        """What central has and the box keeps for the site, oldest first: id, bytes on the disk, arrival."""
        return [
            (ObjectId(object_id), stored_bytes, utc_from_text(received_at_utc))
            for object_id, stored_bytes, received_at_utc in self.execute(_FIND_RETAINED, (limit,))
        ]

    def free(self, object_ids: Collection[ObjectId]) -> None:
        """Free some in one transaction; the caller unlinks the files after it.

        Not synced: what a power cut takes back is in its former state, and its file is freed again.
        """
        now = utc_text(datetime.now(UTC))
        with self.transaction(durable=False):
            for object_id in object_ids:
                self.step_within(object_id, FREE, freed_at_utc=now)

    def replace(self, object_id: ObjectId) -> None:
        """Free a damaged object whose bytes came again; what it was owed to gets it from the newer one."""
        with self.transaction(durable=False):
            self.execute(_FORGET_OPEN, (object_id,))
            self.step_within(object_id, REPLACE, freed_at_utc=utc_text(datetime.now(UTC)))

    def condemn(self, object_id: ObjectId, state: State, reason: str) -> Step:
        """The disk has damaged or lost the file of an object in `state`; nobody can be sent it any more."""
        step = FREED_IF_LOST.get(state, CONDEMN)
        values: dict[str, Any] = {"damaged": True, "last_error": reason}
        if step is not CONDEMN:
            values = {"freed_at_utc": utc_text(datetime.now(UTC))}
        with self.transaction():
            self.step_within(object_id, step, **values)
            self.execute(_SET_DELIVERIES_ASIDE, (reason, object_id))
        return step

    def next_receipt_number(self) -> int:
        """Above every number that was ever given."""
        last = self.execute(_LAST_RECEIPT_NUMBER, ()).fetchone()[0]
        return 1 + (last or 0)

    def forget_lost(self, object_id: ObjectId) -> None:
        """Central has this instance again, whose loss was listed under another object."""
        lost = [found for (found,) in self.execute(_FIND_LOST_TWINS, (object_id,))]
        if not lost:
            return
        with self.transaction(durable=False):
            for one in lost:
                self.execute("DELETE FROM deliveries WHERE object_id = ?", (one,))
                self.execute("DELETE FROM objects WHERE object_id = ? AND state = 'lost'", (one,))

    def damaged_twins(self, object_id: ObjectId) -> list[ObjectId]:
        """Damaged objects of the same instance and the same bytes."""
        return [ObjectId(found) for (found,) in self.execute(_FIND_DAMAGED_TWINS, (object_id,))]

    def earliest_due_s(self, opened_by: Collection[str] = ()) -> float | None:
        """When the next object can be claimed, on the monotonic clock; None if nothing waits.

        Parameters
        ----------
        opened_by : only what was sealed for one of these keys as well.
        """
        if opened_by:
            found: float | None = self.execute(
                _EARLIEST_OPENED_BY, (json.dumps(list(opened_by)),)
            ).fetchone()[0]
            return found
        due: float | None = self.execute(_EARLIEST, ()).fetchone()[0]
        return due

    def evict(self, *, max_bytes: int) -> list[ObjectId]:
        """Free the oldest of what no sender was told success for, until the rest is within `max_bytes`.

        To be called inside `transaction`; the caller unlinks the files after it.
        """
        rows = (
            SpoolObject.select(SpoolObject.object_id, SpoolObject.stored_bytes)
            .where(
                LIVE,
                SpoolObject.state.in_(EVICT.from_states),
                SpoolObject.success_answered == EVICT.answered,
            )
            .order_by(SpoolObject.sequence)
            .tuples()
        )
        kept = list(rows.execute(self.db))
        held_bytes = sum(stored_bytes for _, stored_bytes in kept)
        evicted: list[ObjectId] = []
        for object_id, stored_bytes in kept:
            if held_bytes <= max_bytes:
                break
            self.step_within(ObjectId(object_id), EVICT, freed_at_utc=utc_text(datetime.now(UTC)))
            evicted.append(ObjectId(object_id))
            held_bytes -= stored_bytes
        return evicted

    def prune_freed(self, *, older_than: timedelta) -> int:
        """Forget receipts older than that; how many rows went."""
        limit = utc_text(datetime.now(UTC) - older_than)
        with self.transaction():
            self.execute(_FORGET_ENDED, (limit,))
            self.execute("DELETE FROM study_priorities WHERE set_at_utc < ?", (limit,))
            gone: int = SpoolObject.delete().where(SpoolObject.freed_at_utc < limit).execute(self.db)
        return gone


@cache
def _step_statement(step: Step, columns: tuple[str, ...]) -> str:
    """The update of one step that writes these columns besides; bound are the new state, their values, the object."""
    changes = "".join(f", {column} = ?" for column in columns)
    states = ", ".join(f"'{state}'" for state in step.from_states)
    answered = "" if step.answered is None else f" AND success_answered = {int(step.answered)}"
    return f"UPDATE objects SET state = ?{changes} WHERE object_id = ? AND state IN ({states}){answered}"  # noqa: S608  # names of our own


def _row(row: NewRow) -> tuple[object, ...]:
    """In the order of `_INSERT`'s columns, up to those that rules are asked by."""
    label, success_answered, state, damaged = row
    origin, identity = label.origin, label.identity
    return (
        label.object_id,
        state or label.state,
        success_answered,
        identity and identity.sop_class_uid,
        identity and identity.sop_instance_uid,
        identity and identity.study_instance_uid,
        identity and identity.series_instance_uid,
        identity and identity.modality,
        origin.transfer_syntax_uid,
        origin.calling_ae_title,
        origin.called_ae_title,
        origin.peer_address,
        label.sha256,
        label.size_bytes,
        label.stored_bytes,
        utc_text(label.received_at_utc),
        0.0,
        0,
        label.reason,
        damaged,
    )


def sealed_row(row: dict[str, Any]) -> SealedRow:
    """The part of a row that a sealed file can be compared with."""
    return SealedRow(
        sequence=row["sequence"],
        object_id=ObjectId(row["object_id"]),
        state=State(row["state"]),
        stored_bytes=row["stored_bytes"],
        sha256=row["sha256"],
        sop_instance_uid=row["sop_instance_uid"],
        calling_ae_title=row["calling_ae_title"],
    )
