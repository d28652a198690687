"""Erasing a study for good, and holding one so that nobody can.

Always true
-----------
- A study under legal hold is not erased; that is looked at once more in the transaction that erases.
- That transaction takes the study's key, every row of it and of what was made from it, and leaves a word that it was
  erased, all or nothing. From then on nothing opens its encrypted objects, searches and reads do not know it, and no
  image of it is taken in.
- Its objects leave the store after that; their names are doomed in the same transaction, so a crash forgets none.
- It is one institution's study that is held or erased. Another one's under the same Study Instance UID stays whole:
  what both have is one object, which stays with its key until nobody has it.

What a crash leaves: the study whole, or erased with objects that the next run of `central.archive.removal` removes, and
perhaps with its words in SQLite's text index, which the next erasure overwrites.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from peewee import JOIN

from central.archive.errors import ErasureRefusedError, StoreUnavailableError, StudyErasedError
from central.archive.object_names import NAME, SEALED
from central.archive.objects import StoredObject
from central.archive.postings import Posting, forget
from central.archive.removal import Removal
from central.archive.tables import (
    ErasedStudy,
    Instance,
    LegalHold,
    Metadata,
    ObjectFault,
    Rendition,
    SealedContent,
    Series,
    SeriesRequest,
    Study,
    StudyKey,
)
from central.archive.text_index import purge_words
from central.database import Database
from central.institution import DEFAULT_INSTITUTION
from central.prepared import Prepared, given

_TABLES: Final = (
    StudyKey,
    SealedContent,
    Rendition,
    Metadata,
    Instance,
    SeriesRequest,
    Series,
    Study,
    Posting,
)
_ERASED_BY: Final = Prepared(
    ErasedStudy.select(ErasedStudy.institution).where(
        ErasedStudy.study_instance_uid == given("study_instance_uid")
    )
)
_AT_ONCE: Final = 500
ON_ITS_WAY_S: Final = 3600.0
"""So long an image may take from its file to its row: one that lost its file to an erasure must not get one."""


@dataclass(frozen=True)
class Hold:
    """A legal hold. `set_at_s` is seconds since 1970."""

    study_instance_uid: str
    institution: str
    set_by: str
    reason: str
    set_at_s: float


@dataclass(frozen=True)
class Erased:
    """What is left of an institution's study: that it was erased."""

    study_instance_uid: str
    institution: str
    erased_by: str
    erased_at_s: float
    objects: int


@dataclass(frozen=True)
class Incoming:
    """An object of a study that is about to be indexed for an institution."""

    study_instance_uid: str
    institution: str
    stored: StoredObject


class Erasures:
    """Of studies as one `institution` holds them. Safe to call from many threads and processes."""

    def __init__(self, db: Database, removal: Removal) -> None:
        self._db = db
        self._removal = removal

    def holders(self, study_instance_uid: str) -> list[str]:
        """The institutions that have this study."""
        query = Study.select(Study.institution).where(Study.study_instance_uid == study_instance_uid)
        return sorted(institution for (institution,) in query.tuples().execute(self._db))

    def hold(
        self, study_instance_uid: str, set_by: str, reason: str, *, institution: str = DEFAULT_INSTITUTION
    ) -> None:
        """Keep a study from being erased until `release`. ErasureRefusedError: it is not here, or is held."""
        with self._db.writing():
            self._require_here(study_instance_uid, institution)
            if self.hold_of(study_instance_uid, institution) is not None:
                raise ErasureRefusedError("the study is under legal hold already")
            LegalHold.insert(
                study_instance_uid=study_instance_uid,
                institution=institution,
                set_by=set_by,
                reason=reason,
                set_at_s=time.time(),
            ).execute(self._db)

    def release(self, study_instance_uid: str, *, institution: str = DEFAULT_INSTITUTION) -> None:
        """End a hold. ErasureRefusedError: there is none."""
        its = (LegalHold.study_instance_uid == study_instance_uid) & (LegalHold.institution == institution)
        if not LegalHold.delete().where(its).execute(self._db):
            raise ErasureRefusedError("the study is under no legal hold")

    def holds(self) -> list[Hold]:
        """Every hold, the oldest first."""
        rows = LegalHold.select().order_by(LegalHold.set_at_s).dicts().execute(self._db)
        return [Hold(**row) for row in rows]

    def erased(self) -> list[Erased]:
        """Every study that was erased and is not taken in again, the oldest first."""
        rows = ErasedStudy.select().order_by(ErasedStudy.erased_at_s).dicts().execute(self._db)
        return [Erased(**row) for row in rows]

    def hold_of(self, study_instance_uid: str, institution: str) -> Hold | None:
        """The hold of a study, if it is under one."""
        query = LegalHold.select().where(
            LegalHold.study_instance_uid == study_instance_uid, LegalHold.institution == institution
        )
        return next((Hold(**row) for row in query.dicts().execute(self._db)), None)

    def require_free(self, study_instance_uid: str, institution: str) -> None:
        """ErasureRefusedError: the study is not here, or under legal hold."""
        self._require_here(study_instance_uid, institution)
        if (hold := self.hold_of(study_instance_uid, institution)) is not None:
            raise ErasureRefusedError(f"the study is under legal hold, set by {hold.set_by}: {hold.reason}")

    def erase(
        self,
        study_instance_uid: str,
        erased_by: str,
        announce: Callable[[int], None] | None = None,
        *,
        institution: str = DEFAULT_INSTITUTION,
        in_transaction: Callable[[], None] | None = None,
    ) -> int:
        """Erase a study; how many contents it had. Objects that nobody else has leave the store with `Removal.run`.

        Parameters
        ----------
        announce : called with that number before anything is changed; what it raises keeps the study.
        in_transaction : called before anything is taken, for what must become true together with it; what it raises
            keeps the study as well.

        Raises
        ------
        ErasureRefusedError : the study is not here, or under legal hold.
        """
        self.require_free(study_instance_uid, institution)
        if announce is not None:
            announce(len(self._names(study_instance_uid, institution)))
        with self._db.erasing(_TABLES):
            self.require_free(study_instance_uid, institution)
            if in_transaction is not None:
                in_transaction()
            contents = self._names(study_instance_uid, institution)
            self._take_rows(study_instance_uid, institution)
            gone = self._nobodys(sorted(contents))
            names = [name for sha256 in gone for name in sorted(contents[sha256])]
            names += self._take_renditions(study_instance_uid)
            self._take_keys(study_instance_uid, gone)
            self._removal.doom(names, at_once=True)
            for some in _pieces(names):
                ObjectFault.delete().where(ObjectFault.sha256.in_(some)).execute(self._db)
            ErasedStudy.insert(
                study_instance_uid=study_instance_uid,
                institution=institution,
                erased_by=erased_by,
                erased_at_s=time.time(),
                objects=len(contents),
            ).execute(self._db)
        purge_words(self._db)
        return len(contents)

    def allow(
        self,
        study_instance_uid: str,
        *,
        institution: str = DEFAULT_INSTITUTION,
        in_transaction: Callable[[], None] | None = None,
    ) -> None:
        """Take images of an erased study in again. `in_transaction` is as with `erase`.

        Raises
        ------
        ErasureRefusedError : it is none; or its objects, or images that were on their way then, may be around still.
        """
        self._removal.run()
        with self._db.writing():
            if in_transaction is not None:
                in_transaction()
            for erased in self.erased():
                free_at_s = erased.erased_at_s + ON_ITS_WAY_S
                named = (erased.study_instance_uid, erased.institution) == (study_instance_uid, institution)
                if named and time.time() < free_at_s:
                    raise ErasureRefusedError(
                        "the study was erased a moment ago, and images of it may be on their way still: try again in "
                        f"{(free_at_s - time.time()) / 60:.0f} minutes"
                    )
            if self._removal.is_at_it():
                raise ErasureRefusedError("erased objects are still in the store: try again when it answers")
            its = (ErasedStudy.study_instance_uid == study_instance_uid) & (
                ErasedStudy.institution == institution
            )
            if not ErasedStudy.delete().where(its).execute(self._db):
                raise ErasureRefusedError("no such study was erased")

    def refuse_erased(self, objects: Sequence[Incoming]) -> None:
        """Let nothing in of what was erased. Inside the transaction that would index it.

        Raises
        ------
        StudyErasedError : one is of a study that its institution erased.
        StoreUnavailableError : another institution erased a study with this UID, and the object went with it before
            this one's row was written: sent again it is taken.
        """
        erased = {
            (uid, institution)
            for uid in {one.study_instance_uid for one in objects}
            for (institution,) in _ERASED_BY.tuples(self._db, study_instance_uid=uid)
        }
        if not erased:
            return
        uids = {uid for uid, _ in erased}
        for one in objects:
            if (one.study_instance_uid, one.institution) in erased:
                raise StudyErasedError(one.study_instance_uid)
            # A plain object has the same name whoever sends it; an encrypted one has a name of its own.
            shares_name = one.study_instance_uid in uids and one.stored.sealed is None
            if shares_name and not self._removal.is_in_store(one.stored.name):
                raise StoreUnavailableError("the object left the store as it came: send it again")

    def _require_here(self, study_instance_uid: str, institution: str) -> None:
        if institution not in self.holders(study_instance_uid):
            raise ErasureRefusedError("there is no such study")

    def _names(self, study_instance_uid: str, institution: str) -> dict[str, set[str]]:
        """The names of the study's contents in the store, by content. One that was encrypted may lie plain as well."""
        query = (
            Instance.select(Instance.sha256, NAME)
            .join(SealedContent, JOIN.LEFT_OUTER, on=SEALED)
            .join_from(Instance, Series)
            .join(Study)
            .where(_is(study_instance_uid, institution))
        )
        return {sha256: {sha256, name} for sha256, name in query.tuples().execute(self._db)}

    def _nobodys(self, contents: Sequence[str]) -> list[str]:
        """Those that no instance is left of, in any institution."""
        kept: set[str] = set()
        for some in _pieces(contents):
            query = Instance.select(Instance.sha256).where(Instance.sha256.in_(some))
            kept.update(sha256 for (sha256,) in query.tuples().execute(self._db))
        return [sha256 for sha256 in contents if sha256 not in kept]

    def _take_rows(self, study_instance_uid: str, institution: str) -> None:
        db, its = self._db, _is(study_instance_uid, institution)
        series = Series.select(Series.id).join(Study).where(its)
        instances = Instance.select(Instance.id).where(Instance.series.in_(series))
        Metadata.delete().where(Metadata.instance.in_(instances)).execute(db)
        Instance.delete().where(Instance.series.in_(series)).execute(db)
        SeriesRequest.delete().where(SeriesRequest.series.in_(series)).execute(db)
        Series.delete().where(Series.study.in_(Study.select(Study.id).where(its))).execute(db)
        ids = [at for (at,) in Study.select(Study.id).where(its).tuples().execute(db)]
        Study.delete().where(its).execute(db)
        forget(db, ids)

    def _take_renditions(self, study_instance_uid: str) -> list[str]:
        """Those of every institution that has the study, since the others' are made again; their names."""
        its = Rendition.study_instance_uid == study_instance_uid
        query = Rendition.select(Rendition.address).where(its).distinct()
        names = [address for (address,) in query.tuples().execute(self._db)]
        Rendition.delete().where(its).execute(self._db)
        return names

    def _take_keys(self, study_instance_uid: str, contents: Sequence[str]) -> None:
        """The keys of these contents, and the study's unless another institution has images of the study."""
        for some in _pieces(contents):
            SealedContent.delete().where(SealedContent.sha256.in_(some)).execute(self._db)
        left = SealedContent.select(SealedContent.sha256).where(
            SealedContent.study_instance_uid == study_instance_uid
        )
        if not list(left.limit(1).execute(self._db)):
            StudyKey.delete().where(StudyKey.study_instance_uid == study_instance_uid).execute(self._db)


def _pieces(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(names), _AT_ONCE):
        yield names[at : at + _AT_ONCE]


def _is(study_instance_uid: str, institution: str) -> Any:
    return (Study.study_instance_uid == study_instance_uid) & (Study.institution == institution)
