"""What is due to be said in a session: the present always, states where they changed, events until central has them.

Always true: what was handed to a line counts as said in that session only; a new session says everything again.
Thread-safe: a line's thread begins sessions, the heartbeat's asks what is due.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pydantic import BaseModel

from contract.command import Reported
from contract.heartbeat import (
    EQUIPMENT,
    EVENT,
    INFO,
    REPORTED,
    STATUS,
    TELEMETRY,
    BoxState,
    Equipment,
    Event,
    Info,
    Status,
    Telemetry,
    equipment_key,
)
from contract.witness import WITNESSED, Witnessed
from edge.uplink.outbox import Outbox
from edge.uplink.run import Run

_EVENTS_AT_ONCE: Final = 50
_SAY_EVENTS_AGAIN_S: Final = 30.0


@dataclass(frozen=True)
class Saying:
    """One message below the box's ``up/``."""

    below: str
    payload: bytes
    retain: bool


@dataclass(frozen=True)
class Reports:
    """What a heartbeat asks the box; each must be cheap."""

    version: str
    info: Callable[[], Info]
    telemetry: Callable[[], Telemetry]
    equipment: Callable[[], Sequence[Equipment]]
    reported: Callable[[], Reported]
    witnessed: Callable[[], Witnessed]


@dataclass(frozen=True)
class Session:
    """One connection: its random name, its number in this run, and when it began."""

    name: str
    connection: int
    since_utc: datetime


@dataclass(frozen=True)
class Due:
    """What a beat says. `sayings`: status and telemetry, then `events`, then states."""

    session: Session
    events: list[Event]
    sayings: list[Saying]


class Speech:
    """One run's. `session` is the one that stands, or stood last."""

    def __init__(self, run: Run, reports: Reports, outbox: Outbox) -> None:
        self._run = run
        self._reports = reports
        self._outbox = outbox
        self._lock = threading.Lock()
        self._connections = 0
        self._session = Session("0" * 16, 0, datetime.now(UTC))
        self._said: dict[str, bytes] = {}
        self._events_said: tuple[str, int, float] = ("", 0, 0.0)

    @property
    def session(self) -> Session:
        return self._session

    def new_session(self) -> Session:
        """For the next connection; it counts once `begin` is told that it stands."""
        with self._lock:
            self._connections += 1
            return Session(secrets.token_hex(8), self._connections, datetime.now(UTC))

    def begin(self, session: Session) -> None:
        with self._lock:
            self._session = session
            self._said.clear()
            self._events_said = ("", 0, 0.0)

    def status(self, state: BoxState, session: Session) -> bytes:
        status = Status(
            state=state,
            session=session.name,
            since_utc=session.since_utc,
            version=self._reports.version,
            run=self._run.name,
            boot=self._run.boot,
            connection=session.connection,
        )
        return _bytes(status)

    def due(self, telemetry: Telemetry) -> Due:
        """What to say now, most important first; states only where they changed in this session."""
        with self._lock:
            session, said, events_said = self._session, dict(self._said), self._events_said
        stream, through, at = events_said
        again = time.monotonic() - at >= _SAY_EVENTS_AGAIN_S
        events = [
            event
            for event in self._outbox.waiting(_EVENTS_AT_ONCE)
            if again or event.stream != stream or event.number > through
        ]
        states = [_saying(INFO, self._reports.info()), _saying(REPORTED, self._reports.reported())]
        witnessed = self._reports.witnessed()
        if witnessed.words:
            states.append(_saying(WITNESSED, witnessed))
        for scanner in self._reports.equipment():
            key = equipment_key(scanner.ae_title, scanner.address)
            states.append(_saying(EQUIPMENT + key, scanner))
        first = [
            # Said with every beat: a broker that lost what it kept has it again.
            Saying(STATUS, self.status(BoxState.ONLINE, session), retain=True),
            _saying(TELEMETRY, telemetry),
        ]
        changed = [saying for saying in states if said.get(saying.below) != saying.payload]
        return Due(
            session, events, [*first, *(_saying(EVENT, event, retain=False) for event in events), *changed]
        )

    def note_said(self, due: Due, taken: int) -> None:
        with self._lock:
            if due.session != self._session:
                return  # it was said into a session that is over
            for saying in due.sayings[:taken]:
                if saying.below != EVENT:
                    self._said[saying.below] = saying.payload
            events = due.events[: max(0, taken - 2)]
            if events:
                self._events_said = (events[-1].stream, events[-1].number, time.monotonic())


def _saying(below: str, message: BaseModel, *, retain: bool = True) -> Saying:
    return Saying(below, _bytes(message), retain)


def _bytes(message: BaseModel) -> bytes:
    return message.model_dump_json().encode()
