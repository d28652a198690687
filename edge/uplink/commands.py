"""What central may tell a box to do, and that each command is carried out once, in time, and answered.

Who may speak is settled before: the broker's ACL lets central alone write below a box's ``down/``, and the box
listens over mutual TLS only. Always true: nothing is carried out after its expiry by central's clock, nor twice,
also where central gives it again after a restart because the answer is still on its way; one command at a time,
`MAX_WAITING` wait, more are refused; each gets exactly one answer, through the outbox, so that it survives a cut. A
crash between doing and answering leaves a command without an answer: given again in time it is carried out again.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final, Protocol

from contract.command import MAX_COMMAND_LIFE_S, Command, CommandKind
from contract.errors import ContractError
from contract.heartbeat import CommandAnswer, EventKind, Outcome
from contract.identifiers import InvalidIdentifierError, check_ae_title, check_uid
from contract.priority import Priority, UnknownPriorityError
from edge.buffer.errors import SpoolError

_log = logging.getLogger(__name__)

MAX_WAITING: Final = 16
_REMEMBERED: Final = 256
_CLOCK_SLACK: Final = timedelta(seconds=60)


class CommandFailedError(Exception):
    """It was tried and did not work; the text is for the administrator at central."""


class Controls(Protocol):
    """What a box can do on command. Each returns a sentence for the administrator, or raises CommandFailedError."""

    def pause(self) -> str:
        """Send nothing more, from the next few bytes on; receiving goes on."""
        ...

    def resume(self) -> str: ...

    def prioritise(self, study_instance_uid: str, priority: Priority) -> str:
        """Send this study's objects before or after the others."""
        ...

    def echo(self, ae_title: str) -> str:
        """C-ECHO a configured scanner."""
        ...

    def send_support_bundle(self, command_id: str) -> str: ...


class Answers(Protocol):
    """The outbox, as far as commands go."""

    def add(self, kind: EventKind, detail: str, answer: CommandAnswer | None = None) -> None: ...

    def answered(self) -> list[str]:
        """Ids of commands whose answer waits for central, an earlier run's too; the oldest first."""
        ...


class CommandDesk:
    """Takes commands in from any thread, carries them out on one of its own: `start`, then `stop`.

    Parameters
    ----------
    central_now : the time now by central's clock, as well as the box knows it.
    """

    def __init__(self, controls: Controls, answers: Answers, central_now: Callable[[], datetime]) -> None:
        self._answers = answers
        self._central_now = central_now
        self._carry_out: Mapping[CommandKind, Callable[[Command], str]] = {
            CommandKind.PAUSE: lambda _: controls.pause(),
            CommandKind.RESUME: lambda _: controls.resume(),
            CommandKind.PRIORITISE: lambda command: controls.prioritise(
                check_uid(command.params.get("study_instance_uid", "")),
                Priority.named(command.params.get("priority", Priority.FIRST.word)),
            ),
            CommandKind.ECHO: lambda command: controls.echo(
                check_ae_title(command.params.get("ae_title", ""))
            ),
            CommandKind.SUPPORT_BUNDLE: lambda command: controls.send_support_bundle(command.id),
        }
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, None] = OrderedDict.fromkeys(answers.answered())
        self._waiting: queue.Queue[Command | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name="commands", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """What waits is given up unanswered; what is under way gets `timeout_s` to end."""
        while True:
            try:
                self._waiting.get_nowait()
            except queue.Empty:
                break
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def take(self, command: Command) -> None:
        """Accept a command, or refuse it with an answer. Returns at once; a repeated one is absorbed."""
        with self._lock:
            if command.id in self._seen:
                return
            self._seen[command.id] = None
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        if command.kind not in set(CommandKind):
            self._answer(command, Outcome.REFUSED, f"this box's version does not know {command.kind!r}")
            return
        if (late := self._too_late(command)) is not None:
            self._answer(command, Outcome.REFUSED, late)
            return
        try:
            self._waiting.put_nowait(command)
        except queue.Full:
            self._answer(command, Outcome.REFUSED, "too many commands wait on this box: try again later")

    def _too_late(self, command: Command) -> str | None:
        now = self._central_now()
        if command.expires_at_utc <= now:
            return "it came after its expiry; if the box was online, compare its clock with central's"
        if command.expires_at_utc - now > timedelta(seconds=MAX_COMMAND_LIFE_S) + _CLOCK_SLACK:
            return "it would live longer than a command may; compare the box's clock with central's"
        return None

    def _work(self) -> None:
        while (command := self._waiting.get()) is not None:
            if (late := self._too_late(command)) is not None:
                self._answer(command, Outcome.REFUSED, late)
                continue
            try:
                said = self._carry_out[CommandKind(command.kind)](command)
            except (InvalidIdentifierError, UnknownPriorityError) as error:
                self._answer(command, Outcome.REFUSED, str(error))
            except (CommandFailedError, ContractError, SpoolError) as error:
                self._answer(command, Outcome.FAILED, str(error))
            except Exception:
                _log.exception("command failed", extra={"command": command.kind})
                self._answer(command, Outcome.FAILED, "a fault in the box's program; its log says more")
            else:
                self._answer(command, Outcome.DONE, said)

    def _answer(self, command: Command, outcome: Outcome, detail: str) -> None:
        _log.info("command", extra={"id_": command.id, "command": command.kind, "outcome": outcome.value})
        answer = CommandAnswer(command_id=command.id, outcome=outcome)
        self._answers.add(EventKind.COMMAND, detail, answer)
