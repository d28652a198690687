"""Compares the object store with the index, a step at a time, both in the order of names.

Always true: nothing is condemned on one reading, since memory and cables err as well; nothing is removed or changed but
the list of faults. What was written a moment ago is not yet expected to have its row.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from central.archive.errors import NoSuchObjectError, StorageError
from central.archive.faults import FaultKind, Faults
from central.archive.object_names import before, indexed_after, is_doomed, is_indexed
from central.archive.objects import ObjectStore
from central.archive.study_keys import StudyKeys
from central.database import Database

FIRST: Final = ""
_END: Final = "g"  # behind every hexadecimal name
_BATCH: Final = 256
_ARRIVING_S: Final = 3600.0
_LEAST_CHARGE_BYTES: Final = 1 << 16  # opening an object costs as much as reading this
_DAMAGE_ERRNOS: Final = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})


@dataclass(frozen=True)
class Step:
    """`position` is where the next step begins; None: that was the last one. `found` were not listed before."""

    position: str | None
    objects: int
    bytes: int
    found: int


class Comparison:
    """Of one store with one index.

    Parameters
    ----------
    pay : called with the bytes that were read, before more is read; may wait, or raise to end the step.
    """

    def __init__(
        self,
        db: Database,
        objects: ObjectStore,
        study_keys: StudyKeys,
        faults: Faults,
        pay: Callable[[int], None],
    ) -> None:
        self._db = db
        self._objects = objects
        self._study_keys = study_keys
        self._faults = faults
        self._pay = pay
        self._bytes = 0

    def step(self, position: str) -> Step:
        """Compare the next few hundred names.

        Raises
        ------
        StoreUnavailableError, OSError, peewee.PeeweeException : not now; the same step may be taken again.
        """
        self._bytes = 0
        kept = {one.sha256: one.kept_at_s for one in islice(self._objects.kept(position), _BATCH)}
        rows = set(indexed_after(self._db, position, _BATCH))
        through = min(max(names) if len(names) == _BATCH else _END for names in (kept, rows))
        names = sorted(name for name in {*kept, *rows} if name <= through)
        found = sum(self._judge(name, name in rows, kept.get(name)) for name in names)
        gone = set(self._faults.between(position, through)).difference(names)
        self._faults.end(sorted(gone))  # which neither has any more
        return Step(None if through == _END else through, len(names), self._bytes, found)

    def again(self, sha256: str) -> bool:
        """Compare one object that is listed. True if it is off the list now. Raises as `step`."""
        nearest = next(self._objects.kept(before(sha256)), None)
        kept_at_s = nearest.kept_at_s if nearest is not None and nearest.sha256 == sha256 else None
        indexed = is_indexed(self._db, sha256)
        if kept_at_s is None and not indexed:
            self._faults.end([sha256])
            return True
        self._judge(sha256, indexed, kept_at_s)
        return not self._faults.between(before(sha256), sha256)

    def look(self, name: str) -> bool:
        """Compare one object that a row names, for somebody who waits; whether it was listed anew.

        Raises
        ------
        StorageError : it cannot be read just now.
        """
        try:
            return self._judge(name, True, None)
        except OSError as error:
            raise StorageError("an object cannot be read to be compared") from error

    def _judge(self, sha256: str, indexed: bool, kept_at_s: float | None) -> bool:
        """List the object or take it off; whether it was listed anew."""
        if indexed:
            # Two readings, before it is condemned.
            kind = self._compared(sha256) and self._compared(sha256)
            if kind is None and not self._study_keys.opens(sha256):
                kind = FaultKind.UNOPENABLE
        elif kept_at_s is not None and kept_at_s > time.time() - _ARRIVING_S:
            return False
        else:
            expected = is_indexed(self._db, sha256) or is_doomed(self._db, sha256)
            kind = None if expected else FaultKind.UNINDEXED
        if kind is None:
            self._faults.end([sha256])
            return False
        return self._faults.note(sha256, kind)

    def _compared(self, sha256: str) -> FaultKind | None:
        digest = hashlib.sha256()
        self._pay(_LEAST_CHARGE_BYTES)
        try:
            for piece in self._objects.read_through(sha256):
                digest.update(piece)
                self._bytes += len(piece)
                self._pay(len(piece))
        except NoSuchObjectError:
            return FaultKind.MISSING
        except OSError as error:
            if error.errno not in _DAMAGE_ERRNOS:
                raise
            return FaultKind.DAMAGED
        return None if digest.hexdigest() == sha256 else FaultKind.DAMAGED
