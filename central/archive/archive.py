"""The open archive: its parts, made for each other, and what is done to all of it. Callers get the part that they use.

Objects lie in a store under names of their content; rows in the index say what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import peewee

from central.access.consent import make_consent_tables
from central.archive.comparison import Comparison
from central.archive.encrypting import Encrypting
from central.archive.erasure import Erasures
from central.archive.faults import Faults
from central.archive.object_files import ObjectFiles
from central.archive.object_names import is_indexed
from central.archive.objects import ObjectStore
from central.archive.opening import Opening
from central.archive.placing import Placing
from central.archive.postings import make_postings
from central.archive.reading import Reading
from central.archive.receiving import Receiving
from central.archive.refolding import fold_again
from central.archive.removal import Removal
from central.archive.renditions import Renditions, RenditionSpace
from central.archive.steps import read_again
from central.archive.study_keys import StudyKeys
from central.archive.tables import Instance, make_index
from central.archive.text_index import make_text_index
from central.archive.unsynced_files import UnsyncedFiles
from central.database import Database
from central.identity.storage_keys import StorageKeys


class Archive:
    """Open archive; one per process, safe to call from many threads.

    Attributes
    ----------
    receiving, reading : the archive as ways in see it, and as readers do.
    renditions : what is made from objects and kept.
    erasures : studies that are erased, or held so that they cannot be.
    removal : objects that no row names any more.
    faults : what is wrong with objects.
    """

    def __init__(
        self,
        objects: ObjectStore,
        db: Database,
        study_keys: StudyKeys,
        space: RenditionSpace,
        *,
        encrypts: bool,
    ) -> None:
        self._db = db
        self._objects = objects
        self._study_keys = study_keys
        self.faults = Faults(db)
        self.removal = Removal(db, objects, space.store)
        self.erasures = Erasures(db, self.removal)
        self._placing = Placing(db, self.faults, self.removal, study_keys)
        self.receiving = Receiving(
            db,
            objects,
            self._placing,
            self.erasures,
            self.removal,
            lambda: self.comparison(_free),
            encrypts=encrypts,
        )
        self.reading = Reading(db, Opening(db, objects, study_keys, self.faults))
        self.renditions = Renditions(db, space, study_keys, self.removal, encrypts=encrypts)

    @classmethod
    def open(
        cls,
        root: Path,
        db: Database,
        storage_keys: StorageKeys,
        objects: ObjectStore | None = None,
        renditions: RenditionSpace | None = None,
        *,
        encrypts: bool,
    ) -> Archive:
        """Open the archive whose index is in `db` and whose contents are in `objects`, or else under `root`/objects.

        Parameters
        ----------
        renditions : where what is made from contents is kept; None: under `root`/renditions.
        encrypts : what comes from now on is encrypted at rest; what lies there is read either way.

        Raises
        ------
        OSError : the folder cannot be made or read.
        KeyFileError : a key that objects need is missing or damaged.
        """
        with db.writing():
            older = make_index(db)
            if older.steps:
                read_again(db)
            if older.names:
                fold_again(db)
        make_consent_tables(db)  # which access writes, and every search looks into
        make_text_index(db)
        make_postings(db)
        study_keys = StudyKeys(db, storage_keys)
        study_keys.require_whole(make=encrypts)
        space = renditions or RenditionSpace(UnsyncedFiles.open(root / "renditions"))
        return cls(objects or ObjectFiles.open(root / "objects"), db, study_keys, space, encrypts=encrypts)

    def sweep(self) -> None:
        """End what a crash left half done. For the server alone: a command beside it would take what arrives."""
        self._objects.sweep(partial(is_indexed, self._db))
        self.renditions.sweep()

    def comparison(self, pay: Callable[[int], None]) -> Comparison:
        """What compares the store with the index, paid for by `pay`."""
        return Comparison(self._db, self._objects, self._study_keys, self.faults, pay)

    def encrypting(self) -> Encrypting:
        """What encrypts objects that came before `encrypts` was set."""
        return Encrypting(self._db, self._objects, self.faults, self._placing)

    def number_of_objects(self) -> int:
        """How many the index names."""
        return int(Instance.select(peewee.fn.COUNT(Instance.sha256.distinct())).scalar(self._db))


def _free(_bytes: int) -> None:
    """Costs nobody anything."""
