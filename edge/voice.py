"""What one central hears of this box, and what it may tell it: a heartbeat, events that wait for it, its commands.

Each central has its own, so that one that is away for days loses nothing and holds nothing up. Keeps its files in a
directory of its own: events until that central keeps them, its words of the audit record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from contract.command import Desired, Reported
from contract.heartbeat import CommandAnswer, EventKind
from contract.priority import Priority
from edge.uplink.commands import CommandDesk, CommandFailedError
from edge.uplink.heartbeat import Hearers, Heartbeat
from edge.uplink.identity import Identity
from edge.uplink.link import Link
from edge.uplink.outbox import Outbox
from edge.uplink.run import Run
from edge.uplink.speech import Reports
from edge.uplink.witness_book import WitnessBook

_COMMAND_GRACE_S: Final = 2.0


class BoxControls(Protocol):
    """What any central may tell a box, as `edge.uplink.commands.Controls` has it."""

    def pause(self) -> str: ...

    def resume(self) -> str: ...

    def prioritise(self, study_instance_uid: str, priority: Priority) -> str: ...

    def echo(self, ae_title: str) -> str: ...

    def send_bundle_as(self, identity: Identity, command_id: str) -> str: ...


class Voice:
    """`start`, `assume` each identity, `stop`. Implements `edge.uplink.commands.Controls`.

    Parameters
    ----------
    reports : what this central is told; `witnessed` is put in here.
    desire : takes the settings that it wants, and says whether that was news.
    connected : called when its side may be back.
    enabled : False: events wait, and nothing is said.
    """

    def __init__(
        self,
        directory: Path,
        link: Link,
        run: Run,
        controls: BoxControls,
        reports: Reports,
        *,
        desire: Callable[[Desired], object],
        connected: Callable[[], None],
        https_after_s: float,
        enabled: bool,
    ) -> None:
        self._link = link
        self._run = run
        self._controls = controls
        self._desire = desire
        self._connected = connected
        self._https_after_s = https_after_s
        self._enabled = enabled
        self._outbox = Outbox(directory, on_added=self.soon, now=self._central_now)
        self._witness = WitnessBook(directory)
        self._reports = replace(reports, witnessed=self._witness.witnessed)
        self._commands = CommandDesk(self, self._outbox, self._central_now)
        self._identity: Identity | None = None
        self._heartbeat: Heartbeat | None = None
        self._started = False

    @property
    def identity(self) -> Identity | None:
        return self._identity

    def start(self) -> None:
        self._commands.start()
        self._started = True
        if self._identity is not None:
            self.assume(self._identity)

    def assume(self, identity: Identity) -> None:
        """Speak as `identity` from now on, or from `start` on."""
        self._stop_heartbeat()
        self._identity = identity
        if not self._enabled or not self._started:
            return
        heartbeat = Heartbeat(
            identity,
            self._link,
            self._run,
            self._reports,
            Hearers(
                command=self._commands.take,
                settings=self._desire,
                witness=self._witness.take,
                connected=self._connected,
            ),
            self._outbox,
            https_after_s=self._https_after_s,
        )
        self._heartbeat = heartbeat
        heartbeat.start()

    def soon(self) -> None:
        """Something changed: say so within a second."""
        heartbeat = self._heartbeat
        if heartbeat is not None:
            heartbeat.soon()

    def tell(self, kind: EventKind, detail: str, answer: CommandAnswer | None = None) -> None:
        """An event, kept until this central has it."""
        self._outbox.add(kind, detail, answer)

    def stop(self) -> None:
        self._commands.stop(_COMMAND_GRACE_S)
        self._stop_heartbeat()

    def _stop_heartbeat(self) -> None:
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None:
            heartbeat.stop()

    def _central_now(self) -> datetime:
        identity = self._identity
        return identity.clock.now() if identity is not None else datetime.now(UTC)

    # What this central may tell the box to do ------------------------------------------------------------------

    def pause(self) -> str:
        return self._controls.pause()

    def resume(self) -> str:
        return self._controls.resume()

    def prioritise(self, study_instance_uid: str, priority: Priority) -> str:
        return self._controls.prioritise(study_instance_uid, priority)

    def echo(self, ae_title: str) -> str:
        return self._controls.echo(ae_title)

    def send_support_bundle(self, command_id: str) -> str:
        identity = self._identity
        if identity is None:
            raise CommandFailedError("the box is not enrolled")
        return self._controls.send_bundle_as(identity, command_id)


class SettingsOfAnother:
    """What a further central gets that wants to set a box: a refusal that says whose settings count.

    In memory: after a restart it is refused once more.
    """

    def __init__(self, in_force: Callable[[], Reported]) -> None:
        self._in_force = in_force
        self._version = 0
        self._refused: dict[str, str] = {}

    def desire(self, desired: Desired) -> bool:
        if desired.version <= self._version:
            return False
        self._refused = dict.fromkeys(desired.settings, "the first central of this box sets it")
        self._version = desired.version
        return True

    def reported(self) -> Reported:
        return Reported(version=self._version, settings=self._in_force().settings, refused=self._refused)
