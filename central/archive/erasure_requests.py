"""Requests to erase a study: one person asks, another one confirms, and until then anybody of them takes it back.

Always true
-----------
- A row is a request that waits. It goes in the transaction that erases, or when it is withdrawn; it counts no more once
  its time is over. What was asked, by whom and why stays on the audit record.
- Nobody confirms what they asked themselves.
- What is erased is what both saw: a study that has got or lost instances since is asked for anew.
- A legal hold that is set after the request counts.

What a crash leaves: the request with the study, or neither.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import peewee

from central.archive.erasure import Erasures, Hold
from central.archive.errors import ErasureRefusedError
from central.archive.tables import Instance, Series, Study
from central.database import Database, make_tables

LIFE_S: Final = 7 * 86400
"""So long a request waits: a study is not erased for a reason that nobody remembers."""

_MIN_REASON_CHARACTERS: Final = 3
_MAX_REASON_CHARACTERS: Final = 500


class ErasureRequest(peewee.Model):
    """Table ``erasure_request``. `asked_by_id` is an account's; `instances` is how many were there then."""

    request_id = peewee.CharField(primary_key=True)
    study_instance_uid = peewee.TextField()
    institution = peewee.TextField()
    asked_by_id = peewee.TextField()
    asked_by = peewee.TextField()
    reason = peewee.TextField()
    instances = peewee.BigIntegerField()
    asked_at_s = peewee.DoubleField()

    class Meta:
        table_name = "erasure_request"
        indexes = ((("study_instance_uid", "institution"), True),)


@dataclass(frozen=True)
class Extent:
    """What erasing a study would take, without anything of its patient. `study_date` as in the index (DA); `instances`
    with every content that came under the same UID."""

    study_instance_uid: str
    institution: str
    study_date: str
    modalities: tuple[str, ...]
    series: int
    instances: int
    hold: Hold | None


@dataclass(frozen=True)
class Waiting:
    """A request that waits. Times are seconds since 1970."""

    request_id: str
    study_instance_uid: str
    institution: str
    asked_by_id: str
    asked_by: str
    reason: str
    instances: int
    asked_at_s: float

    @property
    def until_s(self) -> float:
        return self.asked_at_s + LIFE_S


def check_reason(reason: str) -> str:
    """`reason`, without spaces around it, if it is one. ErasureRefusedError: it is none."""
    reason = reason.strip()
    if not _MIN_REASON_CHARACTERS <= len(reason) <= _MAX_REASON_CHARACTERS or not reason.isprintable():
        raise ErasureRefusedError(
            f"give a reason of {_MIN_REASON_CHARACTERS} to {_MAX_REASON_CHARACTERS} characters, on one line"
        )
    return reason


class ErasureRequests:
    """Requests in `db`; safe to call from many threads and processes."""

    def __init__(self, db: Database, erasures: Erasures, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._erasures = erasures
        self._clock = clock

    @classmethod
    def open(
        cls, db: Database, erasures: Erasures, clock: Callable[[], float] = time.time
    ) -> ErasureRequests:
        """Make the table if it is missing. `clock` gives UTC seconds since 1970."""
        make_tables(db, [ErasureRequest])
        return cls(db, erasures, clock)

    def extent(self, study_instance_uid: str, institution: str) -> Extent | None:
        """What an institution has of the study; None if it has nothing of it."""
        # Every content, as erasing takes them: of one instance there may be several, of which the study counts one.
        contents = Instance.select(peewee.fn.COUNT(Instance.id)).where(
            Instance.series.in_(Series.select(Series.id).where(Series.study == Study.id))
        )
        query = Study.select(Study.study_date, Study.modalities, Study.number_of_series, contents).where(
            Study.study_instance_uid == study_instance_uid, Study.institution == institution
        )
        for study_date, modalities, series, instances in query.tuples().execute(self._db):
            return Extent(
                study_instance_uid,
                institution,
                study_date,
                tuple(filter(None, modalities.split("\\"))),
                series,
                instances,
                self._erasures.hold_of(study_instance_uid, institution),
            )
        return None

    def require_askable(self, study_instance_uid: str, institution: str, instances: int) -> None:
        """ErasureRefusedError: the study is not here, held, asked for already, or has not that many instances."""
        self._require_as_seen(study_instance_uid, institution, instances)
        if any(self._waiting(*_of(study_instance_uid, institution))):
            raise ErasureRefusedError("somebody has asked for this already: confirm it, or take it back")

    def ask(
        self,
        study_instance_uid: str,
        institution: str,
        *,
        instances: int,
        asked_by_id: str,
        asked_by: str,
        reason: str,
    ) -> Waiting:
        """Ask. Raises as `require_askable`."""
        asked = Waiting(
            uuid.uuid4().hex,
            study_instance_uid,
            institution,
            asked_by_id,
            asked_by,
            reason,
            instances,
            self._clock(),
        )
        with self._db.writing():
            self.require_askable(study_instance_uid, institution, instances)
            over = ErasureRequest.asked_at_s <= self._clock() - LIFE_S
            ErasureRequest.delete().where(over).execute(self._db)
            ErasureRequest.insert(**vars(asked)).execute(self._db)
        return asked

    def listed(self, institution: str | None = None) -> list[Waiting]:
        """What waits, the oldest first: all, or about studies of one institution."""
        return self._waiting(*([ErasureRequest.institution == institution] if institution else []))

    def get(self, request_id: str, institution: str | None = None) -> Waiting | None:
        return next((one for one in self.listed(institution) if one.request_id == request_id), None)

    def withdraw(self, request_id: str) -> bool:
        """False if there is no such request any more."""
        return bool(ErasureRequest.delete().where(ErasureRequest.request_id == request_id).execute(self._db))

    def require_confirmable(self, asked: Waiting, confirmed_by_id: str, instances: int) -> None:
        """ErasureRefusedError: it is the same person's, or the study is held, gone or not as both saw it."""
        if asked.asked_by_id == confirmed_by_id:
            raise ErasureRefusedError("you asked for this yourself: somebody else confirms it")
        if instances != asked.instances:
            raise ErasureRefusedError("this is not what was asked for: look at it again")
        self._require_as_seen(asked.study_instance_uid, asked.institution, asked.instances)

    def confirm(self, asked: Waiting, confirmed_by_id: str, confirmed_by: str, instances: int) -> int:
        """Erase what was asked for; how many contents it had. Its objects leave the store with `Removal.run`.

        Raises
        ------
        ErasureRefusedError : as `require_confirmable`, or it was withdrawn meanwhile; nothing is changed.
        """

        def settle() -> None:
            self.require_confirmable(asked, confirmed_by_id, instances)
            if self.get(asked.request_id) is None or not self.withdraw(asked.request_id):
                raise ErasureRefusedError("the request was taken back, or its time is over")

        return self._erasures.erase(
            asked.study_instance_uid,
            f"{asked.asked_by}, {confirmed_by}",
            institution=asked.institution,
            in_transaction=settle,
        )

    def _require_as_seen(self, study_instance_uid: str, institution: str, instances: int) -> None:
        self._erasures.require_free(study_instance_uid, institution)
        extent = self.extent(study_instance_uid, institution)
        if extent is None or extent.instances != instances:
            raise ErasureRefusedError(
                "the study has got or lost instances since it was looked at: look again, and ask anew"
            )

    def _waiting(self, *conditions: peewee.Expression) -> list[Waiting]:
        still = ErasureRequest.asked_at_s > self._clock() - LIFE_S
        query = ErasureRequest.select().where(still, *conditions).order_by(ErasureRequest.asked_at_s)
        return [Waiting(**row) for row in query.dicts().execute(self._db)]


def _of(study_instance_uid: str, institution: str) -> tuple[peewee.Expression, peewee.Expression]:
    return (
        ErasureRequest.study_instance_uid == study_instance_uid,
        ErasureRequest.institution == institution,
    )
