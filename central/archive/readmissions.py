"""Requests to take an erased study in again: what two people agreed on is undone by two, who asks and who confirms.

Always true: what `central.archive.second_person` says. A crash leaves the request with the word that the study was
erased, or neither.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from central.archive.erasure import Erasures
from central.archive.errors import ErasureRefusedError
from central.archive.second_person import Asked, RequestRow, Requests
from central.database import Database


class ReadmissionRequest(RequestRow):
    """Table ``readmission_request``."""

    class Meta:
        table_name = "readmission_request"


class Readmissions(Requests[Asked]):
    """Requests in `db`; safe to call from many threads and processes."""

    def __init__(self, db: Database, erasures: Erasures, clock: Callable[[], float] = time.time) -> None:
        super().__init__(db, ReadmissionRequest, Asked, clock)
        self._erasures = erasures

    def require_askable(self, study_instance_uid: str, institution: str) -> None:
        """ErasureRefusedError: no such study was erased, or it is asked for already."""
        erased = {(one.study_instance_uid, one.institution) for one in self._erasures.erased()}
        if (study_instance_uid, institution) not in erased:
            raise ErasureRefusedError("no such study was erased")
        self._require_unasked(study_instance_uid, institution)

    def ask(
        self, study_instance_uid: str, institution: str, *, asked_by_id: str, asked_by: str, reason: str
    ) -> Asked:
        """Ask. Raises as `require_askable`."""
        asked = Asked(
            uuid.uuid4().hex, study_instance_uid, institution, asked_by_id, asked_by, reason, self._clock()
        )
        return self._put(asked, lambda: self.require_askable(study_instance_uid, institution))

    def confirm(self, asked: Asked, confirmed_by_id: str) -> None:
        """Take images of the study in again.

        Raises
        ------
        ErasureRefusedError : as `require_another` and `Erasures.allow`, or it was withdrawn meanwhile.
        StorageError, OSError : objects that were erased could not leave the store; try again later.
        """

        def settle() -> None:
            self.require_another(asked, confirmed_by_id)
            self._settle(asked)

        self._erasures.allow(asked.study_instance_uid, institution=asked.institution, in_transaction=settle)
