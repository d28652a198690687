"""Looking into the record: by page, as a whole, and along its chain.

Always true: who looks waits for who writes, and reads whole records only; a record that is closed says nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import peewee
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from central.audit.chain import Verdict, check, last_pruned, read_checkpoint
from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, AuditRow, Outcome, read_row
from central.audit.tables import AuditCheckpoint, AuditConcern, AuditPruned, AuditRecord
from central.database import Database

_PAGE_ROWS: Final = 5000


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


class ReadableRecord:
    """The open record as far as it is read; `central.audit.record.Audit` is the one that is written as well.

    Parameters
    ----------
    key : which central's checkpoints are signed with.
    """

    def __init__(self, db: Database, key: Ed25519PublicKey) -> None:
        self._db = db
        self._key = key
        self._closed = False
        self._write_lock = threading.Lock()  # readers take it too: SQLite has one connection here

    def newest(self, wanted: Wanted, *, limit: int, before_id: int | None = None) -> list[AuditRow]:
        """Records that are `wanted`, the newest first, at most `limit`; `before_id` continues below the last row of a
        page.

        Raises
        ------
        AuditUnavailableError : the record cannot be read.
        """
        first = AuditRecord.id > 0 if before_id is None else AuditRecord.id < before_id
        query = AuditRecord.select().where(first, *wanted.conditions())
        query = query.order_by(AuditRecord.id.desc()).limit(limit)
        return [read_row(row) for row in self._read(query)]

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

    def newest_checkpoint(self) -> str | None:
        """The last signed word. Raises as `newest`."""
        query = AuditCheckpoint.select(AuditCheckpoint.word).order_by(AuditCheckpoint.id.desc()).limit(1)
        return next((row["word"] for row in self._read(query)), None)

    def pruned(self) -> list[str]:
        """The words on what was removed, in the order in which they were made. Raises as `newest`."""
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

    def contradicted(self, words: Sequence[str]) -> list[str]:
        """Those of `words` that central signed, of a record other than this one. Raises as `newest`."""
        key = self._key
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
        return check(self.rows(), words, self._key, witnessed, self.pruned())

    def _read(self, query: peewee.ModelSelect[Any]) -> list[dict[str, Any]]:
        try:
            with self._write_lock:
                self._require_open()
                return list(query.dicts().execute(self._db))
        except peewee.PeeweeException as error:
            raise AuditUnavailableError("the audit record cannot be read") from error

    def _require_open(self) -> None:
        # peewee would quietly open the database again.
        if self._closed:
            raise AuditUnavailableError("the audit record is closed")
