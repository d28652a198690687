"""What the boxes said last, kept in the database so that the fleet page survives a restart.

Always true: a message counts only from an admitted gateway, only if it fits contract.heartbeat, and a last
will only if no newer session is known. What a crash leaves: the last message of each topic.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import peewee
from pydantic import ValidationError

from central.identity.gateways import Gateways
from contract.heartbeat import MAX_PAYLOAD_BYTES, TOPIC_ROOT, BoxState, Equipment, Status, Telemetry
from contract.identifiers import InvalidIdentifierError, check_gateway_id

MAX_EQUIPMENT: Final = 256  # scanners a box
_STATUS: Final = "status"
_TELEMETRY: Final = "telemetry"
_EQUIPMENT: Final = "equipment/"
_log = logging.getLogger(__name__)


class BoxMessage(peewee.Model):
    """The last message of a topic below a box's ``up/``; `heard_at_utc` by central's clock."""

    gateway_id = peewee.TextField()
    topic = peewee.TextField()
    payload = peewee.TextField()
    heard_at_utc = peewee.TextField()

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
    equipment: tuple[Equipment, ...] = field(default=())


class Heartbeats:
    """Takes messages in and keeps the last of each. They come from one thread; readers may be any."""

    def __init__(
        self,
        db: peewee.SqliteDatabase,
        gateways: Gateways,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._db = db
        self._gateways = gateways
        self._clock = clock
        with db.bind_ctx(MODELS):
            db.create_tables(MODELS)

    def hear(self, topic: str, payload: bytes, *, retained: bool) -> bool:
        """Take a message in; False when it is ignored.

        Parameters
        ----------
        retained : the broker kept it from before we subscribed, so it says nothing of the present.
        """
        gateway_id, below = _address(topic)
        if gateway_id is None or not self._gateways.is_admitted(gateway_id):
            return False
        if len(payload) > MAX_PAYLOAD_BYTES:
            _log.warning("heartbeat too large gateway_id=%s size_bytes=%d", gateway_id, len(payload))
            return False
        try:
            return self._keep(gateway_id, below, payload, retained=retained)
        except ValidationError as error:
            _log.warning("heartbeat malformed gateway_id=%s errors=%d", gateway_id, error.error_count())
            return False

    def of(self, gateway_id: str) -> BoxHeartbeat:
        """What is known of a box."""
        status, telemetry = self._last(gateway_id, _STATUS), self._last(gateway_id, _TELEMETRY)
        return BoxHeartbeat(
            status=Status.model_validate_json(status["payload"]) if status else None,
            status_heard_at_utc=_heard(status),
            telemetry=Telemetry.model_validate_json(telemetry["payload"]) if telemetry else None,
            telemetry_heard_at_utc=_heard(telemetry),
            equipment=tuple(
                Equipment.model_validate_json(row["payload"]) for row in self._equipment(gateway_id)
            ),
        )

    def _keep(self, gateway_id: str, below: str, payload: bytes, *, retained: bool) -> bool:
        now = self._clock()
        if below == _STATUS:
            status = Status.model_validate_json(payload)
            last = self._last(gateway_id, _STATUS)
            if last and _is_of_an_older_session(status, Status.model_validate_json(last["payload"])):
                return False
            said_at = status.since_utc
        elif below == _TELEMETRY:
            said_at = Telemetry.model_validate_json(payload).captured_at_utc
        elif below.startswith(_EQUIPMENT) and below.count("/") == 1:
            if not self._has_room_for(gateway_id, below):
                return False
            said_at = Equipment.model_validate_json(payload).first_seen_at_utc
        else:
            return False
        text = payload.decode("utf-8")
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
        }
        BoxMessage.insert(said).on_conflict_replace().execute(self._db)
        return True

    def _has_room_for(self, gateway_id: str, below: str) -> bool:
        known = [row["topic"] for row in self._equipment(gateway_id)]
        return below in known or len(known) < MAX_EQUIPMENT

    def _equipment(self, gateway_id: str) -> list[dict[str, Any]]:
        query = (
            BoxMessage.select()
            .where((BoxMessage.gateway_id == gateway_id) & (BoxMessage.topic % f"{_EQUIPMENT}*"))
            .order_by(BoxMessage.topic)
        )
        return list(query.dicts().execute(self._db))

    def _last(self, gateway_id: str, below: str) -> dict[str, Any] | None:
        query = BoxMessage.select().where((BoxMessage.gateway_id == gateway_id) & (BoxMessage.topic == below))
        return next(iter(query.dicts().execute(self._db)), None)


def _is_of_an_older_session(said: Status, known: Status) -> bool:
    """A will the broker published late, after the box had come back: it must not mark the box lost."""
    return (
        said.state is not BoxState.ONLINE
        and said.session != known.session
        and said.since_utc <= known.since_utc
    )


def _address(topic: str) -> tuple[str | None, str]:
    """Gateway id and the rest below ``up/``; None for any other topic."""
    root, slash, rest = topic.partition(TOPIC_ROOT + "/")
    gateway_id, _, below = rest.partition("/up/")
    try:
        return (check_gateway_id(gateway_id), below) if slash and not root and below else (None, "")
    except InvalidIdentifierError:
        return None, ""


def _heard(row: dict[str, Any] | None) -> datetime | None:
    return datetime.fromisoformat(row["heard_at_utc"]) if row else None
