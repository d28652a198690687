"""What one person asks for about a study and another one confirms; until then anybody of them takes it back.

Always true
-----------
- A row is a request that waits. It goes in the transaction that does what was asked, or when it is withdrawn; it counts
  no more once its time is over. What was asked, by whom and why stays on the audit record.
- Nobody confirms what they asked themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import peewee

from central.archive.errors import ErasureRefusedError
from central.database import Database, make_tables

LIFE_S: Final = 7 * 86400
"""So long a request waits: nothing is done for a reason that nobody remembers."""

_MIN_REASON_CHARACTERS: Final = 3
_MAX_REASON_CHARACTERS: Final = 500


class RequestRow(peewee.Model):
    """The columns of a table of requests. `asked_by_id` is an account's."""

    request_id = peewee.CharField(primary_key=True)
    study_instance_uid = peewee.TextField()
    institution = peewee.TextField()
    asked_by_id = peewee.TextField()
    asked_by = peewee.TextField()
    reason = peewee.TextField()
    asked_at_s = peewee.DoubleField()

    class Meta:
        indexes = ((("study_instance_uid", "institution"), True),)


@dataclass(frozen=True)
class Asked:
    """A request that waits. Times are seconds since 1970."""

    request_id: str
    study_instance_uid: str
    institution: str
    asked_by_id: str
    asked_by: str
    reason: str
    asked_at_s: float

    @property
    def until_s(self) -> float:
        return self.asked_at_s + LIFE_S


AskedT = TypeVar("AskedT", bound=Asked)


def check_reason(reason: str) -> str:
    """`reason`, without spaces around it, if it is one. ErasureRefusedError: it is none."""
    reason = reason.strip()
    if not _MIN_REASON_CHARACTERS <= len(reason) <= _MAX_REASON_CHARACTERS or not reason.isprintable():
        raise ErasureRefusedError(
            f"give a reason of {_MIN_REASON_CHARACTERS} to {_MAX_REASON_CHARACTERS} characters, on one line"
        )
    return reason


class Requests(Generic[AskedT]):
    """Requests in `db`; safe to call from many threads and processes.

    Parameters
    ----------
    table, made : the rows, made if they are missing, and what is told of one.
    clock : gives UTC seconds since 1970.
    """

    def __init__(
        self,
        db: Database,
        table: type[RequestRow],
        made: type[AskedT],
        clock: Callable[[], float] = time.time,
    ) -> None:
        make_tables(db, [table])
        self._db = db
        self._table = table
        self._made = made
        self._clock = clock

    def listed(self, institution: str | None = None) -> list[AskedT]:
        """What waits, the oldest first: all, or about studies of one institution."""
        return self._waiting(*([self._table.institution == institution] if institution else []))

    def get(self, request_id: str, institution: str | None = None) -> AskedT | None:
        return next((one for one in self.listed(institution) if one.request_id == request_id), None)

    def withdraw(self, request_id: str) -> bool:
        """False if there is no such request any more."""
        named = self._table.request_id == request_id
        return bool(self._table.delete().where(named).execute(self._db))

    def _require_unasked(self, study_instance_uid: str, institution: str) -> None:
        table = self._table
        if self._waiting(table.study_instance_uid == study_instance_uid, table.institution == institution):
            raise ErasureRefusedError("somebody has asked for this already: confirm it, or take it back")

    def _put(self, asked: AskedT, require: Callable[[], None]) -> AskedT:
        """Keep it, if `require`, in the same transaction, lets it be asked."""
        with self._db.writing():
            require()
            over = self._table.asked_at_s <= self._clock() - LIFE_S
            self._table.delete().where(over).execute(self._db)
            self._table.insert(**vars(asked)).execute(self._db)
        return asked

    def require_another(self, asked: AskedT, confirmed_by_id: str) -> None:
        """ErasureRefusedError: it is the same person's."""
        if asked.asked_by_id == confirmed_by_id:
            raise ErasureRefusedError("you asked for this yourself: somebody else confirms it")

    def _settle(self, asked: AskedT) -> None:
        """It waits no more, since it is done; in the transaction that does it."""
        if self.get(asked.request_id) is None or not self.withdraw(asked.request_id):
            raise ErasureRefusedError("the request was taken back, or its time is over")

    def _waiting(self, *conditions: peewee.Expression) -> list[AskedT]:
        still = self._table.asked_at_s > self._clock() - LIFE_S
        query = self._table.select().where(still, *conditions).order_by(self._table.asked_at_s)
        return [self._made(**row) for row in query.dicts().execute(self._db)]
