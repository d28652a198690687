"""In which procedure step a series was made, and what it was requested as: matching keys and answers of QIDO-RS
(PS3.18 tables 10.6.1-5 and 10.6.3-4).

Always true: a series says what its first instance said. It carries the Request Attributes Sequence (0040,0275) as it is
answered, and has a row for each item as it is searched: one item has to hold all keys (PS3.4 section C.2.2.2.6).
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import peewee

from central.archive.query import Condition, matches_text
from central.archive.tables import Instance, Metadata, Series, SeriesRequest
from central.database import Database, rows_of

_DATE, _TIME, _REQUESTS = "00400244", "00400245", "00400275"
_SCHEDULED_STEP, _REQUESTED_PROCEDURE = "00400009", "00401001"
TAGS: Final = (_DATE, _TIME, _REQUESTS)
_NAMES: Final = tuple(f'"{tag}":'.encode() for tag in TAGS)
_MOST_ITEMS: Final = 50  # a series is made for one or two
_MOST_CHARACTERS: Final = 64  # as long as any short string is that still means one
_AT_ONCE: Final = 500
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Steps:
    """Columns of a series; each request is a Scheduled Procedure Step ID and a Requested Procedure ID."""

    start_date: str = ""
    start_time: str = ""
    requests: tuple[tuple[str, str], ...] = ()

    @property
    def columns(self) -> dict[str, str]:
        return {
            "performed_procedure_step_start_date": self.start_date,
            "performed_procedure_step_start_time": self.start_time,
            "request_attributes": json.dumps([_item(*one) for one in self.requests], separators=(",", ":"))
            if self.requests
            else "",
        }

    def add_requests(self, db: Database, series_id: int) -> None:
        """Make the requests findable, in the caller's transaction."""
        for step, procedure in self.requests:
            SeriesRequest.insert(
                series=series_id, scheduled_procedure_step_id=step, requested_procedure_id=procedure
            ).execute(db)


def steps_in(metadata: bytes) -> Steps:
    """What an instance says of them in its DICOM JSON, compressed."""
    text = zlib.decompress(metadata)
    return steps_of(json.loads(text)) if any(name in text for name in _NAMES) else Steps()


def steps_of(said: Mapping[str, Any]) -> Steps:
    """What DICOM JSON says of them."""
    items = [one for one in said.get(_REQUESTS, {}).get("Value", ()) if isinstance(one, dict)]
    named = [(_value(one, _SCHEDULED_STEP), _value(one, _REQUESTED_PROCEDURE)) for one in items[:_MOST_ITEMS]]
    return Steps(
        _value(said, _DATE).replace(".", ""),
        _value(said, _TIME).replace(":", ""),
        tuple(dict.fromkeys(one for one in named if any(one))),
    )


def matches_request(scheduled_procedure_step_id: str, requested_procedure_id: str) -> Condition | None:
    """Whether a series has an item that holds both keys; None when they match everything."""
    keys = (
        matches_text(SeriesRequest.scheduled_procedure_step_id, scheduled_procedure_step_id),
        matches_text(SeriesRequest.requested_procedure_id, requested_procedure_id),
    )
    said = [key for key in keys if key is not None]
    if not said:
        return None
    found: peewee.Expression = Series.id.in_(SeriesRequest.select(SeriesRequest.series).where(*said))
    return found


def read_again(db: Database) -> None:
    """Fill in what series of an older version do not have, from the metadata that is kept. In a transaction."""
    count = Series.select().count(db)
    _log.info("event=reading-steps series=%d about_s=%d", count, count // 10_000)
    last = 0
    while True:
        firsts = (
            Instance.select(Instance.series, peewee.fn.MIN(Instance.id).alias("first"))
            .where(Instance.series > last, Instance.current)
            .group_by(Instance.series)
            .order_by(Instance.series)
            .limit(_AT_ONCE)
        )
        query = (
            Metadata.select(firsts.c.series_id, Metadata.dicom_json)
            .join(firsts, on=Metadata.instance == firsts.c.first)
            .order_by(firsts.c.series_id)
        )
        rows = rows_of(db, query)
        if not rows:
            return
        for series_id, metadata in rows:
            steps = steps_in(bytes(metadata))
            if steps != Steps():
                Series.update(**steps.columns).where(Series.id == series_id).execute(db)
                steps.add_requests(db, series_id)
        last = rows[-1][0]


def _item(step: str, procedure: str) -> dict[str, Any]:
    said = ((_SCHEDULED_STEP, step), (_REQUESTED_PROCEDURE, procedure))
    return {tag: {"vr": "SH", "Value": [text]} if text else {"vr": "SH"} for tag, text in said}


def _value(data_set: Mapping[str, Any], tag: str) -> str:
    """The first value as text; "" without one."""
    values = data_set.get(tag, {}).get("Value", ())
    text = str(values[0]) if values and isinstance(values[0], (str, int, float)) else ""
    return "".join(one for one in text if one.isprintable()).strip(" ")[:_MOST_CHARACTERS]
