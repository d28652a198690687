"""The audit record: one row an access, durable before the access happens.

Why it exists: the answer to "who has seen this patient's images?" must be complete, also after a power cut.

What is always true
-------------------
- When `Audit.record` has returned, the row is on disk (WAL, synchronous FULL). When it raises, the caller
  refuses the access: no record, no image.
- Rows are only added. The database itself refuses UPDATE and DELETE through triggers.
- The file is apart from the index, so that a restored or rebuilt index takes no record with it.

What a crash leaves: whole rows. A row may stand for an access that the crash prevented, never the reverse.

Callers that arrive together share one commit (and so one fsync): whoever gets the lock writes everything that
waits, the others find theirs done.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal

import peewee

from central.audit.errors import AuditUnavailableError

MAX_DETAIL_CHARACTERS: Final = 2000
MAX_NAME_CHARACTERS: Final = 128
_PRAGMAS: Final = {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 10_000}


class Action(StrEnum):
    """What somebody did or tried; whether it was allowed is the event's `outcome`."""

    SIGN_IN = "sign-in"
    SIGN_IN_FAILED = "sign-in-failed"
    SIGN_OUT = "sign-out"
    SEARCH = "search"
    VIEW = "view"
    EXPORT = "export"
    READ_AUDIT = "read-audit"
    PAIR = "pair"
    ENROL = "enrol"
    ENROL_REFUSED = "enrol-refused"
    ENROL_REQUEST = "enrol-request"
    ENROL_DECISION = "enrol-decision"
    RENEW = "renew"
    IDENTITY_SEEN_TWICE = "identity-seen-twice"
    KEYS = "keys"
    REVOKE = "revoke"
    BOX_COMMAND = "box-command"
    UPLOAD_REFUSED = "upload-refused"
    ASSOCIATION_REFUSED = "association-refused"
    USER_CHANGE = "user-change"
    WORKLIST_READ = "worklist-read"
    WORKLIST_CHANGE = "worklist-change"
    PROCEDURE_STEP = "procedure-step"


Outcome = Literal["success", "refused"]


@dataclass(frozen=True)
class AuditEvent:
    """One thing that happened. `actor` is a username, a gateway id or a peer's AE title, as it was claimed.

    `detail` may hold search values (it is the protected place for them); it is cut at
    `MAX_DETAIL_CHARACTERS`, and `actor` at `MAX_NAME_CHARACTERS`, because both can come from outside.
    """

    actor: str
    actor_role: str
    action: Action
    outcome: Outcome
    source_address: str
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class AuditRow:
    """A recorded event. `id` grows with time and is never reused."""

    id: int
    at_utc: datetime
    event: AuditEvent


class AuditRecord(peewee.Model):
    """Table ``audit_record``. `at_utc` is ISO 8601 text, always in UTC."""

    id = peewee.AutoField()
    at_utc = peewee.TextField()
    actor = peewee.TextField()
    actor_role = peewee.TextField()
    action = peewee.TextField()
    outcome = peewee.TextField()
    source_address = peewee.TextField()
    study_instance_uid = peewee.TextField(null=True, index=True)
    series_instance_uid = peewee.TextField(null=True)
    sop_instance_uid = peewee.TextField(null=True)
    detail = peewee.TextField()

    class Meta:
        table_name = "audit_record"


@dataclass
class _Pending:
    """An event on its way to disk: `done` once committed, `error` if the commit failed."""

    row: dict[str, Any]
    done: bool = False
    error: BaseException | None = field(default=None)


class Audit:
    """The open audit record; one per process, safe to call from every thread."""

    def __init__(self, db: peewee.SqliteDatabase) -> None:
        self._db = db
        self._write_lock = threading.Lock()
        self._queue_lock = threading.Lock()
        self._queue: list[_Pending] = []

    @classmethod
    def open(cls, path: Path) -> Audit:
        """Open or make the record at `path` (mode 0600).

        Raises
        ------
        AuditUnavailableError : the file cannot be opened or written.
        """
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            # One connection for all threads, behind our own lock: SQLite has one writer anyway.
            db = peewee.SqliteDatabase(
                str(path), pragmas=_PRAGMAS, thread_safe=False, check_same_thread=False
            )
            db.connect()
            with db.bind_ctx([AuditRecord]):
                db.create_tables([AuditRecord])
            for verb in ("UPDATE", "DELETE"):
                db.execute(  # type: ignore[no-untyped-call]  # the stubs leave it untyped
                    peewee.SQL(
                        f"CREATE TRIGGER IF NOT EXISTS audit_record_no_{verb.lower()} "
                        f"BEFORE {verb} ON audit_record "
                        "BEGIN SELECT RAISE(ABORT, 'the audit record is append-only'); END"
                    )
                )
        except (OSError, peewee.PeeweeException) as error:
            raise AuditUnavailableError(f"cannot open the audit record {path}: {error}") from error
        return cls(db)

    def record(self, event: AuditEvent) -> None:
        """Make `event` durable, stamped with the time now.

        Raises
        ------
        AuditUnavailableError : it is not on disk; the caller must refuse what it was about to do.
        """
        pending = _Pending(_row(event))
        with self._queue_lock:
            self._queue.append(pending)
        with self._write_lock:
            if not pending.done:
                self._commit_waiting()
        if pending.error is not None:
            raise AuditUnavailableError("the audit record cannot be written") from pending.error

    def search(
        self,
        *,
        limit: int,
        before_id: int | None = None,
        actor: str | None = None,
        action: Action | None = None,
        study_instance_uid: str | None = None,
    ) -> list[AuditRow]:
        """The newest rows first, at most `limit`; `before_id` continues below the last row of a page.

        Raises
        ------
        AuditUnavailableError : the record cannot be read.
        """
        query = AuditRecord.select().order_by(AuditRecord.id.desc()).limit(limit)
        if before_id is not None:
            query = query.where(AuditRecord.id < before_id)
        if actor is not None:
            query = query.where(AuditRecord.actor == actor)
        if action is not None:
            query = query.where(AuditRecord.action == action.value)
        if study_instance_uid is not None:
            query = query.where(AuditRecord.study_instance_uid == study_instance_uid)
        try:
            with self._write_lock:
                self._require_open()
                rows: Sequence[dict[str, Any]] = list(query.dicts().execute(self._db))
        except peewee.PeeweeException as error:
            raise AuditUnavailableError("the audit record cannot be read") from error
        return [_audit_row(row) for row in rows]

    def close(self) -> None:
        """Close the file; every later `record` raises, so that nothing is shown unrecorded at shutdown."""
        with self._write_lock:
            self._db.close()

    def _require_open(self) -> None:
        # peewee would quietly open the file again.
        if self._db.is_closed():
            raise AuditUnavailableError("the audit record is closed")

    def _commit_waiting(self) -> None:
        with self._queue_lock:
            batch, self._queue = self._queue, []
        # Whatever ends this other than the commit, also what no one thought of, leaves everybody refused.
        error: BaseException | None = AuditUnavailableError("the commit did not end")
        try:
            self._require_open()
            with self._db.atomic():
                AuditRecord.insert_many([pending.row for pending in batch]).execute(self._db)
            error = None
        except (peewee.PeeweeException, AuditUnavailableError) as failure:
            error = failure
        finally:
            for pending in batch:
                pending.error = error
                pending.done = True


def _row(event: AuditEvent) -> dict[str, Any]:
    return {
        "at_utc": datetime.now(UTC).isoformat(timespec="microseconds"),
        "actor": _storable(event.actor)[:MAX_NAME_CHARACTERS],
        "actor_role": event.actor_role,
        "action": event.action.value,
        "outcome": event.outcome,
        "source_address": event.source_address,
        "study_instance_uid": event.study_instance_uid,
        "series_instance_uid": event.series_instance_uid,
        "sop_instance_uid": event.sop_instance_uid,
        "detail": _storable(event.detail)[:MAX_DETAIL_CHARACTERS],
    }


def _storable(text: str) -> str:
    """`text` as UTF-8 can hold it: what came from outside may have lone surrogates, which SQLite refuses."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _audit_row(row: dict[str, Any]) -> AuditRow:
    fields = dict(row)
    return AuditRow(
        id=fields.pop("id"),
        at_utc=datetime.fromisoformat(fields.pop("at_utc")),
        event=AuditEvent(**{**fields, "action": Action(fields["action"])}),
    )
