"""The audit record: one row an access, durable before the access happens.

Why it exists: the answer to "who has seen this patient's images?" must be complete, also after a power cut.

What is always true
-------------------
- When `Audit.record` has returned, the row is on disk (WAL, synchronous FULL). When it raises, the caller
  refuses the access: no record, no image.
- Rows are only added. The database itself refuses UPDATE and DELETE through triggers. `prune` alone removes what is
  older than the house keeps it, and leaves a signed word on it.
- Each row continues a hash chain, and every so often central signs where it stands (`central.audit.chain`): who changes
  the file past this program can be found out.
- An event names the institutions that it concerns: whose person acted, and whose study was given out. Auditors of one
  institution are shown those records alone.
- The file is apart from the index, so that a restored or rebuilt index takes no record with it.

What a crash leaves: whole rows. A row may stand for an access that the crash prevented, never the reverse.

Callers that arrive together share one commit (and so one fsync): whoever gets the lock writes everything that
waits, the others find theirs done. Who has something to prepare meanwhile lets it begin (`Audit.begin`) and waits
for it before anything leaves.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal

import peewee

from central.audit.chain import Notary, Verdict, check, last_pruned, link, read_checkpoint
from central.audit.errors import AuditUnavailableError
from central.audit.tables import (
    ADD,
    CONCERN,
    AuditCheckpoint,
    AuditConcern,
    AuditPruned,
    AuditRecord,
    end_of_chain,
    last_signed,
    prepare,
    unlocked,
)
from central.database import Database, open_sqlite

MAX_DETAIL_CHARACTERS: Final = 2000
MAX_NAME_CHARACTERS: Final = 128
CHECKPOINT_RECORDS: Final = 256
"""A signed checkpoint at least every so many records, and with the first record of each hour."""

_CHECKPOINT_S: Final = 3600.0
_PAGE_ROWS: Final = 5000


class Action(StrEnum):
    """What somebody did or tried; whether it was allowed is the event's `outcome`."""

    SIGN_IN = "sign-in"
    SIGN_IN_FAILED = "sign-in-failed"
    SIGN_OUT = "sign-out"
    SEARCH = "search"
    VIEW = "view"
    EXPORT = "export"
    STORE = "store"
    SHARE = "share"
    BREAK_GLASS = "break-glass"
    BREAK_GLASS_REVIEW = "break-glass-review"
    GUEST_SIGN_IN = "guest-sign-in"
    ACCESS_CHANGE = "access-change"
    CONSENT_CHANGE = "consent-change"
    TOKEN_CHANGE = "token-change"  # noqa: S105  # what was done, no password
    READ_AUDIT = "read-audit"
    CHAIN_AUDIT = "chain-audit"
    PRUNE_AUDIT = "prune-audit"
    PAIR = "pair"
    ENROL = "enrol"
    ENROL_REFUSED = "enrol-refused"
    ENROL_REQUEST = "enrol-request"
    ENROL_DECISION = "enrol-decision"
    RENEW = "renew"
    IDENTITY_SEEN_TWICE = "identity-seen-twice"
    RECEIPTS_UNKNOWN = "receipts-unknown"
    OBJECT_FAULT = "object-fault"
    READ_OBJECTS = "read-objects"
    REMOVE_OBJECTS = "remove-objects"
    ERASE = "erase"
    LEGAL_HOLD = "legal-hold"
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
    institutions: frozenset[str] = frozenset()


@dataclass(frozen=True)
class AuditRow:
    """A recorded event. `id` grows with time and is never reused."""

    id: int
    at_utc: datetime
    event: AuditEvent


@dataclass(frozen=True)
class Wanted:
    """Which records; None is no condition. Times are ISO 8601 text in UTC, `until_utc` not included.

    `studies`, `actions` and `institutions` (which the record concerns): any of these, so none of them is nothing.
    """

    actor: str | None = None
    action: str | None = None
    study_instance_uid: str | None = None
    since_utc: str | None = None
    until_utc: str | None = None
    actor_role: str | None = None
    outcome: Outcome | None = None
    studies: Sequence[str] | None = None
    actions: Sequence[Action] | None = None
    institutions: Sequence[str] | None = None

    def conditions(self) -> list[peewee.Expression]:
        pairs = (
            (AuditRecord.actor, self.actor),
            (AuditRecord.action, self.action),
            (AuditRecord.study_instance_uid, self.study_instance_uid),
            (AuditRecord.actor_role, self.actor_role),
            (AuditRecord.outcome, self.outcome),
        )
        found = [column == value for column, value in pairs if value is not None]
        if self.since_utc is not None:
            found.append(AuditRecord.at_utc >= self.since_utc)
        if self.until_utc is not None:
            found.append(AuditRecord.at_utc < self.until_utc)
        if self.studies is not None:
            found.append(AuditRecord.study_instance_uid.in_(list(self.studies)))
        if self.actions is not None:
            found.append(AuditRecord.action.in_([action.value for action in self.actions]))
        if self.institutions is not None:
            concerned = AuditConcern.select(AuditConcern.record_id).where(
                AuditConcern.record_id == AuditRecord.id,
                AuditConcern.institution.in_(list(self.institutions)),
            )
            found.append(peewee.fn.EXISTS(concerned) == True)  # noqa: E712  # SQL
        return found


@dataclass
class _Pending:
    """An event on its way to disk: `done` once committed, `error` if the commit failed."""

    row: dict[str, Any]
    institutions: frozenset[str]
    done: bool = False
    error: BaseException | None = field(default=None)


class Recording:
    """An event on its way. Nothing of what it is about may leave before `wait` has returned."""

    def __init__(self, finish: Callable[[_Pending], None], pending: _Pending) -> None:
        self._finish = finish
        self._pending = pending

    def wait(self) -> None:
        """Return once it is durable; may be called again. AuditUnavailableError as `Audit.record`."""
        self._finish(self._pending)

    @property
    def has_failed(self) -> bool:
        """Whether it could not be written; it never will be."""
        return self._pending.error is not None


class Audit:
    """The open audit record; one per process, safe to call from every thread."""

    def __init__(self, db: Database, notary: Notary) -> None:
        self._db = db
        self._notary = notary
        self._signed_at_s = -math.inf
        self._closed = False
        self._write_lock = threading.Lock()
        self._queue_lock = threading.Lock()
        self._queue: list[_Pending] = []
        self._on_recorded: Callable[[], None] = _nothing
        self._last_was_written = True
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="audit")

    @classmethod
    def open(cls, path: Path, notary: Notary) -> Audit:
        """Open or make the record at `path` (mode 0600). One of an older version is taken into the chain as it is.

        Raises
        ------
        AuditUnavailableError : the file cannot be opened or written.
        """
        try:
            db = open_sqlite(path, one_connection=True)  # SQLite has one writer anyway
        except (OSError, peewee.PeeweeException) as error:
            raise AuditUnavailableError(f"cannot open the audit record {path}: {error}") from error
        return cls.over(db, notary)

    @classmethod
    def over(cls, db: Database, notary: Notary) -> Audit:
        """Take or make the record in `db`, which nothing else of this process uses. Raises as `open`."""
        try:
            taken_over = prepare(db)  # several programs may do so at once
        except peewee.PeeweeException as error:
            raise AuditUnavailableError(f"cannot open the audit record: {error}") from error
        audit = cls(db, notary)
        if taken_over:
            detail = f"{taken_over} records of an older version were taken into the chain as they were"
            audit.record(
                AuditEvent("central", "system", Action.CHAIN_AUDIT, "success", "local", detail=detail)
            )
        return audit

    def record(self, event: AuditEvent) -> None:
        """Make `event` durable, stamped with the time now.

        Raises
        ------
        AuditUnavailableError : it is not on disk; the caller must refuse what it was about to do.
        """
        self._finish(self._queued(event))

    def begin(self, event: AuditEvent) -> Recording:
        """Have `event` written beside the caller, stamped with the time now."""
        pending = self._queued(event)
        with contextlib.suppress(RuntimeError):  # it is closed, as `wait` will say
            self._beside.submit(self._commit_beside)
        return Recording(self._finish, pending)

    def _queued(self, event: AuditEvent) -> _Pending:
        pending = _Pending(_row(event), event.institutions)
        with self._queue_lock:
            self._queue.append(pending)
        return pending

    def _finish(self, pending: _Pending) -> None:
        if not pending.done:
            with self._write_lock:
                if not pending.done:
                    self._commit_waiting()
        if pending.error is not None:
            raise AuditUnavailableError("the audit record cannot be written") from pending.error

    @property
    def can_write(self) -> bool:
        """Whether it is open, and the last records could be written; who writes nothing now asks this first."""
        return self._last_was_written and not self._closed

    def _commit_beside(self) -> None:
        with self._write_lock:
            if self._queue:
                self._commit_waiting()

    def when_recorded(self, wake: Callable[[], None]) -> None:
        """From now on call `wake` after each commit of this process; it must return at once and raise nothing."""
        self._on_recorded = wake

    def search(
        self,
        *,
        limit: int,
        before_id: int | None = None,
        actor: str | None = None,
        action: Action | None = None,
        study_instance_uid: str | None = None,
        institutions: Sequence[str] | None = None,
    ) -> list[AuditRow]:
        """The newest rows first, at most `limit`; `before_id` continues below the last row of a page.

        Raises
        ------
        AuditUnavailableError : the record cannot be read.
        """
        wanted = Wanted(actor, action, study_instance_uid, institutions=institutions)
        return self.newest(wanted, limit=limit, before_id=before_id)

    def newest(self, wanted: Wanted, *, limit: int, before_id: int | None = None) -> list[AuditRow]:
        """Records that are `wanted`, paged as in `search`. Raises as `search`."""
        first = AuditRecord.id > 0 if before_id is None else AuditRecord.id < before_id
        query = AuditRecord.select().where(first, *wanted.conditions())
        query = query.order_by(AuditRecord.id.desc()).limit(limit)
        return [_audit_row(row) for row in self._read(query)]

    def sign(self) -> None:
        """Make a checkpoint for all that is recorded, if there is none yet.

        Raises
        ------
        AuditUnavailableError : it cannot be written.
        """
        try:
            with self._write_lock:
                self._require_open()
                with self._db.writing():
                    self._sign_if_due(*end_of_chain(self._db), at_once=True)
        except peewee.PeeweeException as error:
            raise AuditUnavailableError("the audit record cannot be written") from error

    def newest_checkpoint(self) -> str | None:
        """The last signed word. Raises as `search`."""
        query = AuditCheckpoint.select(AuditCheckpoint.word).order_by(AuditCheckpoint.id.desc()).limit(1)
        return next((row["word"] for row in self._read(query)), None)

    def contradicted(self, words: Sequence[str]) -> list[str]:
        """Those of `words` that central signed, of a record other than this one. Raises as `search`."""
        key = self._notary.key.public_key()
        said = {word: read for word in words if (read := read_checkpoint(word, key)) is not None}
        ids = sorted({checkpoint.last_id for checkpoint in said.values()})
        if not ids:
            return []
        query = AuditRecord.select(AuditRecord.id, AuditRecord.chain).where(AuditRecord.id.in_(ids))
        chains = {row["id"]: row["chain"] for row in self._read(query)}
        removed = last_pruned(self.pruned(), key)
        return [
            word
            for word, checkpoint in said.items()
            if not (removed and removed.accounts_for(checkpoint))
            and chains.get(checkpoint.last_id) != checkpoint.chain
        ]

    def verify(self, witnessed: Iterable[tuple[str, str]] = ()) -> Verdict:
        """Follow the whole chain and compare it with the checkpoints; reads every record.

        Parameters
        ----------
        witnessed : a box, and a word that it keeps.

        Raises
        ------
        AuditUnavailableError : the record cannot be read.
        """
        words = [word for _, word in self.checkpoints()]
        return check(self.rows(), words, self._notary.key.public_key(), witnessed, self.pruned())

    def pruned(self) -> list[str]:
        """The words on what was removed, in the order in which they were made. Raises as `search`."""
        return [row["word"] for row in self._read(AuditPruned.select().order_by(AuditPruned.id))]

    def last_checkpoint_before(self, at_utc: str) -> int:
        """The last record of the newest checkpoint that is for records before `at_utc` alone; 0 if there is none."""
        newer = AuditRecord.select(peewee.fn.MIN(AuditRecord.id).alias("id")).where(
            AuditRecord.at_utc >= at_utc
        )
        first = self._read(newer)[0]["id"]
        last = AuditCheckpoint.select(peewee.fn.MAX(AuditCheckpoint.last_id).alias("id"))
        if first is not None:
            last = last.where(AuditCheckpoint.last_id < first)
        return self._read(last)[0]["id"] or 0

    def prune(self, through_id: int, before_utc: str, export_sha256: str) -> None:
        """Remove every record and checkpoint up to `through_id`, and leave a signed word; all in one transaction.

        Parameters
        ----------
        through_id : of a checkpoint; central.audit.pruning has exported and verified what is removed.
        before_utc : what is removed is older.

        Raises
        ------
        AuditUnavailableError : nothing was removed.
        """
        try:
            with self._write_lock:
                self._require_open()
                with self._db.writing():
                    here = AuditRecord.id == through_id
                    chain = AuditRecord.select(AuditRecord.chain).where(here).scalar(self._db)
                    if chain is None:
                        raise AuditUnavailableError(f"there is no record {through_id} to prune up to")
                    word = self._notary.pruned(through_id, chain, before_utc, export_sha256)
                    AuditPruned.insert(through_id=through_id, word=word).execute(self._db)
                    with unlocked(self._db):
                        AuditRecord.delete().where(AuditRecord.id <= through_id).execute(self._db)
                        AuditConcern.delete().where(AuditConcern.record_id <= through_id).execute(self._db)
                        old = AuditCheckpoint.last_id <= through_id
                        AuditCheckpoint.delete().where(old).execute(self._db)
        except peewee.PeeweeException as error:
            raise AuditUnavailableError("the audit record cannot be pruned") from error

    def rows(self, wanted: Wanted | None = None) -> Iterator[dict[str, Any]]:
        """Records with their chain values, the oldest first, read as they are asked for."""
        after_id = 0
        while True:
            query = (
                AuditRecord.select()
                .where(AuditRecord.id > after_id, *(wanted or Wanted()).conditions())
                .order_by(AuditRecord.id)
                .limit(_PAGE_ROWS)
            )
            page = self._read(query)
            yield from page
            if len(page) < _PAGE_ROWS:
                return
            after_id = page[-1]["id"]

    def checkpoints(self) -> list[tuple[int, str]]:
        """Last record and signed word of each, in the order in which they were made."""
        found = self._read(AuditCheckpoint.select().order_by(AuditCheckpoint.id))
        return [(row["last_id"], row["word"]) for row in found]

    def _read(self, query: peewee.ModelSelect[Any]) -> list[dict[str, Any]]:
        try:
            with self._write_lock:
                self._require_open()
                return list(query.dicts().execute(self._db))
        except peewee.PeeweeException as error:
            raise AuditUnavailableError("the audit record cannot be read") from error

    def close(self) -> None:
        """Close the file; every later `record` raises, so that nothing is shown unrecorded at shutdown."""
        with contextlib.suppress(
            AuditUnavailableError
        ):  # the last records are kept and chained, if not signed for
            self.sign()
        self._beside.shutdown()
        with self._write_lock:
            self._closed = True
            self._db.end()

    def _require_open(self) -> None:
        # peewee would quietly open the database again.
        if self._closed:
            raise AuditUnavailableError("the audit record is closed")

    def _commit_waiting(self) -> None:
        with self._queue_lock:
            batch, self._queue = self._queue, []
        # Whatever ends this other than the commit, also what no one thought of, leaves everybody refused.
        error: BaseException | None = AuditUnavailableError("the commit did not end")
        try:
            self._require_open()
            with self._db.writing():  # other programs write as well: the chain's end is read in here
                last_id, chain = end_of_chain(self._db)
                for pending in batch:
                    last_id += 1
                    pending.row["id"] = last_id
                    chain = pending.row["chain"] = link(chain, pending.row)
                    ADD.run(self._db, **pending.row)
                    for institution in sorted(pending.institutions):
                        CONCERN.run(self._db, institution=institution, record_id=last_id)
                self._sign_if_due(last_id, chain)
            error = None
            self._on_recorded()
        except (peewee.PeeweeException, AuditUnavailableError) as failure:
            error = failure
        finally:
            self._last_was_written = error is None
            for pending in batch:
                pending.error = error
                pending.done = True

    def _sign_if_due(self, last_id: int, chain: str, *, at_once: bool = False) -> None:
        """A checkpoint for the chain up to its end, in the transaction of the records it is for."""
        signed = last_signed(self._db)
        hour_is_over = time.monotonic() - self._signed_at_s >= _CHECKPOINT_S
        if last_id > signed and (at_once or hour_is_over or last_id - signed >= CHECKPOINT_RECORDS):
            word = self._notary.checkpoint(last_id, chain)
            AuditCheckpoint.insert(last_id=last_id, word=word).execute(self._db)
            self._signed_at_s = time.monotonic()


def _nothing() -> None: ...


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
    fields = {name: value for name, value in row.items() if name != "chain"}
    return AuditRow(
        id=fields.pop("id"),
        at_utc=datetime.fromisoformat(fields.pop("at_utc")),
        event=AuditEvent(**{**fields, "action": Action(fields["action"])}),
    )
