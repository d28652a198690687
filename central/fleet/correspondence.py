"""Both directions with the boxes: what they say is kept and answered, what administrators want is said to them.

Always true: only an admitted gateway is heard, and nothing is said to another; what is answered is on disk before.
The same for both lines: over MQTT answers are published, over HTTPS they go back in the response, and what waits
for a box goes along with it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pydantic import BaseModel, ValidationError

from central.fleet.commands import Commands
from central.fleet.desired import DesiredSettings
from central.fleet.events import Events
from central.fleet.heartbeats import Heartbeats, address
from central.fleet.witnesses import Witnesses
from central.identity.gateways import Gateways
from contract.command import COMMAND, DESIRED, HEARD, Command, CommandKind, Desired, Heard, SettingValue
from contract.heartbeat import EVENT, MAX_PAYLOAD_BYTES, REPORTED, STATUS, BoxState, Event, Status
from contract.witness import WITNESS, WITNESSED

_log = logging.getLogger(__name__)
_SESSIONS: Final = 4096  # of boxes; more than a central has


@dataclass(frozen=True)
class Down:
    """One message to a box; `life_s` None: it does not expire on the way."""

    gateway_id: str
    below: str
    payload: bytes
    retain: bool = False
    life_s: float | None = None


class Correspondence:
    """Safe to call from many threads.

    Parameters
    ----------
    say : puts a message on the MQTT line; False where there is none just now.
    """

    def __init__(
        self,
        gateways: Gateways,
        heartbeats: Heartbeats,
        events: Events,
        commands: Commands,
        desired: DesiredSettings,
        witnesses: Witnesses,
        say: Callable[[Down], bool],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._gateways = gateways
        self._heartbeats = heartbeats
        self._events = events
        self._commands = commands
        self._desired = desired
        self._witnesses = witnesses
        self._say = say
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, str] = {}
        self._https_at: dict[str, datetime] = {}

    def hear_mqtt(self, topic: str, payload: bytes, retained: bool) -> bool:
        """Take in what came over MQTT, and answer there; False when it is ignored."""
        gateway_id, below = address(topic)
        if gateway_id is None or not self._gateways.is_admitted(gateway_id):
            return False
        taken, answers = self._hear(gateway_id, below, payload, retained=retained)
        for answer in answers:
            self._give(answer)
        return taken

    def hear_https(self, gateway_id: str, letters: list[tuple[str, bytes]]) -> list[Down]:
        """Take in what came in one request of a gateway that was checked; what it is answered."""
        with self._lock:
            self._https_at[gateway_id] = self._clock()
        answers: list[Down] = []
        for below, payload in letters:
            answers += self._hear(gateway_id, below, payload, over_https=True)[1]
        answers += self._to_do(gateway_id)
        once = {(answer.below, answer.payload): answer for answer in answers}
        for answer in once.values():
            self._note_given(answer)
        return list(once.values())

    def https_heard_at(self, gateway_id: str) -> datetime | None:
        """When the box last spoke over HTTPS, since central started."""
        return self._https_at.get(gateway_id)

    def command(self, gateway_id: str, kind: CommandKind, params: Mapping[str, str], by: str) -> Command:
        """Tell a box to do something, now or when it speaks next."""
        command = self._commands.issue(gateway_id, kind, params, by)
        self._give(_command(gateway_id, command, self._clock()))
        return command

    def desire(self, gateway_id: str, settings: Mapping[str, SettingValue]) -> Desired:
        """Set a box, now or when it speaks next."""
        seen = self._heartbeats.reported_version(gateway_id)
        desired = self._desired.desire(gateway_id, settings, box_version=seen)
        self._give(_desired(gateway_id, desired))
        return desired

    def _hear(
        self, gateway_id: str, below: str, payload: bytes, *, retained: bool = False, over_https: bool = False
    ) -> tuple[bool, list[Down]]:
        if len(payload) > MAX_PAYLOAD_BYTES:
            _log.warning("heartbeat too large gateway_id=%s size_bytes=%d", gateway_id, len(payload))
            return False, []
        try:
            if below == EVENT:
                return (
                    (False, []) if retained else self._event(gateway_id, Event.model_validate_json(payload))
                )
            taken = self._heartbeats.keep(
                gateway_id, below, payload, retained=retained, over_https=over_https
            )
            if taken and below == STATUS and not retained:
                status = Status.model_validate_json(payload)
                return taken, [*self._greet(gateway_id, status), *self._word_for(gateway_id, status)]
            if taken and below == REPORTED and not retained:
                return taken, self._still_desired(gateway_id)
            if taken and below == WITNESSED:
                self._witnesses.contradicts(gateway_id, self._heartbeats.witnessed_by(gateway_id))
        except ValidationError as error:
            _log.warning("heartbeat malformed gateway_id=%s errors=%d", gateway_id, error.error_count())
            return False, []
        return taken, []

    def _event(self, gateway_id: str, event: Event) -> tuple[bool, list[Down]]:
        # The answer first: an event that is kept is not said again, so nothing may be lost after it.
        if event.answer is not None:
            self._commands.note_answer(gateway_id, event.answer, event.detail)
        mark, is_new = self._events.keep(gateway_id, event)
        return is_new, [_down(gateway_id, HEARD, Heard(events=mark))]

    def _greet(self, gateway_id: str, status: Status) -> list[Down]:
        """What waits for a box, at each new session; and that it has a twin, as soon as that is known or over."""
        if status.state is not BoxState.ONLINE:
            return []
        twin = self._heartbeats.has_twin(gateway_id)
        with self._lock:
            key, known = f"{status.session} {twin}", self._sessions.get(gateway_id)
            if known == key:
                return []
            is_over = known == f"{status.session} True"
            if len(self._sessions) >= _SESSIONS:
                self._sessions.clear()
            self._sessions[gateway_id] = key
        warning = [_down(gateway_id, HEARD, Heard(twin=twin))] if twin or is_over else []
        return [*warning, *self._to_do(gateway_id)]

    def _word_for(self, gateway_id: str, status: Status) -> list[Down]:
        """Now and then a checkpoint of the audit record, for the box to keep."""
        if status.state is not BoxState.ONLINE:
            return []
        word = self._witnesses.due(gateway_id, self._heartbeats.witnessed_by(gateway_id))
        if word is None:
            return []
        return [Down(gateway_id, WITNESS, word.model_dump_json().encode(), retain=True)]

    def _to_do(self, gateway_id: str) -> list[Down]:
        waiting = [
            _command(gateway_id, command, self._clock()) for command in self._commands.waiting(gateway_id)
        ]
        return [*self._still_desired(gateway_id), *waiting]

    def _still_desired(self, gateway_id: str) -> list[Down]:
        """The settings that the box has not looked at. A box in a former one's place says so after its status only."""
        desired = self._desired.of(gateway_id)
        if desired is None or desired.version <= self._heartbeats.reported_version(gateway_id):
            return []
        return [_desired(gateway_id, desired)]

    def _give(self, down: Down) -> None:
        if self._gateways.is_admitted(down.gateway_id) and self._say(down):
            self._note_given(down)

    def _note_given(self, down: Down) -> None:
        if down.below == COMMAND:
            self._commands.note_sent(Command.model_validate_json(down.payload).id)


def _down(gateway_id: str, below: str, message: BaseModel) -> Down:
    return Down(gateway_id, below, message.model_dump_json().encode())


def _desired(gateway_id: str, desired: Desired) -> Down:
    return Down(gateway_id, DESIRED, desired.model_dump_json().encode(), retain=True)


def _command(gateway_id: str, command: Command, now: datetime) -> Down:
    life_s = max(1.0, (command.expires_at_utc - now).total_seconds())
    return Down(gateway_id, COMMAND, command.model_dump_json().encode(), life_s=life_s)
