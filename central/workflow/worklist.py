"""The worklist that central keeps for its boxes: put there by administrators or a RIS, fetched by each box.

Always true: a box is given items for itself and for everybody, never another box's; every change takes a new
version. Items long past are forgotten when new ones come: they are patients' data that nobody needs here any more.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import peewee

from central.database import Database, make_tables
from central.workflow.data_sets import Scheduled
from central.workflow.errors import WorklistFullError
from central.workflow.tables import MODELS, WorklistEntry, WorklistVersion
from contract.workflow import MAX_WORKLIST_BYTES, MAX_WORKLIST_ITEMS

MAX_ENTRIES: Final = 20_000
KEPT_DAYS: Final = 30
PAGE_ITEMS: Final = 200
DAYS_BEFORE: Final = 1  # yesterday's late examination is still to be done
_ONLY_ROW: Final = 1


@dataclass(frozen=True)
class Entry:
    """An item as it was given. `gateway_ids` is empty for every box."""

    item_id: str
    gateway_ids: tuple[str, ...]
    item: Mapping[str, Any]


class WorklistStore:
    """Over central's index database; makes its tables there if they are missing. Safe from any thread."""

    def __init__(self, db: Database) -> None:
        make_tables(db, MODELS)
        self._db = db
        WorklistVersion.insert(
            id=_ONLY_ROW, epoch=secrets.token_hex(8), version=0
        ).on_conflict_ignore().execute(db)

    def put(self, entry: Entry, scheduled: Scheduled, today: date) -> bool:
        """Add the item, or replace it; True if it is new.

        Raises
        ------
        WorklistFullError : there are `MAX_ENTRIES`, none of them over for long.
        """
        row = {
            "gateway_ids": json.dumps(list(entry.gateway_ids)),
            "study_instance_uid": scheduled.study_instance_uid,
            "scheduled_date": scheduled.scheduled_date,
            "scheduled_time": scheduled.scheduled_time,
            "item_json": json.dumps(entry.item, ensure_ascii=False),
            "data_set": scheduled.data_set,
        }
        with self._db.writing():
            WorklistEntry.delete().where(
                WorklistEntry.scheduled_date < _da(today - timedelta(days=KEPT_DAYS))
            ).execute(self._db)
            known = WorklistEntry.item_id == entry.item_id
            is_new = not WorklistEntry.update(**row).where(known).execute(self._db)
            if is_new:
                if WorklistEntry.select().count(self._db) >= MAX_ENTRIES:
                    raise WorklistFullError(f"the worklist has {MAX_ENTRIES} items: delete some first")
                WorklistEntry.insert(item_id=entry.item_id, **row).execute(self._db)
            self._changed()
        return is_new

    def remove(self, item_id: str) -> str | None:
        """Take an item out; the study it was for, or None if there is no such item."""
        with self._db.writing():
            known = WorklistEntry.item_id == item_id
            study: str | None = (
                WorklistEntry.select(WorklistEntry.study_instance_uid).where(known).scalar(self._db)
            )
            if study is None:
                return None
            WorklistEntry.delete().where(known).execute(self._db)
            self._changed()
        return study

    def entries(self, *, limit: int, after: tuple[str, str, str] = ("", "", "")) -> list[Entry]:
        """By start and id, beginning behind `after` (date, time, item id)."""
        place = peewee.Tuple(
            WorklistEntry.scheduled_date, WorklistEntry.scheduled_time, WorklistEntry.item_id
        )
        query = (
            WorklistEntry.select()
            .where(place > after)
            .order_by(WorklistEntry.scheduled_date, WorklistEntry.scheduled_time, WorklistEntry.item_id)
        )
        return [
            Entry(row["item_id"], tuple(json.loads(row["gateway_ids"])), json.loads(row["item_json"]))
            for row in query.limit(limit).dicts().execute(self._db)
        ]

    def version(self) -> str:
        """Names the state of the worklist; another one after every change."""
        row = next(iter(WorklistVersion.select().dicts().execute(self._db)))
        return f"{row['epoch']}.{row['version']}"

    def for_gateway(self, gateway_id: str, *, today: date, horizon_days: int) -> tuple[Sequence[bytes], bool]:
        """Data sets for one box from yesterday to the horizon, by their start; and whether some did not fit in."""
        first, last = today - timedelta(days=DAYS_BEFORE), today + timedelta(days=horizon_days)
        query = (
            WorklistEntry.select(WorklistEntry.gateway_ids, WorklistEntry.data_set)
            .where(WorklistEntry.scheduled_date.between(_da(first), _da(last)))
            .order_by(WorklistEntry.scheduled_date, WorklistEntry.scheduled_time, WorklistEntry.item_id)
        )
        items: list[bytes] = []
        total = 0
        for gateway_ids, data_set in query.tuples().execute(self._db):
            wanted = json.loads(gateway_ids)
            if wanted and gateway_id not in wanted:
                continue
            total += len(data_set)
            if len(items) == MAX_WORKLIST_ITEMS or total > MAX_WORKLIST_BYTES:
                return items, True
            items.append(bytes(data_set))
        return items, False

    def for_everybody(self, *, first_date: str, last_date: str) -> Iterator[bytes]:
        """Data sets that are for every box, of two days and between (``YYYYMMDD``; "" is open), by their start."""
        place: tuple[str, str, str] = ("", "", "")
        columns = (WorklistEntry.scheduled_date, WorklistEntry.scheduled_time, WorklistEntry.item_id)
        for_all = WorklistEntry.gateway_ids == json.dumps([])
        while True:
            query = (
                WorklistEntry.select(*columns, WorklistEntry.data_set)
                .where(for_all, WorklistEntry.scheduled_date >= first_date, peewee.Tuple(*columns) > place)
                .order_by(*columns)
                .limit(PAGE_ITEMS)
            )
            if last_date:
                query = query.where(WorklistEntry.scheduled_date <= last_date)
            page = list(query.tuples().execute(self._db))
            for day, clock, item_id, data_set in page:
                place = (day, clock, item_id)
                yield bytes(data_set)
            if len(page) < PAGE_ITEMS:
                return

    def _changed(self) -> None:
        WorklistVersion.update(version=WorklistVersion.version + 1).execute(self._db)


def _da(day: date) -> str:
    return day.strftime("%Y%m%d")
