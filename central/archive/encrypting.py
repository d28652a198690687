"""Encrypts what came before encryption was switched on, one object after the other.

Always true: an object is compared with its hash before its copy takes its place; the plain one goes an hour later, for
somebody may be reading it. What a crash leaves: a sealed copy that no row names, and a plain object that still stands.
"""

from __future__ import annotations

from typing import Final

from peewee import JOIN

from central.archive.errors import NoSuchObjectError
from central.archive.faults import FaultKind, Faults
from central.archive.object_names import SEALED, is_indexed
from central.archive.objects import ObjectStore
from central.archive.placing import Placing
from central.archive.sealing_sink import SealingSink
from central.archive.tables import Instance, SealedContent, Series, Study
from central.database import Database

_AT_ONCE: Final = 64


class Encrypting:
    """`step` until it says that nothing is left."""

    def __init__(self, db: Database, objects: ObjectStore, faults: Faults, placing: Placing) -> None:
        self._db = db
        self._objects = objects
        self._faults = faults
        self._placing = placing

    def step(self, after_id: int) -> tuple[int | None, int]:
        """Encrypt a few objects. Where to go on (None: that was the last), and how many were encrypted.

        Raises
        ------
        StorageError, OSError, peewee.PeeweeException : not now; what was done stays done.
        """
        query = (
            Instance.select(Instance.id, Instance.sha256, Study.study_instance_uid)
            .join(Series)
            .join(Study)
            .join_from(Instance, SealedContent, JOIN.LEFT_OUTER, on=SEALED)
            .where(SealedContent.sha256.is_null(), Instance.id > after_id)
            .order_by(Instance.id)
            .limit(_AT_ONCE)
        )
        rows = list(query.dicts().execute(self._db))
        done = sum(self._encrypted(row["sha256"], row["study_instance_uid"]) for row in rows)
        return (rows[-1]["id"] if rows else None), done

    def _encrypted(self, sha256: str, study_instance_uid: str) -> bool:
        with SealingSink(self._objects.new_object()) as sink:
            try:
                for piece in self._objects.read_through(sha256):
                    sink.write(piece)
            except NoSuchObjectError:
                self._faults.note(sha256, FaultKind.MISSING)
                return False
            stored = sink.commit()
        with self._db.writing():
            if stored.sha256 == sha256 and is_indexed(self._db, sha256):
                self._placing.replace(stored, study_instance_uid, sha256)
                return True
        self._objects.remove(stored.name)
        if stored.sha256 != sha256:
            self._faults.note(sha256, FaultKind.DAMAGED)
        return False
