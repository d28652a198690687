"""The spool's index: SQLite in WAL with `synchronous=FULL`, one connection, one small transaction a step.

Always true: a row in a live state has a durable file (the file comes first), and when a method that changes
something has returned, the change survives a power cut. Callers hold the spool's lock: the connection is one
and shared. A crash leaves what SQLite guarantees: every transaction whole or not at all.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from peewee import SQL, DatabaseError, SqliteDatabase, fn

from contract.identifiers import ObjectId
from edge.buffer.errors import (
    DiskFullError,
    IndexUnreadableError,
    StorageFailedError,
    UnknownObjectError,
    WrongStateError,
)
from edge.buffer.records import Claimed, InstanceIdentity, ObjectRow, Origin, Tally
from edge.buffer.states import CLAIM, EVICT, SAFE_HERE, UNFREED, State, Step
from edge.buffer.tables import SCHEMA_VERSION, TABLES, SpoolObject, utc_from_text, utc_text

_LIVE = SpoolObject.freed_at_utc.is_null()
# Left alone, SQLite searches by state and sorts the whole backlog at every claim.
_BY_SEQUENCE = SQL('"objects" AS "t1" INDEXED BY "live_by_sequence"')
# The two questions of every reception, written out: peewee takes 0.3 ms to put such a statement together, which
# with three of them was half of what a small instance cost. The columns are those of `SpoolObject`.
_INSERT = """
    INSERT INTO objects (
        object_id, state, success_answered, sop_class_uid, sop_instance_uid, study_instance_uid,
        series_instance_uid, modality, transfer_syntax_uid, calling_ae_title, called_ae_title, peer_address,
        sha256, size_bytes, stored_bytes, received_at_utc, due_s, attempts, last_error
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_FIND_DUPLICATE = """
    SELECT object_id FROM objects
    WHERE freed_at_utc IS NULL AND sop_instance_uid = ? AND sha256 = ? AND state IN (?, ?, ?) LIMIT 1
"""
_PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


class SpoolIndex:
    """Questions and steps over the `objects` table.

    Raises
    ------
    peewee.DatabaseError : the file is not a usable SQLite database.
    IndexUnreadableError : a newer program made it.
    """

    def __init__(self, path: Path, *, reserve_bytes: int) -> None:
        self._reserve_bytes = reserve_bytes
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
        with self.db.bind_ctx(TABLES):
            self.db.create_tables(TABLES)
        self.db.pragma("user_version", SCHEMA_VERSION)

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and durable when left. Not nestable."""
        with self.translated(), self.db.transaction("IMMEDIATE"):
            yield

    @contextmanager
    def translated(self) -> Iterator[None]:
        """SQLite's failures come out in this room's terms."""
        try:
            yield
        except DatabaseError as error:
            if sqlite3.SQLITE_FULL in _sqlite_codes(error):
                raise DiskFullError(free_bytes=None, reserve_bytes=self._reserve_bytes) from error
            raise StorageFailedError(OSError(5, str(error))) from error

    def execute(self, statement: str, values: tuple[object, ...]) -> sqlite3.Cursor:
        """Run one written-out statement with bound values."""
        cursor: sqlite3.Cursor = self.db.execute_sql(statement, values)  # type: ignore[no-untyped-call]  # stubs
        return cursor

    def insert(
        self,
        object_id: ObjectId,
        *,
        state: State,
        success_answered: bool,
        origin: Origin | None,
        identity: InstanceIdentity | None,
        sha256: str | None,
        size_bytes: int,
        stored_bytes: int,
        last_error: str | None = None,
    ) -> None:
        """The row of a file that is durable in its place already. To be called inside `transaction`."""
        who = origin or Origin("", "", "", "")
        values = (
            object_id,
            state,
            success_answered,
            identity and identity.sop_class_uid,
            identity and identity.sop_instance_uid,
            identity and identity.study_instance_uid,
            identity and identity.series_instance_uid,
            identity and identity.modality,
            origin and origin.transfer_syntax_uid,
            who.calling_ae_title,
            who.called_ae_title,
            who.peer_address,
            sha256,
            size_bytes,
            stored_bytes,
            utc_text(datetime.now(UTC)),
            0.0,
            0,
            last_error,
        )
        self.execute(_INSERT, values)

    def duplicate_of(self, sop_instance_uid: str, sha256: str) -> ObjectId | None:
        """An object that holds these very bytes and is on its way to central already."""
        found = self.execute(_FIND_DUPLICATE, (sop_instance_uid, sha256, *SAFE_HERE)).fetchone()
        return None if found is None else ObjectId(found[0])

    def claim_next(self, *, now_s: float, lease_s: float) -> Claimed | None:
        """Lease the oldest object that is due: ready, or sending with its lease run out."""
        with self.transaction():
            rows = list(
                SpoolObject.select()
                .from_(_BY_SEQUENCE)
                .where(_LIVE, SpoolObject.state.in_(CLAIM.from_states), SpoolObject.due_s <= now_s)
                .order_by(SpoolObject.sequence)
                .limit(1)
                .dicts()
                .execute(self.db)
            )
            if not rows:
                return None
            row = rows[0]
            attempts = row["attempts"] + 1
            self._step(ObjectId(row["object_id"]), CLAIM, due_s=now_s + lease_s, attempts=attempts)
        return Claimed(
            object_id=ObjectId(row["object_id"]),
            sha256=row["sha256"],
            size_bytes=row["size_bytes"],
            stored_bytes=row["stored_bytes"],
            sop_class_uid=row["sop_class_uid"],
            sop_instance_uid=row["sop_instance_uid"],
            study_instance_uid=row["study_instance_uid"],
            series_instance_uid=row["series_instance_uid"],
            transfer_syntax_uid=row["transfer_syntax_uid"],
            modality=row["modality"],
            calling_ae_title=row["calling_ae_title"],
            called_ae_title=row["called_ae_title"],
            peer_address=row["peer_address"],
            received_at_utc=utc_from_text(row["received_at_utc"]),
            attempts=attempts,
        )

    def step(self, object_id: ObjectId, step: Step, **values: Any) -> None:
        """Take one step of the table in `edge.buffer.states`, with `values` written beside the new state.

        Raises
        ------
        UnknownObjectError, WrongStateError
        """
        with self.transaction():
            self._step(object_id, step, **values)

    def _step(self, object_id: ObjectId, step: Step, **values: Any) -> None:
        guard = [SpoolObject.object_id == object_id, SpoolObject.state.in_(step.from_states)]
        if step.answered is not None:
            guard.append(SpoolObject.success_answered == step.answered)
        changed = SpoolObject.update(state=step.to, **values).where(*guard).execute(self.db)
        if changed:
            return
        row = self.find(object_id)
        if row is None:
            raise UnknownObjectError(object_id)
        found = row["state"]
        if step.answered and not row["success_answered"]:
            found += ", never acknowledged to its sender,"
        raise WrongStateError(object_id, step=step.name, found=found)

    def find(self, object_id: ObjectId) -> dict[str, Any] | None:
        rows = list(SpoolObject.select().where(SpoolObject.object_id == object_id).dicts().execute(self.db))
        return rows[0] if rows else None

    def live_states(self) -> dict[ObjectId, State]:
        """State of every object that should have a file."""
        rows = SpoolObject.select(SpoolObject.object_id, SpoolObject.state).where(_LIVE).tuples()
        return {ObjectId(object_id): State(state) for object_id, state in rows.execute(self.db)}

    def earliest_due_s(self) -> float | None:
        """When the next object can be claimed, on the monotonic clock; None if nothing waits."""
        due: float | None = (
            SpoolObject.select(fn.MIN(SpoolObject.due_s))
            .where(_LIVE, SpoolObject.state.in_(CLAIM.from_states))
            .scalar(self.db)
        )
        return due

    def tallies(self) -> dict[State, Tally]:
        """Objects and bytes of every live state, zeros included."""
        found = dict.fromkeys(UNFREED, Tally(0, 0))
        rows = (
            SpoolObject.select(SpoolObject.state, fn.COUNT(), fn.SUM(SpoolObject.stored_bytes))
            .where(_LIVE)
            .group_by(SpoolObject.state)
            .tuples()
        )
        for state, objects, stored_bytes in rows.execute(self.db):
            found[State(state)] = Tally(objects, stored_bytes)
        return found

    def oldest_unsent_at_utc(self) -> datetime | None:
        text = (
            SpoolObject.select(SpoolObject.received_at_utc)
            .from_(_BY_SEQUENCE)
            .where(_LIVE, SpoolObject.state.in_(CLAIM.from_states))
            .order_by(SpoolObject.sequence)
            .limit(1)
            .scalar(self.db)
        )
        return None if text is None else utc_from_text(text)

    def rows(self, *, states: Collection[State], limit: int) -> list[ObjectRow]:
        """Oldest first."""
        now_s = time.monotonic()
        wanted = SpoolObject.select().where(SpoolObject.state.in_(list(states)))
        if State.FREED not in states:
            wanted = wanted.where(_LIVE)
        found = wanted.order_by(SpoolObject.sequence).limit(limit).dicts().execute(self.db)
        return [_object_row(row, now_s) for row in found]

    def evict(self, *, max_bytes: int) -> list[ObjectId]:
        """Free the oldest of what no sender was told success for, until the rest is within `max_bytes`.

        To be called inside `transaction`; the caller unlinks the files after it.
        """
        rows = (
            SpoolObject.select(SpoolObject.object_id, SpoolObject.stored_bytes)
            .where(
                _LIVE,
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
            self._step(ObjectId(object_id), EVICT, freed_at_utc=utc_text(datetime.now(UTC)))
            evicted.append(ObjectId(object_id))
            held_bytes -= stored_bytes
        return evicted

    def prune_freed(self, *, older_than: timedelta) -> int:
        """Forget receipts older than that; how many rows went."""
        limit = utc_text(datetime.now(UTC) - older_than)
        with self.transaction():
            gone: int = SpoolObject.delete().where(SpoolObject.freed_at_utc < limit).execute(self.db)
        return gone


def _sqlite_codes(error: BaseException) -> set[int]:
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


def _object_row(row: dict[str, Any], now_s: float) -> ObjectRow:
    state = State(row["state"])
    waits = state is State.READY and row["due_s"] > now_s
    return ObjectRow(
        object_id=ObjectId(row["object_id"]),
        state=state,
        success_answered=row["success_answered"],
        sop_instance_uid=row["sop_instance_uid"],
        study_instance_uid=row["study_instance_uid"],
        series_instance_uid=row["series_instance_uid"],
        modality=row["modality"],
        transfer_syntax_uid=row["transfer_syntax_uid"],
        calling_ae_title=row["calling_ae_title"],
        peer_address=row["peer_address"],
        size_bytes=row["size_bytes"],
        stored_bytes=row["stored_bytes"],
        received_at_utc=utc_from_text(row["received_at_utc"]),
        attempts=row["attempts"],
        next_attempt_in_s=row["due_s"] - now_s if waits else None,
        last_error=row["last_error"],
        has_receipt=row["receipt"] is not None,
        freed_at_utc=row["freed_at_utc"] and utc_from_text(row["freed_at_utc"]),
    )
