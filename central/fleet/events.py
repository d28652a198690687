"""What happened at the boxes: each event once, in order, the last `KEPT` of a box.

Always true: an event is on disk before central says that it heard it; one that came before is absorbed; one whose
predecessor is missing is not taken, so the box says both again. What a crash leaves: whole events, and a box that
says again what was not answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import peewee

from central.database import Database, make_tables, put
from contract.command import EventMark
from contract.heartbeat import Event

KEPT: Final = 500
_STREAMS: Final = 8  # of a box that lost its outbox again and again


class BoxEvent(peewee.Model):
    """One event. `at_utc` by the box's clock, `heard_at_utc` by central's."""

    sequence = peewee.AutoField()
    gateway_id = peewee.TextField()
    stream = peewee.TextField()
    number = peewee.IntegerField()
    kind = peewee.TextField()
    detail = peewee.TextField()
    at_utc = peewee.TextField()
    heard_at_utc = peewee.TextField()

    class Meta:
        table_name = "box_event"
        indexes = ((("gateway_id", "stream", "number"), True), (("gateway_id", "sequence"), False))


class BoxEventMark(peewee.Model):
    """How far each stream of a box was heard."""

    gateway_id = peewee.TextField()
    stream = peewee.TextField()
    through = peewee.IntegerField()
    heard_at_utc = peewee.TextField()

    class Meta:
        table_name = "box_event_mark"
        primary_key = peewee.CompositeKey("gateway_id", "stream")


MODELS: Final = (BoxEvent, BoxEventMark)


@dataclass(frozen=True)
class HeardEvent:
    at_utc: datetime
    heard_at_utc: datetime
    kind: str
    detail: str


class Events:
    """The book of them. Safe to call from many threads."""

    def __init__(self, db: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._db = db
        self._clock = clock
        make_tables(db, MODELS)

    def keep(self, gateway_id: str, event: Event) -> tuple[EventMark, bool]:
        """Take an event in. What of its stream is kept now, and whether this event was new."""
        now = self._clock().isoformat()
        with self._db.writing():
            through = self._through(gateway_id, event.stream)
            is_next = event.number > through and event.after <= through
            if is_next:
                BoxEvent.insert(
                    gateway_id=gateway_id,
                    stream=event.stream,
                    number=event.number,
                    kind=event.kind,
                    detail=event.detail,
                    at_utc=event.at_utc.astimezone(UTC).isoformat(),
                    heard_at_utc=now,
                ).execute(self._db)
                mark = {"gateway_id": gateway_id, "stream": event.stream, "heard_at_utc": now}
                put(self._db, BoxEventMark, {**mark, "through": event.number})
                through = event.number
                self._forget_old(gateway_id)
        return EventMark(stream=event.stream, through=through), is_next

    def last(self, gateway_id: str, limit: int) -> list[HeardEvent]:
        """The newest first, as they were heard."""
        query = (
            BoxEvent.select()
            .where(BoxEvent.gateway_id == gateway_id)
            .order_by(BoxEvent.sequence.desc())
            .limit(limit)
        )
        return [
            HeardEvent(
                datetime.fromisoformat(row["at_utc"]),
                datetime.fromisoformat(row["heard_at_utc"]),
                row["kind"],
                row["detail"],
            )
            for row in query.dicts().execute(self._db)
        ]

    def _through(self, gateway_id: str, stream: str) -> int:
        query = BoxEventMark.select(BoxEventMark.through).where(
            (BoxEventMark.gateway_id == gateway_id) & (BoxEventMark.stream == stream)
        )
        row: dict[str, Any] | None = next(iter(query.dicts().execute(self._db)), None)
        return row["through"] if row else 0

    def _forget_old(self, gateway_id: str) -> None:
        for model, order, kept in (
            (BoxEvent, BoxEvent.sequence, KEPT),
            (BoxEventMark, BoxEventMark.heard_at_utc, _STREAMS),
        ):
            mine = model.gateway_id == gateway_id
            oldest = model.select(order).where(mine).order_by(order.desc()).offset(kept).limit(1)
            found: tuple[Any] | None = next(iter(oldest.tuples().execute(self._db)), None)
            if found is not None:
                model.delete().where(mine & (order <= found[0])).execute(self._db)
