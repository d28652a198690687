"""Erasing a study for good, and holding one so that nobody can.

Always true
-----------
- A study under legal hold is not erased; that is looked at once more in the transaction that erases.
- That transaction takes the study's key, every row of it, and leaves a word that it was erased, all or nothing. From
  then on nothing opens its encrypted objects, searches and reads do not know it, and no image of it is taken in.
- Its objects leave the store after that; their names are doomed in the same transaction, so a crash forgets none.

What a crash leaves: the study whole, or erased with objects that the next run of `central.archive.removal` removes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from peewee import JOIN, fn

from central.archive.errors import ErasureRefusedError, StudyErasedError
from central.archive.object_names import NAME, SEALED
from central.archive.removal import Removal
from central.archive.tables import (
    ErasedStudy,
    Instance,
    LegalHold,
    Metadata,
    ObjectFault,
    SealedContent,
    Series,
    Study,
    StudyKey,
)
from central.database import Database

_TABLES: Final = (StudyKey, SealedContent, Metadata, Instance, Series, Study)
_AT_ONCE: Final = 500
ON_ITS_WAY_S: Final = 3600.0
"""So long an image may take from its file to its row: one that lost its file to an erasure must not get one."""


@dataclass(frozen=True)
class Hold:
    """A legal hold. `set_at_s` is seconds since 1970."""

    study_instance_uid: str
    set_by: str
    reason: str
    set_at_s: float


@dataclass(frozen=True)
class Erased:
    """What is left of a study: that it was erased."""

    study_instance_uid: str
    erased_by: str
    erased_at_s: float
    objects: int


class Erasures:
    """Safe to call from many threads and processes."""

    def __init__(self, db: Database, removal: Removal) -> None:
        self._db = db
        self._removal = removal

    def hold(self, study_instance_uid: str, set_by: str, reason: str) -> None:
        """Keep a study from being erased until `release`. ErasureRefusedError: it is not here, or is held."""
        with self._db.writing():
            self._require_here(study_instance_uid)
            if self._hold(study_instance_uid) is not None:
                raise ErasureRefusedError("the study is under legal hold already")
            LegalHold.insert(
                study_instance_uid=study_instance_uid, set_by=set_by, reason=reason, set_at_s=time.time()
            ).execute(self._db)

    def release(self, study_instance_uid: str) -> None:
        """End a hold. ErasureRefusedError: there is none."""
        if not LegalHold.delete().where(LegalHold.study_instance_uid == study_instance_uid).execute(self._db):
            raise ErasureRefusedError("the study is under no legal hold")

    def holds(self) -> list[Hold]:
        """Every hold, the oldest first."""
        rows = LegalHold.select().order_by(LegalHold.set_at_s).dicts().execute(self._db)
        return [Hold(**row) for row in rows]

    def erased(self) -> list[Erased]:
        """Every study that was erased and is not taken in again, the oldest first."""
        rows = ErasedStudy.select().order_by(ErasedStudy.erased_at_s).dicts().execute(self._db)
        return [Erased(**row) for row in rows]

    def erase(self, study_instance_uid: str, erased_by: str, announce: Callable[[int], None]) -> int:
        """Erase a study; how many objects it had. They leave the store with `Removal.run`.

        Parameters
        ----------
        announce : called with that number before anything is changed; what it raises keeps the study.

        Raises
        ------
        ErasureRefusedError : the study is not here, or under legal hold.
        """
        self._require_free(study_instance_uid)
        announce(len(self._names(study_instance_uid)))
        with self._db.erasing(_TABLES):
            self._require_free(study_instance_uid)
            contents = self._names(study_instance_uid)
            names = [name for both in contents.values() for name in sorted(both)]
            self._removal.doom(names, at_once=True)
            self._take_rows(study_instance_uid, names)
            ErasedStudy.insert(
                study_instance_uid=study_instance_uid,
                erased_by=erased_by,
                erased_at_s=time.time(),
                objects=len(contents),
            ).execute(self._db)
        return len(contents)

    def allow(self, study_instance_uid: str) -> None:
        """Take images of an erased study in again.

        Raises
        ------
        ErasureRefusedError : it is none; or its objects, or images that were on their way then, may be around still.
        """
        self._removal.run()
        with self._db.writing():
            for erased in self.erased():
                free_at_s = erased.erased_at_s + ON_ITS_WAY_S
                if erased.study_instance_uid == study_instance_uid and time.time() < free_at_s:
                    raise ErasureRefusedError(
                        "the study was erased a moment ago, and images of it may be on their way still: try again in "
                        f"{(free_at_s - time.time()) / 60:.0f} minutes"
                    )
            if self._removal.is_at_it():
                raise ErasureRefusedError("erased objects are still in the store: try again when it answers")
            named = ErasedStudy.study_instance_uid == study_instance_uid
            if not ErasedStudy.delete().where(named).execute(self._db):
                raise ErasureRefusedError("no such study was erased")

    def refuse_erased(self, studies: Sequence[str]) -> None:
        """Raise `StudyErasedError` if one of these was erased. Inside the transaction that would index it."""
        named = ErasedStudy.study_instance_uid.in_(sorted(set(studies)))
        for (uid,) in (
            ErasedStudy.select(ErasedStudy.study_instance_uid).where(named).tuples().execute(self._db)
        ):
            raise StudyErasedError(uid)

    def _require_free(self, study_instance_uid: str) -> None:
        self._require_here(study_instance_uid)
        if (hold := self._hold(study_instance_uid)) is not None:
            raise ErasureRefusedError(f"the study is under legal hold, set by {hold.set_by}: {hold.reason}")

    def _require_here(self, study_instance_uid: str) -> None:
        if not Study.select(fn.COUNT(Study.id)).where(_is(study_instance_uid)).scalar(self._db):
            raise ErasureRefusedError("there is no such study")

    def _hold(self, study_instance_uid: str) -> Hold | None:
        query = LegalHold.select().where(LegalHold.study_instance_uid == study_instance_uid)
        return next((Hold(**row) for row in query.dicts().execute(self._db)), None)

    def _names(self, study_instance_uid: str) -> dict[str, set[str]]:
        """The names of the study's contents in the store, by content. One that was encrypted may lie plain as well."""
        query = (
            Instance.select(Instance.sha256, NAME)
            .join(SealedContent, JOIN.LEFT_OUTER, on=SEALED)
            .join_from(Instance, Series)
            .join(Study)
            .where(_is(study_instance_uid))
        )
        return {sha256: {sha256, name} for sha256, name in query.tuples().execute(self._db)}

    def _take_rows(self, study_instance_uid: str, names: Sequence[str]) -> None:
        """The key first: nothing after it needs it."""
        db = self._db
        StudyKey.delete().where(StudyKey.study_instance_uid == study_instance_uid).execute(db)
        SealedContent.delete().where(SealedContent.study_instance_uid == study_instance_uid).execute(db)
        series = Series.select(Series.id).join(Study).where(_is(study_instance_uid))
        instances = Instance.select(Instance.id).where(Instance.series.in_(series))
        Metadata.delete().where(Metadata.instance.in_(instances)).execute(db)
        Instance.delete().where(Instance.series.in_(series)).execute(db)
        Series.delete().where(
            Series.study.in_(Study.select(Study.id).where(_is(study_instance_uid)))
        ).execute(db)
        Study.delete().where(_is(study_instance_uid)).execute(db)
        for at in range(0, len(names), _AT_ONCE):
            ObjectFault.delete().where(ObjectFault.sha256.in_(names[at : at + _AT_ONCE])).execute(db)


def _is(study_instance_uid: str) -> Any:
    return Study.study_instance_uid == study_instance_uid
