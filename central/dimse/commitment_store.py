"""Storage Commitment requests that have not been answered with a report yet, in central's index database.

Always true: a request is here before its N-ACTION is answered, and goes by the peer's answer to the report or by age.
A crash leaves it to the next life.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Final, NamedTuple

import peewee

from central.database import Database, grow_table, make_tables
from central.institution import DEFAULT_INSTITUTION

MAX_WAITING: Final = 10_000


class Reference(NamedTuple):
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Commitment:
    """A request. Times are seconds since the epoch."""

    number: int
    ae_title: str
    institution: str
    transaction_uid: str
    references: tuple[Reference, ...]
    asked_at_s: float
    tries: int


class CommitmentRequest(peewee.Model):
    """`references_json` is a list of pairs (SOP Class UID, SOP Instance UID)."""

    id = peewee.AutoField()
    ae_title = peewee.TextField()
    transaction_uid = peewee.TextField()
    references_json = peewee.TextField()
    asked_at_s = peewee.DoubleField()
    due_at_s = peewee.DoubleField(index=True)
    tries = peewee.IntegerField()
    institution = peewee.TextField(default=DEFAULT_INSTITUTION)

    class Meta:
        table_name = "commitment_request"
        indexes = ((("ae_title", "transaction_uid", "institution"), True),)


MODELS: Final = (CommitmentRequest,)


class CommitmentStore:
    """Makes its table if it is missing. Safe from any thread."""

    def __init__(self, db: Database) -> None:
        grow_table(
            db,
            "commitment_request",
            {"institution": f"TEXT NOT NULL DEFAULT '{DEFAULT_INSTITUTION}'"},
            outgrown=("commitmentrequest_ae_title_transaction_uid",),
        )
        make_tables(db, MODELS)
        self._db = db

    def add(self, ae_title: str, institution: str, transaction_uid: str, references: list[Reference]) -> bool:
        """Keep a request of that institution's peer; False if there are `MAX_WAITING`. The same transaction again is
        the same request."""
        if CommitmentRequest.select().count(self._db) >= MAX_WAITING:
            return False
        now_s = time.time()
        CommitmentRequest.insert(
            ae_title=ae_title,
            institution=institution,
            transaction_uid=transaction_uid,
            references_json=json.dumps(references),
            asked_at_s=now_s,
            due_at_s=now_s,
            tries=0,
        ).on_conflict_ignore().execute(self._db)
        return True

    def due(self, now_s: float, limit: int = 16) -> list[Commitment]:
        """Requests to look at now, those that have waited longest first."""
        query = (
            CommitmentRequest.select()
            .where(CommitmentRequest.due_at_s <= now_s)
            .order_by(CommitmentRequest.due_at_s, CommitmentRequest.id)
            .limit(limit)
        )
        return [_commitment(row) for row in query.dicts().execute(self._db)]

    def next_due_s(self) -> float | None:
        """When the next one is due; None if nothing waits."""
        found: float | None = CommitmentRequest.select(peewee.fn.MIN(CommitmentRequest.due_at_s)).scalar(
            self._db
        )
        return found

    def put_off(self, number: int, due_at_s: float, *, tried: bool) -> None:
        CommitmentRequest.update(due_at_s=due_at_s, tries=CommitmentRequest.tries + int(tried)).where(
            CommitmentRequest.id == number
        ).execute(self._db)

    def remove(self, number: int) -> None:
        CommitmentRequest.delete().where(CommitmentRequest.id == number).execute(self._db)


def _commitment(row: dict[str, object]) -> Commitment:
    references = json.loads(str(row["references_json"]))
    return Commitment(
        number=int(str(row["id"])),
        ae_title=str(row["ae_title"]),
        institution=str(row["institution"]),
        transaction_uid=str(row["transaction_uid"]),
        references=tuple(Reference(*pair) for pair in references),
        asked_at_s=float(str(row["asked_at_s"])),
        tries=int(str(row["tries"])),
    )
