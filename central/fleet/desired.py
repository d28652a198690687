"""How administrators want the boxes set: one versioned set of values a box (contract.command.Desired).

Always true: versions of a box only go up, also past what the box itself has seen, so that a central restored from
yesterday's backup is still obeyed. Whether a value is within bounds is the box's to say: it reports what it refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import peewee

from central.database import Database, make_tables, put
from contract.command import Desired, SettingValue


class BoxDesired(peewee.Model):
    """The newest version for a box."""

    gateway_id = peewee.TextField(primary_key=True)
    version = peewee.IntegerField()
    settings = peewee.TextField()

    class Meta:
        table_name = "box_desired"


class DesiredSettings:
    """Safe to call from many threads."""

    def __init__(self, db: Database) -> None:
        self._db = db
        make_tables(db, [BoxDesired])

    def of(self, gateway_id: str) -> Desired | None:
        query = BoxDesired.select().where(BoxDesired.gateway_id == gateway_id)
        row: dict[str, Any] | None = next(iter(query.dicts().execute(self._db)), None)
        return Desired(version=row["version"], settings=json.loads(row["settings"])) if row else None

    def desire(self, gateway_id: str, settings: Mapping[str, SettingValue], *, box_version: int) -> Desired:
        """A new version with exactly these values; `box_version` is the newest the box has looked at."""
        with self._db.writing():
            known = self.of(gateway_id)
            version = max(known.version if known else 0, box_version) + 1
            desired = Desired(version=version, settings=dict(settings))
            row = {"gateway_id": gateway_id, "version": version, "settings": json.dumps(desired.settings)}
            put(self._db, BoxDesired, row)
        return desired
