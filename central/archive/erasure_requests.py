"""Requests to erase a study: one person asks, another one confirms, and until then anybody of them takes it back.

Always true, besides what `central.archive.second_person` says
--------------------------------------------------------------
- What is erased is what both saw: a study that has got or lost instances since is asked for anew.
- A legal hold that is set after the request counts.

What a crash leaves: the request with the study, or neither.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import peewee

from central.archive.erasure import Erasures, Hold
from central.archive.errors import ErasureRefusedError
from central.archive.second_person import Asked, RequestRow, Requests
from central.archive.tables import Instance, Series, Study
from central.database import Database


class ErasureRequest(RequestRow):
    """Table ``erasure_request``. `instances` is how many were there then."""

    instances = peewee.BigIntegerField()

    class Meta:
        table_name = "erasure_request"


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
class Waiting(Asked):
    """A request that waits, for so many `instances` to be erased."""

    instances: int


class ErasureRequests(Requests[Waiting]):
    """Requests in `db`; safe to call from many threads and processes."""

    def __init__(self, db: Database, erasures: Erasures, clock: Callable[[], float] = time.time) -> None:
        super().__init__(db, ErasureRequest, Waiting, clock)
        self._erasures = erasures

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
        self._require_unasked(study_instance_uid, institution)

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
            self._clock(),
            instances,
        )
        return self._put(asked, lambda: self.require_askable(study_instance_uid, institution, instances))

    def require_confirmable(self, asked: Waiting, confirmed_by_id: str, instances: int) -> None:
        """ErasureRefusedError: it is the same person's, or the study is held, gone or not as both saw it."""
        self.require_another(asked, confirmed_by_id)
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
            self._settle(asked)

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
