"""The box's side of the fleet, wired together: heartbeats, events, scanners' health, settings and commands.

Lives as long as the box; an identity comes and goes (`assume`), and with it the heartbeat. Keeps its files in
``heartbeat/`` of the state directory. A crash loses no event that was noticed, and nothing here is needed to
receive or to forward.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from contract.command import Desired
from contract.control import DestinationStatus
from contract.heartbeat import Equipment, EventKind, Telemetry
from contract.priority import Priority
from edge import report, support
from edge.buffer.receipts import LostStudy
from edge.buffer.scrub import Damage
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.uplink.commands import CommandDesk, CommandFailedError
from edge.uplink.equipment import ConfiguredScanner, Echoed, EquipmentWatch
from edge.uplink.forwarder import Forwarder
from edge.uplink.heartbeat import Hearers, Heartbeat
from edge.uplink.identity import Identity
from edge.uplink.link import Link
from edge.uplink.outbox import Outbox
from edge.uplink.remote import Remote
from edge.uplink.run import Run
from edge.uplink.speech import Reports
from edge.uplink.witness_book import WitnessBook

_log = logging.getLogger(__name__)
_COMMAND_GRACE_S: Final = 2.0
_TOLD_STUDIES: Final = 100
"""Each an event of its own; more would push other events out of the list."""


class Reporting:
    """`start`, `assume` each identity, `stop`. Implements `edge.uplink.commands.Controls`.

    Parameters
    ----------
    dicom_port : of the gateway, known once it listens.
    configured : scanners that may be asked with C-ECHO, of now.
    echo : one C-ECHO; blocks.
    bundle_parts : what goes into a support bundle beside the log.
    prioritise : ranks a study's objects and returns how many there are.
    destinations : how the box stands with those beside central; asked from `start` on.
    https_after_s : how long the broker may be away before heartbeats go over HTTPS.
    """

    def __init__(
        self,
        directory: Path,
        spool: Spool,
        forwarder: Forwarder,
        link: Link,
        *,
        started_at_utc: datetime,
        ae_title: str,
        dicom_port: Callable[[], int],
        configured: Callable[[], Sequence[ConfiguredScanner]],
        echo: Callable[[ConfiguredScanner], Echoed],
        bundle_parts: Callable[[], Mapping[str, BaseModel | object]],
        prioritise: Callable[[str, Priority], int],
        destinations: Callable[[], Sequence[DestinationStatus]],
        log_level: str,
        echo_interval_s: int,
        https_after_s: float,
        enabled: bool,
    ) -> None:
        self._spool = spool
        self._forwarder = forwarder
        self._link = link
        self._started_at_utc = started_at_utc
        self._ae_title = ae_title
        self._dicom_port = dicom_port
        self._bundle_parts = bundle_parts
        self._prioritise = prioritise
        self._destinations = destinations
        self._https_after_s = https_after_s
        self._enabled = enabled
        self._run = Run.begin(directory)
        self._recent = support.RecentLog()
        self._identity: Identity | None = None
        self._heartbeat: Heartbeat | None = None
        self._noticed: tuple[bool, int, int] | None = None  # accepting, quarantined, set aside
        self._noticing = threading.Lock()
        self._outbox = Outbox(directory, on_added=self.soon)
        self._watch = EquipmentWatch(
            directory,
            configured=configured,
            seen=lambda: report.equipment_seen(spool),
            echo=echo,
            notice=self._outbox.add,
            echo_interval_s=echo_interval_s,
        )
        self._remote = Remote(
            directory,
            {"log_level": log_level, "echo_interval_s": echo_interval_s},
            {
                "log_level": lambda level: logging.getLogger().setLevel(str(level).upper()),
                "echo_interval_s": lambda seconds: self._watch.echo_every(float(seconds)),
            },
        )
        self._witness = WitnessBook(directory)
        self._commands = CommandDesk(self, self._outbox, self._central_now)
        self._started = False
        if self._remote.paused:
            forwarder.pause()  # somebody paused it before the box stopped
        self._info = report.info(ae_title=ae_title, dicom_port=0, started_at_utc=started_at_utc)

    def start(self) -> None:
        """Begin to report; to be called once the gateway listens."""
        logging.getLogger().addHandler(self._recent)
        started = f"version {report.VERSION}, start number {self._run.boot}"
        self._outbox.add(EventKind.STARTED, started)
        self._watch.start()
        self._commands.start()
        self._started = True
        if self._identity is not None:
            self.assume(self._identity)

    def assume(self, identity: Identity) -> None:
        """Report as `identity` from now on, or from `start` on."""
        self._stop_heartbeat()
        self._identity = identity
        if not self._enabled or not self._started:
            return
        heartbeat = Heartbeat(
            identity,
            self._link,
            self._run,
            Reports(
                version=report.VERSION,
                info=lambda: self._info.model_copy(update={"dicom_port": self._dicom_port()}),
                telemetry=self._telemetry,
                equipment=self._equipment,
                reported=self._remote.reported,
                witnessed=self._witness.witnessed,
            ),
            Hearers(
                command=self._commands.take,
                settings=self._desire,
                witness=self._witness.take,
                connected=self._forwarder.try_now,
            ),
            self._outbox,
            https_after_s=self._https_after_s,
        )
        self._heartbeat = heartbeat
        heartbeat.start()

    def soon(self) -> None:
        """Something changed: report it within a second."""
        heartbeat = self._heartbeat
        if heartbeat is not None:
            heartbeat.soon()

    def tell_damage(self, damage: Damage) -> None:
        """The disk has changed or lost a file: an event, for the disk may be failing. The box's page names it."""
        what = (
            "central has it"
            if damage.state is State.FREED
            else f"{damage.calling_ae_title} has to send it again: the box's queue page says which"
        )
        self._outbox.add(EventKind.QUARANTINED, f"an image was damaged on the box's disk; {what}")

    def tell_set_back(self, sent_again: int, lost: Sequence[LostStudy]) -> None:
        """Central has lost what it signed for: an event, and one for each study that a scanner has to send again."""
        if sent_again:
            what = f"central lost what it had signed for; images that this box sends again: {sent_again}"
            self._outbox.add(EventKind.CENTRAL_SET_BACK, what)
        for study in lost[:_TOLD_STUDIES]:
            self._outbox.add(EventKind.CENTRAL_SET_BACK, report.lost_sentence(study))
        if len(lost) > _TOLD_STUDIES:
            more = f"{len(lost) - _TOLD_STUDIES} studies more have to be sent again: the box's log lists them"
            self._outbox.add(EventKind.CENTRAL_SET_BACK, more)

    def stop(self) -> None:
        self._commands.stop(_COMMAND_GRACE_S)
        self._stop_heartbeat()
        self._watch.stop()
        logging.getLogger().removeHandler(self._recent)

    # What central may tell this box to do ----------------------------------------------------------------------

    def pause(self) -> str:
        self._remote.keep_paused(True)
        self._forwarder.pause()
        _log.warning("sending paused", extra={"by": "central"})
        return "sending is paused; images are still received and kept"

    def resume(self) -> str:
        self._remote.keep_paused(False)
        self._forwarder.resume()
        _log.info("sending resumed", extra={"by": "central"})
        return "sending goes on"

    def prioritise(self, study_instance_uid: str, priority: Priority) -> str:
        count = self._prioritise(study_instance_uid, priority)
        if count == 0:
            raise CommandFailedError("nothing of this study waits on this box")
        said = "go first" if priority is Priority.FIRST else f"are {priority.word}"
        return f"{count} objects of the study {said}, and what comes of it later"

    def echo(self, ae_title: str) -> str:
        echoed = self._watch.echo_now(ae_title)
        if echoed is None:
            raise CommandFailedError(
                f"no scanner {ae_title} with an address for C-ECHO is configured on this box"
            )
        self.soon()
        if not echoed.ok:
            raise CommandFailedError(echoed.detail)
        took = "" if echoed.round_trip_ms is None else f" within {echoed.round_trip_ms:.0f} ms"
        return echoed.detail + took

    def send_support_bundle(self, command_id: str) -> str:
        identity = self._identity
        if identity is None:
            raise CommandFailedError("the box is not enrolled")
        parts = {
            **self._bundle_parts(),
            "scanners": [one.model_dump(mode="json") for one in self._equipment()],
        }
        packed = support.bundle(parts, self._recent.lines())
        support.send(identity, command_id, packed)
        return f"a bundle of {report.size_text(len(packed))} was sent"

    # What is said ------------------------------------------------------------------------------------------------

    def _telemetry(self) -> Telemetry:
        identity = self._identity
        ahead_s = identity.clock.offset_s() if identity is not None else None
        telemetry = report.telemetry(
            self._spool,
            self._link.status(),
            started_at_utc=self._started_at_utc,
            paused=self._forwarder.paused,
            clock_offset_s=None if ahead_s is None else round(-ahead_s, 3),
            destinations=self._destinations(),
        )
        self._notice(telemetry)
        return telemetry

    def _notice(self, telemetry: Telemetry) -> None:
        with self._noticing:
            before = self._noticed
            set_aside = sum(one.set_aside_objects for one in telemetry.destinations)
            self._noticed = (telemetry.accepting, telemetry.quarantined_objects, set_aside)
        if before is None:
            return
        if before[0] and not telemetry.accepting:
            free = report.size_text(telemetry.disk_free_bytes)
            self._outbox.add(EventKind.STOPPED_ACCEPTING, f"scanners are told to send later; {free} are free")
        elif telemetry.accepting and not before[0]:
            self._outbox.add(EventKind.ACCEPTING, "images are taken in again")
        if telemetry.quarantined_objects > before[1]:
            more = telemetry.quarantined_objects - before[1]
            self._outbox.add(EventKind.QUARANTINED, f"{more} objects more in quarantine; the queue goes on")
        if set_aside > before[2]:
            what = f"{set_aside - before[2]} objects more that a destination refuses; the queue goes on"
            self._outbox.add(EventKind.QUARANTINED, what)

    def _equipment(self) -> list[Equipment]:
        return self._watch.equipment()[: report.MAX_EQUIPMENT]

    def _desire(self, desired: Desired) -> bool:
        if not self._remote.desire(desired):
            return False
        refused = self._remote.reported().refused
        tail = f"; refused: {', '.join(sorted(refused))}" if refused else ""
        self._outbox.add(EventKind.SETTINGS, f"settings version {desired.version} in force{tail}")
        return True

    def _central_now(self) -> datetime:
        identity = self._identity
        return identity.clock.now() if identity is not None else datetime.now(UTC)

    def _stop_heartbeat(self) -> None:
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None:
            heartbeat.stop()
