"""The worklist that central keeps for its boxes: put there by administrators or a RIS, fetched by each box.

Always true: a box is given items of its institution, for itself and for everybody, never another box's; an item id is
an institution's own; every change takes a new
version. Items long past are forgotten when new ones come: they are patients' data that nobody needs here any more.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import reduce
from operator import or_
from typing import Any, Final

import peewee

from central.database import Database, Wildcard
from central.institution import DEFAULT_INSTITUTION
from central.workflow.data_sets import Scheduled
from central.workflow.errors import WorklistFullError
from central.workflow.tables import WorklistEntry, WorklistVersion, make_workflow_tables
from contract.workflow import MAX_WORKLIST_BYTES, MAX_WORKLIST_ITEMS

MAX_ENTRIES: Final = 20_000
KEPT_DAYS: Final = 30
PAGE_ITEMS: Final = 200
DAYS_BEFORE: Final = 1  # yesterday's late examination is still to be done
_ONLY_ROW: Final = 1


@dataclass(frozen=True)
class Entry:
    """An item as it was given. `gateway_ids` is empty for every box of the institution; `order_id` is of the order that
    it came with, "" without one."""

    item_id: str
    gateway_ids: tuple[str, ...]
    item: Mapping[str, Any]
    institution: str = DEFAULT_INSTITUTION
    order_id: str = ""


class WorklistStore:
    """Over central's index database; makes its tables there if they are missing. Safe from any thread."""

    def __init__(self, db: Database) -> None:
        make_workflow_tables(db)
        self._db = db
        WorklistVersion.insert(
            id=_ONLY_ROW, epoch=secrets.token_hex(8), version=0
        ).on_conflict_ignore().execute(db)

    def put(self, entry: Entry, scheduled: Scheduled, today: date) -> bool:
        """Add the item, or replace it; True if it is new.

        Raises
        ------
        WorklistFullError : the institution has `MAX_ENTRIES`, none of them over for long.
        """
        row = {
            "gateway_ids": json.dumps(list(entry.gateway_ids)),
            "study_instance_uid": scheduled.study_instance_uid,
            "scheduled_date": scheduled.scheduled_date,
            "scheduled_time": scheduled.scheduled_time,
            "item_json": json.dumps(entry.item, ensure_ascii=False),
            "data_set": scheduled.data_set,
            "institution": entry.institution,
            "order_id": entry.order_id,
        }
        key = _key(entry.institution, entry.item_id)
        with self._db.writing():
            WorklistEntry.delete().where(
                WorklistEntry.scheduled_date < _da(today - timedelta(days=KEPT_DAYS))
            ).execute(self._db)
            known = WorklistEntry.item_id == key
            is_new = not WorklistEntry.update(**row).where(known).execute(self._db)
            if is_new:
                theirs = WorklistEntry.institution == entry.institution
                if WorklistEntry.select().where(theirs).count(self._db) >= MAX_ENTRIES:
                    raise WorklistFullError(f"the worklist has {MAX_ENTRIES} items: delete some first")
                WorklistEntry.insert(item_id=key, **row).execute(self._db)
            self._changed()
        return is_new

    def remove(self, item_id: str, institution: str = DEFAULT_INSTITUTION) -> str | None:
        """Take an item out; the study it was for, or None if there is no such item."""
        with self._db.writing():
            known = WorklistEntry.item_id == _key(institution, item_id)
            study: str | None = (
                WorklistEntry.select(WorklistEntry.study_instance_uid).where(known).scalar(self._db)
            )
            if study is None:
                return None
            WorklistEntry.delete().where(known).execute(self._db)
            self._changed()
        return study

    def remove_order(self, order_id: str, institution: str = DEFAULT_INSTITUTION) -> None:
        """Take out all items that came with an order."""
        with self._db.writing():
            its = (WorklistEntry.order_id == order_id) & (WorklistEntry.institution == institution)
            if WorklistEntry.delete().where(its).execute(self._db):
                self._changed()

    def entries(
        self,
        *,
        limit: int,
        after: tuple[str, str, str] = ("", "", ""),
        institution: str = DEFAULT_INSTITUTION,
        gateway_ids: Sequence[str] | None = None,
        day: str = "",
    ) -> list[Entry]:
        """An institution's, by start and id, beginning behind `after` (date, time, item id).

        Parameters
        ----------
        gateway_ids : only what is for one of these boxes, or for every box; None: whatever it is for.
        day : only what is scheduled then, ``YYYYMMDD``.
        """
        columns = (WorklistEntry.scheduled_date, WorklistEntry.scheduled_time, WorklistEntry.item_id)
        place = (after[0], after[1], _key(institution, after[2]) if after[2] else "")
        query = (
            WorklistEntry.select()
            .where(peewee.Tuple(*columns) > place, WorklistEntry.institution == institution)
            .order_by(*columns)
        )
        if gateway_ids is not None:
            wanted = [Wildcard(WorklistEntry.gateway_ids, f'*"{gateway_id}"*') for gateway_id in gateway_ids]
            query = query.where(reduce(or_, wanted, WorklistEntry.gateway_ids == json.dumps([])))
        if day:
            query = query.where(WorklistEntry.scheduled_date == day)
        return [
            Entry(
                row["item_id"].rpartition("/")[2],
                tuple(json.loads(row["gateway_ids"])),
                json.loads(row["item_json"]),
                row["institution"],
                row["order_id"],
            )
            for row in query.limit(limit).dicts().execute(self._db)
        ]

    def version(self) -> str:
        """Names the state of the worklist; another one after every change."""
        row = next(iter(WorklistVersion.select().dicts().execute(self._db)))
        return f"{row['epoch']}.{row['version']}"

    def for_gateway(
        self,
        gateway_id: str,
        *,
        today: date,
        horizon_days: int,
        institution: str = DEFAULT_INSTITUTION,
    ) -> tuple[Sequence[bytes], bool]:
        """Data sets for one box of `institution` from yesterday to the horizon, by their start; and whether some did
        not fit in."""
        first, last = today - timedelta(days=DAYS_BEFORE), today + timedelta(days=horizon_days)
        query = (
            WorklistEntry.select(WorklistEntry.gateway_ids, WorklistEntry.data_set)
            .where(
                WorklistEntry.scheduled_date.between(_da(first), _da(last)),
                WorklistEntry.institution == institution,
            )
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

    def for_everybody(
        self, *, first_date: str, last_date: str, institution: str = DEFAULT_INSTITUTION
    ) -> Iterator[bytes]:
        """Data sets that are for every box of `institution`, of two days and between (``YYYYMMDD``; "" is open), by
        their start."""
        place: tuple[str, str, str] = ("", "", "")
        columns = (WorklistEntry.scheduled_date, WorklistEntry.scheduled_time, WorklistEntry.item_id)
        for_all = WorklistEntry.gateway_ids == json.dumps([])
        theirs = WorklistEntry.institution == institution
        while True:
            query = (
                WorklistEntry.select(*columns, WorklistEntry.data_set)
                .where(
                    for_all,
                    theirs,
                    WorklistEntry.scheduled_date >= first_date,
                    peewee.Tuple(*columns) > place,
                )
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


def _key(institution: str, item_id: str) -> str:
    """What names an item among those of all institutions: no item id of a sender has a slash."""
    return item_id if institution == DEFAULT_INSTITUTION else f"{institution}/{item_id}"


def _da(day: date) -> str:
    return day.strftime("%Y%m%d")
