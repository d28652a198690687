"""Objects that no row names any more, and their way out of the store; renditions of them as well.

Always true: a name is doomed in the transaction that takes its last row away, so a crash forgets no object; and what
a row names is never removed, whoever doomed it. A plain object that came a moment ago is left: the same content may be
on its way into the index once more.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Final

import peewee

from central.archive.errors import StorageError
from central.archive.object_names import before, is_indexed
from central.archive.objects import ObjectStore
from central.archive.tables import DoomedObject
from central.database import Database, put
from central.prepared import Prepared, given

READ_STILL_S: Final = 3600.0
"""So long an object stays that somebody may be reading, or writing once more."""

_DOOMED: Final = Prepared(
    DoomedObject.select(DoomedObject.sha256).where(DoomedObject.sha256 == given("name"))
)
_AT_ONCE: Final = 256
_UNDER_LOCK: Final = 16  # others wait meanwhile


class Removal:
    """Of one store, and of the one beside it that has the renditions: a name is of one of them alone.

    Safe to call from many threads and processes.
    """

    def __init__(self, db: Database, objects: ObjectStore, renditions: ObjectStore) -> None:
        self._db = db
        self._objects = objects
        self._renditions = renditions

    def doom(self, names: Sequence[str], *, at_once: bool) -> None:
        """Have objects removed, at once or after `READ_STILL_S`. Inside the caller's transaction."""
        due_at_s = 0.0 if at_once else time.time() + READ_STILL_S
        for name in names:
            put(self._db, DoomedObject, {"sha256": name, "due_at_s": due_at_s})

    def spare(self, names: Sequence[str]) -> None:
        """Rows name these objects again. Inside the caller's transaction."""
        if any(_DOOMED.first(self._db, name=name) for name in names):  # seldom: nothing is written else
            DoomedObject.delete().where(DoomedObject.sha256.in_(list(names))).execute(self._db)

    def run(self) -> int:
        """Remove what is due; how many are left for later.

        Raises
        ------
        StoreUnavailableError, peewee.PeeweeException : not now; nothing is forgotten.
        """
        while True:
            due = DoomedObject.select().where(DoomedObject.due_at_s <= time.time()).limit(_AT_ONCE)
            rows = list(due.dicts().execute(self._db))
            at_once = [row["sha256"] for row in rows if row["due_at_s"] == 0.0]
            for at in range(0, len(at_once), _UNDER_LOCK):
                # A plain one may be on its way into the index for another institution: no row comes in between.
                with self._db.writing():
                    self._remove_now(at_once[at : at + _UNDER_LOCK])
            for row in rows:
                if row["due_at_s"] != 0.0:
                    self._remove_later(row["sha256"])
            if not rows:
                return int(DoomedObject.select(peewee.fn.COUNT(DoomedObject.sha256)).scalar(self._db))

    def is_in_store(self, name: str) -> bool:
        """Whether the store has this object. StoreUnavailableError: it does not say."""
        nearest = next(self._objects.kept(before(name)), None)
        return nearest is not None and nearest.sha256 == name

    def hurry(self, names: Sequence[str]) -> None:
        """Remove those of `names` that are to go at once: encrypted ones, whose names nothing else can get. What the
        store cannot do now, `run` does later."""
        if not names:
            return
        now = DoomedObject.sha256.in_(list(names)) & (DoomedObject.due_at_s == 0.0)
        with contextlib.suppress(StorageError, OSError, peewee.PeeweeException):
            self._remove_now([row.sha256 for row in DoomedObject.select().where(now).execute(self._db)])

    def is_at_it(self) -> bool:
        """Whether objects that should have gone at once are still there."""
        return bool(
            list(DoomedObject.select().where(DoomedObject.due_at_s == 0.0).limit(1).execute(self._db))
        )

    def _remove_now(self, names: Sequence[str]) -> None:
        for name in names:
            if not is_indexed(self._db, name):
                self._objects.remove(name)
                self._renditions.remove(name)
        DoomedObject.delete().where(DoomedObject.sha256.in_(list(names))).execute(self._db)

    def _remove_later(self, name: str) -> None:
        kept = next(self._objects.kept(before(name)), None)
        if kept is not None and kept.sha256 == name and kept.kept_at_s > time.time() - READ_STILL_S:
            put(self._db, DoomedObject, {"sha256": name, "due_at_s": kept.kept_at_s + READ_STILL_S})
            return
        with self._db.writing():  # so that no row comes in between
            if not is_indexed(self._db, name):
                self._objects.remove(name)
            DoomedObject.delete().where(DoomedObject.sha256 == name).execute(self._db)
