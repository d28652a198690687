"""Requests to take an erased study in again: what two people agreed on is undone by two, who asks and who confirms.

Always true
-----------
- A row is a request that waits. It goes in the transaction that takes the study's word away, or when it is withdrawn;
  it counts no more once its time is over. What was asked, by whom and why stays on the audit record.
- Nobody confirms what they asked themselves.

What a crash leaves: the request with the word that the study was erased, or neither.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import peewee

from central.archive.erasure import Erasures
from central.archive.erasure_requests import LIFE_S
from central.archive.errors import ErasureRefusedError
from central.database import Database, make_tables


class ReadmissionRequest(peewee.Model):
    """Table ``readmission_request``. `asked_by_id` is an account's."""

    request_id = peewee.CharField(primary_key=True)
    study_instance_uid = peewee.TextField()
    institution = peewee.TextField()
    asked_by_id = peewee.TextField()
    asked_by = peewee.TextField()
    reason = peewee.TextField()
    asked_at_s = peewee.DoubleField()

    class Meta:
        table_name = "readmission_request"
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


class Readmissions:
    """Requests in `db`; safe to call from many threads and processes."""

    def __init__(self, db: Database, erasures: Erasures, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._erasures = erasures
        self._clock = clock

    @classmethod
    def open(cls, db: Database, erasures: Erasures, clock: Callable[[], float] = time.time) -> Readmissions:
        """Make the table if it is missing. `clock` gives UTC seconds since 1970."""
        make_tables(db, [ReadmissionRequest])
        return cls(db, erasures, clock)

    def require_askable(self, study_instance_uid: str, institution: str) -> None:
        """ErasureRefusedError: no such study was erased, or it is asked for already."""
        erased = {(one.study_instance_uid, one.institution) for one in self._erasures.erased()}
        if (study_instance_uid, institution) not in erased:
            raise ErasureRefusedError("no such study was erased")
        named = (ReadmissionRequest.study_instance_uid == study_instance_uid) & (
            ReadmissionRequest.institution == institution
        )
        if any(self._waiting(named)):
            raise ErasureRefusedError("somebody has asked for this already: confirm it, or take it back")

    def ask(
        self, study_instance_uid: str, institution: str, *, asked_by_id: str, asked_by: str, reason: str
    ) -> Asked:
        """Ask. Raises as `require_askable`."""
        asked = Asked(
            uuid.uuid4().hex, study_instance_uid, institution, asked_by_id, asked_by, reason, self._clock()
        )
        with self._db.writing():
            self.require_askable(study_instance_uid, institution)
            over = ReadmissionRequest.asked_at_s <= self._clock() - LIFE_S
            ReadmissionRequest.delete().where(over).execute(self._db)
            ReadmissionRequest.insert(**vars(asked)).execute(self._db)
        return asked

    def listed(self, institution: str | None = None) -> list[Asked]:
        """What waits, the oldest first: all, or about studies of one institution."""
        return self._waiting(*([ReadmissionRequest.institution == institution] if institution else []))

    def get(self, request_id: str, institution: str | None = None) -> Asked | None:
        return next((one for one in self.listed(institution) if one.request_id == request_id), None)

    def withdraw(self, request_id: str) -> bool:
        """False if there is no such request any more."""
        named = ReadmissionRequest.request_id == request_id
        return bool(ReadmissionRequest.delete().where(named).execute(self._db))

    def require_confirmable(self, asked: Asked, confirmed_by_id: str) -> None:
        """ErasureRefusedError: it is the same person's."""
        if asked.asked_by_id == confirmed_by_id:
            raise ErasureRefusedError("you asked for this yourself: somebody else confirms it")

    def confirm(self, asked: Asked, confirmed_by_id: str) -> None:
        """Take images of the study in again.

        Raises
        ------
        ErasureRefusedError : as `require_confirmable` and `Erasures.allow`, or it was withdrawn meanwhile.
        StorageError, OSError : objects that were erased could not leave the store; try again later.
        """

        def settle() -> None:
            self.require_confirmable(asked, confirmed_by_id)
            if self.get(asked.request_id) is None or not self.withdraw(asked.request_id):
                raise ErasureRefusedError("the request was taken back, or its time is over")

        self._erasures.allow(asked.study_instance_uid, institution=asked.institution, in_transaction=settle)

    def _waiting(self, *conditions: peewee.Expression) -> list[Asked]:
        still = ReadmissionRequest.asked_at_s > self._clock() - LIFE_S
        query = ReadmissionRequest.select().where(still, *conditions).order_by(ReadmissionRequest.asked_at_s)
        return [Asked(**row) for row in query.dicts().execute(self._db)]
