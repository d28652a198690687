"""What counts once: remembered for as long as it would be good, and forgotten then.

What a crash leaves: whole rows; what was taken stays taken.
"""

from __future__ import annotations

from collections.abc import Callable

import peewee

from central.access.hashes import digest
from central.database import Database, make_tables


class TakenOnce(peewee.Model):
    """Table ``taken_once``. `ends_at_utc` is seconds since 1970."""

    what_sha256 = peewee.CharField(primary_key=True)
    ends_at_utc = peewee.BigIntegerField(index=True)

    class Meta:
        table_name = "taken_once"


class Once:
    """What was taken, in `db`; safe to call from every thread. `clock` gives UTC seconds since 1970."""

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock

    @classmethod
    def open(cls, db: Database, clock: Callable[[], float]) -> Once:
        """Make the table if it is missing."""
        make_tables(db, [TakenOnce])
        return cls(db, clock)

    def take(self, what: str, ends_at_utc: int) -> bool:
        """Whether `what`, which is good until then, is taken by this call and was not by one before."""
        row = {"what_sha256": digest(what), "ends_at_utc": ends_at_utc}
        with self._db.writing():
            ended = TakenOnce.ends_at_utc <= int(self._clock())
            TakenOnce.delete().where(ended).execute(self._db)
            if self.is_taken(what):
                return False
            TakenOnce.insert(row).execute(self._db)
        return True

    def is_taken(self, what: str) -> bool:
        """Whether `what` was taken; after its end nobody knows."""
        return bool(TakenOnce.select().where(TakenOnce.what_sha256 == digest(what)).count(self._db))
