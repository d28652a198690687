"""The audit record: one row an access, durable before the access happens.

Why it exists: the answer to "who has seen this patient's images?" must be complete, also after a power cut.

What is always true
-------------------
- When `Audit.record` has returned, the row is on disk (WAL, synchronous FULL). When it raises, the caller
  refuses the access: no record, no image.
- Rows are only added. The database itself refuses UPDATE and DELETE through triggers. `central.audit.pruning` alone
  removes what is older than the house keeps it, and leaves a signed word on it.
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import peewee

from central.audit.chain import Notary, link
from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, AuditEvent, row_of
from central.audit.reading import ReadableRecord
from central.audit.tables import ADD, CONCERN, AuditCheckpoint, end_of_chain, last_signed, prepare
from central.database import Database, open_sqlite

CHECKPOINT_RECORDS: Final = 256
"""A signed checkpoint at least every so many records, and with the first record of each hour."""

_CHECKPOINT_S: Final = 3600.0


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


class Audit(ReadableRecord):
    """The open audit record; one per process, safe to call from every thread."""

    def __init__(self, db: Database, notary: Notary) -> None:
        super().__init__(db, notary.key.public_key())
        self.notary = notary
        self._signed_at_s = -math.inf
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
        pending = _Pending(row_of(event), event.institutions)
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

    def sign(self) -> None:
        """Make a checkpoint for all that is recorded, if there is none yet. AuditUnavailableError as `writing`."""
        with self.writing() as db:
            self._sign_if_due(*end_of_chain(db), at_once=True)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Database]:
        """A transaction of its own, for what is no event.

        Raises
        ------
        AuditUnavailableError : nothing of it was written.
        """
        try:
            with self._write_lock:
                self._require_open()
                with self._db.writing():
                    yield self._db
        except peewee.PeeweeException as error:
            raise AuditUnavailableError("the audit record cannot be written") from error

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
            word = self.notary.checkpoint(last_id, chain)
            AuditCheckpoint.insert(last_id=last_id, word=word).execute(self._db)
            self._signed_at_s = time.monotonic()


def _nothing() -> None: ...
