"""Requests for Storage Commitment that are not done with: what was asked, what was decided, who must be told.

| step       | from              | to        | when                                                           |
|------------|-------------------|-----------|----------------------------------------------------------------|
| add        |                   | waiting   | before N-ACTION is answered with success                       |
| decide     | waiting           | decided   | every instance is safe as the policy wants it, or has a reason |
| retry      | decided           | decided   | the scanner could not be told; again later                     |
| reconsider | decided           | waiting   | an instance committed to is that safe no longer                |
| deliver    | decided           | delivered | the scanner answered the report                                |
| abandon    | decided           | abandoned | it could not be told for so long that nobody waits any more    |
| forget     | delivered, abandoned |        | the row has been kept as proof for long enough                 |

Always true: a request that was answered with success is reported on, through any number of restarts; a crash
between the scanner's answer and `deliver` makes the report come twice. Ages count the time this program has run,
not the wall clock: a box without a battery clock would else find everything overdue when it learns the time. A
crash loses at most `TICK_S` of an age. No patient data: UIDs, AE titles and addresses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple

from peewee import fn

from edge.buffer.commitment_rows import InstanceRow, RequestRow
from edge.buffer.errors import PermanentSpoolError, TransientSpoolError
from edge.buffer.service_database import ServiceDatabase
from edge.buffer.tables import utc_text

MAX_INSTANCES: Final = 10_000
"""In one request; a study of a modern CT has a few thousand."""
MAX_PENDING: Final = 512
MAX_PENDING_INSTANCES: Final = 250_000
"""Of all requests together: about 40 MB on the disk."""
TICK_S: Final = 600.0
_KEPT: Final = timedelta(days=7)
_ROWS_A_STATEMENT: Final = 500


class DuplicateTransactionError(PermanentSpoolError):
    """This scanner uses this Transaction UID for other instances already."""

    def __init__(self, transaction_uid: str) -> None:
        super().__init__(f"transaction {transaction_uid} is in use for other instances")


class TooManyPendingError(TransientSpoolError):
    """The bound on what may wait is reached."""

    def __init__(self) -> None:
        super().__init__(
            f"{MAX_PENDING} commitment requests, or {MAX_PENDING_INSTANCES} instances, wait already"
        )


class CommitmentState(StrEnum):
    WAITING = "waiting"
    DECIDED = "decided"
    DELIVERED = "delivered"
    ABANDONED = "abandoned"


PENDING = (CommitmentState.WAITING, CommitmentState.DECIDED)


class Reference(NamedTuple):
    """An instance as the scanner names it."""

    sop_class_uid: str
    sop_instance_uid: str


class Failure(NamedTuple):
    """An instance that is not committed to, and the Failure Reason (PS3.3 C.14.1.1)."""

    reference: Reference
    reason: int


@dataclass(frozen=True)
class Asker:
    """Who asked, and by which name it called this box: the report must come from that one."""

    calling_ae_title: str
    called_ae_title: str
    peer_address: str


@dataclass(frozen=True)
class Commitment:
    """One request.

    Attributes
    ----------
    number : ours; numbers are not used again.
    age_s : how long this program has run since it was asked.
    due_in_s : until the scanner is to be told, if it is decided; zero or less is now.
    """

    number: int
    transaction_uid: str
    asker: Asker
    state: CommitmentState
    instances: int
    age_s: float
    due_in_s: float
    attempts: int


# Ten thousand at a time, which peewee's own updates take seconds for, with everybody else waiting.
_FAIL = "UPDATE commitment_instances SET failure_reason = ? WHERE request_id = ? AND position = ?"


class CommitmentStore:
    """Safe from any thread. One of them at a time may `decide`; the rest may run beside each other."""

    def __init__(self, database: ServiceDatabase, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._ticked_s = clock()
        database.declare([RequestRow, InstanceRow])
        with self._changing() as db:
            RequestRow.update(due_s=0.0).where(RequestRow.due_s != 0.0).execute(db)

    def add(self, transaction_uid: str, asker: Asker, references: Sequence[Reference]) -> int:
        """Keep a request; durable when this returns its number.

        The same request again, as after a lost answer, is the one that is here; if it was done with, its report
        is due again.

        Raises
        ------
        DuplicateTransactionError, TooManyPendingError
        """
        with self._changing() as db:
            known = self._find(asker.calling_ae_title, transaction_uid)
            if known is not None:
                return self._repeat(known, asker, references)
            self._check_room(len(references))
            number: int = RequestRow.insert(
                transaction_uid=transaction_uid,
                calling_ae_title=asker.calling_ae_title,
                called_ae_title=asker.called_ae_title,
                peer_address=asker.peer_address,
                state=CommitmentState.WAITING,
                instances=len(references),
                age_s=self._ticked_s - self._clock(),
                asked_at_utc=utc_text(datetime.now(UTC)),
            ).execute(db)
            for at in range(0, len(references), _ROWS_A_STATEMENT):
                rows = [
                    (number, at + offset, *reference)
                    for offset, reference in enumerate(references[at : at + _ROWS_A_STATEMENT])
                ]
                fields = [
                    InstanceRow.request,
                    InstanceRow.position,
                    InstanceRow.sop_class_uid,
                    InstanceRow.sop_instance_uid,
                ]
                InstanceRow.insert_many(rows, fields=fields).execute(db)
            return number

    def waiting(self) -> list[Commitment]:
        """Requests that are not decided, oldest first."""
        return self._select(RequestRow.state == CommitmentState.WAITING)

    def references(self, number: int, *, first: int, limit: int) -> list[Reference]:
        """Instances of a request from position `first` on."""
        with self._database.reading():
            rows = (
                InstanceRow.select(InstanceRow.sop_class_uid, InstanceRow.sop_instance_uid)
                .where(InstanceRow.request == number, InstanceRow.position >= first)
                .order_by(InstanceRow.position)
                .limit(limit)
                .tuples()
                .execute(self._database.db)
            )
            return [Reference(*row) for row in rows]

    def decide(self, number: int, failures: Mapping[int, int], *, due_in_s: float) -> None:
        """Settle a request: reasons by position for what fails, everything else is committed to."""
        with self._changing() as db:
            db.connection().executemany(
                _FAIL, [(reason, number, position) for position, reason in failures.items()]
            )
            RequestRow.update(state=CommitmentState.DECIDED, due_s=self._clock() + due_in_s).where(
                RequestRow.number == number, RequestRow.state == CommitmentState.WAITING
            ).execute(db)

    def decided(self) -> list[Commitment]:
        """Requests whose scanner is still to be told, oldest first."""
        return self._select(RequestRow.state == CommitmentState.DECIDED)

    def verdict(self, number: int) -> tuple[list[Reference], list[Failure]]:
        """What is committed to, and what is not."""
        with self._database.reading():
            rows = (
                InstanceRow.select(
                    InstanceRow.sop_class_uid, InstanceRow.sop_instance_uid, InstanceRow.failure_reason
                )
                .where(InstanceRow.request == number)
                .order_by(InstanceRow.position)
                .tuples()
                .execute(self._database.db)
            )
            committed: list[Reference] = []
            failures: list[Failure] = []
            for sop_class_uid, sop_instance_uid, reason in rows:
                reference = Reference(sop_class_uid, sop_instance_uid)
                if reason is None:
                    committed.append(reference)
                else:
                    failures.append(Failure(reference, reason))
            return committed, failures

    def reconsider(self, number: int) -> None:
        """What was decided is no longer true, and the scanner has not answered a report of it."""
        with self._changing() as db:
            changed: int = (
                RequestRow.update(state=CommitmentState.WAITING)
                .where(RequestRow.number == number, RequestRow.state == CommitmentState.DECIDED)
                .execute(db)
            )
            if changed:
                self._forget_reasons(number)

    def deliver(self, number: int) -> None:
        """The scanner took the report."""
        self._end(number, CommitmentState.DELIVERED, None)

    def abandon(self, number: int, *, error: str) -> None:
        """Nobody is told any more."""
        self._end(number, CommitmentState.ABANDONED, error)

    def retry(self, number: int, *, error: str, retry_in_s: float) -> None:
        with self._changing() as db:
            RequestRow.update(
                due_s=self._clock() + retry_in_s, attempts=RequestRow.attempts + 1, last_error=error
            ).where(RequestRow.number == number, RequestRow.state == CommitmentState.DECIDED).execute(db)

    def hurry(self, calling_ae_title: str) -> None:
        """This scanner can be reached: what is decided for it is due now."""
        with self._changing() as db:
            RequestRow.update(due_s=0.0).where(
                RequestRow.calling_ae_title == calling_ae_title,
                RequestRow.state == CommitmentState.DECIDED,
                RequestRow.attempts > 0,
            ).execute(db)

    def counts(self) -> dict[CommitmentState, int]:
        """Requests by state, zeros included."""
        with self._database.reading():
            rows = RequestRow.select(RequestRow.state, fn.COUNT()).group_by(RequestRow.state).tuples()
            found = {CommitmentState(state): count for state, count in rows.execute(self._database.db)}
        return {state: found.get(state, 0) for state in CommitmentState}

    def last_error(self) -> str:
        """Why the scanner that asked last of those still to be told was not; empty: none was tried in vain."""
        with self._database.reading():
            found = (
                RequestRow.select(RequestRow.last_error)
                .where(RequestRow.state == CommitmentState.DECIDED, RequestRow.last_error.is_null(False))
                .order_by(RequestRow.number.desc())
                .limit(1)
                .scalar(self._database.db)
            )
        return found or ""

    def tick(self) -> None:
        """Write the ages down if anything waits, and forget what ended long ago. To be called every `TICK_S`."""
        with self._changing() as db:
            now_s = self._clock()
            pending = RequestRow.state.in_(PENDING)
            RequestRow.update(age_s=RequestRow.age_s + (now_s - self._ticked_s)).where(pending).execute(db)
            self._ticked_s = now_s
            limit = utc_text(datetime.now(UTC) - _KEPT)
            RequestRow.delete().where(RequestRow.ended_at_utc < limit).execute(db)

    def _repeat(self, known: Commitment, asker: Asker, references: Sequence[Reference]) -> int:
        if self.references(known.number, first=0, limit=len(references) + 1) != list(references):
            raise DuplicateTransactionError(known.transaction_uid)
        changes: dict[str, Any] = {
            "called_ae_title": asker.called_ae_title,
            "peer_address": asker.peer_address,
        }
        if known.state not in PENDING:
            # Judged anew: what was missing then may be here now.
            changes |= {
                "state": CommitmentState.WAITING,
                "attempts": 0,
                "last_error": None,
                "ended_at_utc": None,
                "age_s": self._ticked_s - self._clock(),
            }
            self._forget_reasons(known.number)
        RequestRow.update(**changes).where(RequestRow.number == known.number).execute(self._database.db)
        return known.number

    def _forget_reasons(self, number: int) -> None:
        InstanceRow.update(failure_reason=None).where(InstanceRow.request == number).execute(
            self._database.db
        )

    def _check_room(self, instances: int) -> None:
        pending, held = (
            RequestRow.select(fn.COUNT(), fn.COALESCE(fn.SUM(RequestRow.instances), 0))
            .where(RequestRow.state.in_(PENDING))
            .tuples()
            .execute(self._database.db)[0]
        )
        if pending >= MAX_PENDING or held + instances > MAX_PENDING_INSTANCES:
            raise TooManyPendingError

    def _find(self, calling_ae_title: str, transaction_uid: str) -> Commitment | None:
        found = self._select(
            RequestRow.calling_ae_title == calling_ae_title, RequestRow.transaction_uid == transaction_uid
        )
        return found[0] if found else None

    def _select(self, *where: Any) -> list[Commitment]:
        with self._database.reading():
            rows = list(
                RequestRow.select()
                .where(*where)
                .order_by(RequestRow.number)
                .dicts()
                .execute(self._database.db)
            )
        now_s = self._clock()
        return [
            Commitment(
                number=row["number"],
                transaction_uid=row["transaction_uid"],
                asker=Asker(row["calling_ae_title"], row["called_ae_title"], row["peer_address"]),
                state=CommitmentState(row["state"]),
                instances=row["instances"],
                age_s=row["age_s"] + now_s - self._ticked_s,
                due_in_s=row["due_s"] - now_s,
                attempts=row["attempts"],
            )
            for row in rows
        ]

    def _end(self, number: int, state: CommitmentState, error: str | None) -> None:
        with self._changing() as db:
            RequestRow.update(state=state, ended_at_utc=utc_text(datetime.now(UTC)), last_error=error).where(
                RequestRow.number == number, RequestRow.state == CommitmentState.DECIDED
            ).execute(db)

    @contextmanager
    def _changing(self) -> Iterator[Any]:
        with self._database.transaction():
            yield self._database.db
