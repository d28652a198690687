"""What the boxes said last, kept in the database so that the fleet page survives a restart.

Always true: a message counts only if it fits contract.heartbeat, and a last will only if no newer session is known;
what the broker keeps from before a box went over to HTTPS does not count over what the box has said there since.
Two runs of the program that speak in turns are two boxes with one identity: that is noticed here. What a crash
leaves: the last message of each topic.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import peewee

from central.database import Database, Wildcard, grow_table, make_tables, put
from contract.command import Reported
from contract.heartbeat import (
    EQUIPMENT,
    INFO,
    REPORTED,
    STATUS,
    TELEMETRY,
    TOPIC_ROOT,
    BoxState,
    Equipment,
    Info,
    Status,
    Telemetry,
)
from contract.identifiers import InvalidIdentifierError, check_gateway_id
from contract.witness import WITNESSED, Witnessed

MAX_EQUIPMENT: Final = 256  # scanners a box
_EQUIPMENT_TOPIC: Final = re.compile(re.escape(EQUIPMENT) + "[0-9a-f]{16}")
_RUNS: Final = 8
_TWIN_FOR: Final = timedelta(minutes=10)
_log = logging.getLogger(__name__)


class BoxMessage(peewee.Model):
    """The last message of a topic below a box's ``up/``; `heard_at_utc` by central's clock. `over_https`: not through
    the broker, which keeps another one."""

    gateway_id = peewee.TextField()
    topic = peewee.TextField()
    payload = peewee.TextField()
    heard_at_utc = peewee.TextField()
    over_https = peewee.BooleanField(default=False)

    class Meta:
        table_name = "box_message"
        primary_key = peewee.CompositeKey("gateway_id", "topic")


MODELS: Final = (BoxMessage,)


@dataclass(frozen=True)
class BoxHeartbeat:
    """All that is known of one box; times by central's clock."""

    status: Status | None = None
    status_heard_at_utc: datetime | None = None
    telemetry: Telemetry | None = None
    telemetry_heard_at_utc: datetime | None = None
    info: Info | None = None
    reported: Reported | None = None
    witnessed: tuple[str, ...] = ()
    equipment: tuple[Equipment, ...] = field(default=())


class Heartbeats:
    """Takes messages in and keeps the last of each. They come from one thread; readers may be any."""

    def __init__(
        self,
        db: Database,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._db = db
        self._clock = clock
        self._runs: dict[str, deque[str]] = {}
        self._twins: dict[str, datetime] = {}
        grow_table(db, "box_message", {"over_https": "BOOLEAN NOT NULL DEFAULT FALSE"})
        make_tables(db, MODELS)

    def keep(
        self, gateway_id: str, below: str, payload: bytes, *, retained: bool, over_https: bool = False
    ) -> bool:
        """Keep a state of an admitted gateway; False when it is ignored.

        Parameters
        ----------
        below : the topic below ``up/``.
        retained : the broker kept it from before we subscribed, so it says nothing of the present.

        Raises
        ------
        ValidationError : it is malformed.
        """
        if retained and self._is_of_former_line(gateway_id, below, payload):
            return False
        said_at = self._said_at(gateway_id, below, payload, retained=retained)
        if said_at is None:
            return False
        text = payload.decode("utf-8")
        now = self._clock()
        if retained:
            last = self._last(gateway_id, below)
            if last and last["payload"] == text:
                return True  # known; when it was heard is known better than now
        # A box's clock may be wrong, so it counts only for what was said while nobody here listened.
        heard_at = min(now, said_at.astimezone(UTC)) if retained else now
        said = {
            "gateway_id": gateway_id,
            "topic": below,
            "payload": text,
            "heard_at_utc": heard_at.isoformat(),
            "over_https": over_https,
        }
        put(self._db, BoxMessage, said)
        return True

    def of(self, gateway_id: str) -> BoxHeartbeat:
        """What is known of a box."""
        status, telemetry = self._last(gateway_id, STATUS), self._last(gateway_id, TELEMETRY)
        info, reported = self._last(gateway_id, INFO), self._last(gateway_id, REPORTED)
        return BoxHeartbeat(
            status=Status.model_validate_json(status["payload"]) if status else None,
            status_heard_at_utc=_heard(status),
            telemetry=Telemetry.model_validate_json(telemetry["payload"]) if telemetry else None,
            telemetry_heard_at_utc=_heard(telemetry),
            info=Info.model_validate_json(info["payload"]) if info else None,
            reported=Reported.model_validate_json(reported["payload"]) if reported else None,
            witnessed=self.witnessed_by(gateway_id),
            equipment=tuple(
                Equipment.model_validate_json(row["payload"]) for row in self._equipment(gateway_id)
            ),
        )

    def status_of(self, gateway_id: str) -> Status | None:
        last = self._last(gateway_id, STATUS)
        return Status.model_validate_json(last["payload"]) if last else None

    def witnessed_by(self, gateway_id: str) -> tuple[str, ...]:
        """The words of the audit record that the box keeps (contract.witness)."""
        last = self._last(gateway_id, WITNESSED)
        return Witnessed.model_validate_json(last["payload"]).words if last else ()

    def witnessed(self) -> list[tuple[str, str]]:
        """Gateway id and word, of every box that was ever heard."""
        query = BoxMessage.select().where(BoxMessage.topic == WITNESSED).order_by(BoxMessage.gateway_id)
        return [
            (row["gateway_id"], word)
            for row in query.dicts().execute(self._db)
            for word in Witnessed.model_validate_json(row["payload"]).words
        ]

    def reported_version(self, gateway_id: str) -> int:
        """The newest version of desired settings that the box has looked at."""
        last = self._last(gateway_id, REPORTED)
        return Reported.model_validate_json(last["payload"]).version if last else 0

    def has_twin(self, gateway_id: str) -> bool:
        """Whether two boxes spoke as this gateway within the last ten minutes."""
        at = self._twins.get(gateway_id)
        return at is not None and self._clock() - at < _TWIN_FOR

    def _is_of_former_line(self, gateway_id: str, below: str, payload: bytes) -> bool:
        """Whether the broker keeps this from before the box went over to HTTPS. Its status says so; it comes first
        (`central.fleet.listener`), so where it is of a later session, all of them are taken."""
        last = self._last(gateway_id, STATUS)
        if last is None or not last["over_https"]:
            return False
        known = Status.model_validate_json(last["payload"])
        return below != STATUS or Status.model_validate_json(payload).is_older_than(known)

    def _said_at(self, gateway_id: str, below: str, payload: bytes, *, retained: bool) -> datetime | None:
        """When the box says it said this, by its own clock; None when it is to be ignored."""
        if below == STATUS:
            status = Status.model_validate_json(payload)
            known = self.status_of(gateway_id)
            if known is not None and status.state is not BoxState.ONLINE and status.is_older_than(known):
                return None  # a will the broker published late, after the box had come back
            if not retained and status.state is BoxState.ONLINE:
                self._watch_for_twins(gateway_id, status)
            return status.since_utc
        if below == TELEMETRY:
            return Telemetry.model_validate_json(payload).captured_at_utc
        if below == INFO:
            return Info.model_validate_json(payload).started_at_utc
        if below == REPORTED:
            Reported.model_validate_json(payload)
            return self._clock()
        if below == WITNESSED:
            Witnessed.model_validate_json(payload)
            return self._clock()
        if _EQUIPMENT_TOPIC.fullmatch(below) and self._has_room_for(gateway_id, below):
            return Equipment.model_validate_json(payload).first_seen_at_utc or self._clock()
        return None

    def _watch_for_twins(self, gateway_id: str, status: Status) -> None:
        """A run that was followed by another never comes back, unless there are two boxes."""
        if not status.boot:
            return  # it does not name its runs
        runs = self._runs.setdefault(gateway_id, deque(maxlen=_RUNS))
        if runs and runs[-1] == status.run:
            return
        if status.run in runs:
            if not self.has_twin(gateway_id):
                _log.warning("two boxes with one identity gateway_id=%s", gateway_id)
            self._twins[gateway_id] = self._clock()
            runs.remove(status.run)
        runs.append(status.run)

    def _has_room_for(self, gateway_id: str, below: str) -> bool:
        known = [row["topic"] for row in self._equipment(gateway_id)]
        return below in known or len(known) < MAX_EQUIPMENT

    def _equipment(self, gateway_id: str) -> list[dict[str, Any]]:
        query = (
            BoxMessage.select()
            .where((BoxMessage.gateway_id == gateway_id) & Wildcard(BoxMessage.topic, f"{EQUIPMENT}*"))
            .order_by(BoxMessage.topic)
        )
        return list(query.dicts().execute(self._db))

    def _last(self, gateway_id: str, below: str) -> dict[str, Any] | None:
        query = BoxMessage.select().where((BoxMessage.gateway_id == gateway_id) & (BoxMessage.topic == below))
        return next(iter(query.dicts().execute(self._db)), None)


def address(topic: str) -> tuple[str | None, str]:
    """Gateway id and the rest below ``up/`` of a topic; None for any other topic."""
    root, slash, rest = topic.partition(TOPIC_ROOT + "/")
    gateway_id, _, below = rest.partition("/up/")
    try:
        return (check_gateway_id(gateway_id), below) if slash and not root and below else (None, "")
    except InvalidIdentifierError:
        return None, ""


def _heard(row: dict[str, Any] | None) -> datetime | None:
    return datetime.fromisoformat(row["heard_at_utc"]) if row else None
