"""Which object stands for a content, when it comes for the first time and when it comes again.

Always true: an indexed content has one object, which is the one that its row names, however many institutions have it;
what came beside it and is not needed is doomed in the same transaction. A content that comes again takes the place of
one that is listed as damaged or lost; whoever takes it in has looked at that one first. So damage is mended by sending
the image once more, whether or not somebody has seen it.
"""

from __future__ import annotations

from central.archive.faults import Faults
from central.archive.objects import StoredObject
from central.archive.removal import Removal
from central.archive.study_keys import StudyKeys
from central.archive.tables import SealedContent
from central.database import Database, put


class Placing:
    """Everything here is inside the caller's transaction."""

    def __init__(self, db: Database, faults: Faults, removal: Removal, study_keys: StudyKeys) -> None:
        self._db = db
        self._faults = faults
        self._removal = removal
        self._study_keys = study_keys

    def place(self, stored: StoredObject, study_instance_uid: str, former: str | None) -> bool:
        """The object of a content that was just indexed, or was there already; whether it is needed.

        Parameters
        ----------
        former : what `name_of` said before: the object that the content had, be it as another institution's.
        """
        if former is None:
            self._take(stored, study_instance_uid)
        elif former == stored.name:  # the very same bytes under the same name: whole now, whatever it was
            self._faults.end([former])
        elif self._faults.is_unreadable(former):
            self.replace(stored, study_instance_uid, former)
        else:
            self._removal.doom([stored.name], at_once=stored.sealed is not None)
            return False
        return True

    def replace(self, stored: StoredObject, study_instance_uid: str, former: str) -> None:
        """Have the content's row name another object than `former`, which goes."""
        SealedContent.delete().where(SealedContent.sha256 == stored.sha256).execute(self._db)
        self._take(stored, study_instance_uid)
        self._faults.end([former])
        self._removal.doom([former], at_once=False)

    def _take(self, stored: StoredObject, study_instance_uid: str) -> None:
        self._removal.spare([stored.name])
        self._faults.end([stored.name])
        if stored.sealed is None:
            return
        wrapped = self._study_keys.wrap(study_instance_uid, stored.sha256, stored.size_bytes, stored.sealed)
        row = {
            "sha256": stored.sha256,
            "address": stored.sealed.address,
            "study_instance_uid": study_instance_uid,
            "wrapped_key": wrapped,
        }
        put(self._db, SealedContent, row)
