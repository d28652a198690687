"""The box's side of the fleet, wired together: what it says to each central, scanners' health, settings and commands.

Lives as long as the box; an identity comes and goes (`assume`), and with it that central's heartbeat. Keeps its files
in ``heartbeat/`` of the state directory, and of each further central's folder. A crash loses no event that was noticed,
and nothing here is needed to receive or to forward. What happens is told to every central; settings come from the first
alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from pydantic import BaseModel

from contract.command import Desired
from contract.control import DestinationStatus
from contract.heartbeat import Equipment, EventKind, Telemetry
from contract.priority import Priority
from contract.sizes import size_text
from contract.witness import Witnessed
from edge import heartbeat, support
from edge.box_status import lost_sentence
from edge.buffer.receipts import LostStudy
from edge.buffer.scrub import Damage
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.uplink.commands import CommandFailedError
from edge.uplink.equipment import ConfiguredScanner, Echoed, EquipmentWatch
from edge.uplink.identity import Identity
from edge.uplink.link import Link
from edge.uplink.remote import Remote
from edge.uplink.run import Run
from edge.uplink.speech import Reports
from edge.version import VERSION
from edge.voice import SettingsOfAnother, Voice

_log = logging.getLogger(__name__)
_TOLD_STUDIES: Final = 100
"""Each an event of its own; more would push other events out of the list."""


class Sending(Protocol):
    """The forwarders, as far as a central may tell them something."""

    @property
    def paused(self) -> bool: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def try_now(self, name: str) -> None:
        """Something got through to this central's side."""


class Reporting:
    """`start`, `assume` each identity, `stop`. Implements `edge.voice.BoxControls`.

    Parameters
    ----------
    directories : where what belongs to each central is kept, by its name, the first one first.
    links : how the box stands with each.
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
        directories: Mapping[str, Path],
        spool: Spool,
        sending: Sending,
        links: Mapping[str, Link],
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
        self._sending = sending
        self._links = links
        self._first, *_ = directories
        directory = directories[self._first]
        self._started_at_utc = started_at_utc
        self._ae_title = ae_title
        self._dicom_port = dicom_port
        self._bundle_parts = bundle_parts
        self._prioritise = prioritise
        self._destinations = destinations
        self._run = Run.begin(directory)
        self._recent = support.RecentLog()
        self._noticed: tuple[bool, int, int] | None = None  # accepting, quarantined, set aside
        self._noticing = threading.Lock()
        self._voices: dict[str, Voice] = {}
        self._watch = EquipmentWatch(
            directory,
            configured=configured,
            seen=lambda: heartbeat.equipment_seen(spool.scanners),
            echo=echo,
            notice=self._tell,
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
        if self._remote.paused:
            sending.pause()  # somebody paused it before the box stopped
        self._info = heartbeat.info(ae_title=ae_title, dicom_port=0, started_at_utc=started_at_utc)
        for name, folder in directories.items():
            foreign = SettingsOfAnother(self._remote.reported)
            is_first = name == self._first
            self._voices[name] = Voice(
                folder,
                links[name],
                self._run,
                self,
                Reports(
                    version=VERSION,
                    info=lambda: self._info.model_copy(update={"dicom_port": self._dicom_port()}),
                    telemetry=partial(self._telemetry, name),
                    equipment=self._equipment,
                    reported=self._remote.reported if is_first else foreign.reported,
                    witnessed=Witnessed,
                ),
                desire=self._desire if is_first else foreign.desire,
                connected=partial(sending.try_now, name),
                https_after_s=https_after_s,
                enabled=enabled,
            )

    def start(self) -> None:
        """Begin to report; to be called once the gateway listens."""
        logging.getLogger().addHandler(self._recent)
        self._tell(EventKind.STARTED, f"version {VERSION}, start number {self._run.boot}")
        self._watch.start()
        for voice in self._voices.values():
            voice.start()

    def assume(self, central: str, identity: Identity) -> None:
        """Report to this central as `identity` from now on, or from `start` on."""
        self._voices[central].assume(identity)

    def _tell(self, kind: EventKind, detail: str) -> None:
        """An event, to every central."""
        for voice in self._voices.values():
            voice.tell(kind, detail)

    def soon(self) -> None:
        """Something changed: report it within a second."""
        for voice in self._voices.values():
            voice.soon()

    def tell_damage(self, damage: Damage) -> None:
        """The disk has changed or lost a file: an event, for the disk may be failing. The box's page names it."""
        what = (
            "central has it"
            if damage.state is State.FREED
            else f"{damage.calling_ae_title} has to send it again: the box's queue page says which"
        )
        self._tell(EventKind.QUARANTINED, f"an image was damaged on the box's disk; {what}")

    def tell_receiver(self, sentence: str) -> None:
        """A receiving process has died: an event, for it may be memory or disk."""
        self._tell(EventKind.RECEIVER_ENDED, sentence)

    def tell_set_back(self, central: str, sent_again: int, lost: Sequence[LostStudy]) -> None:
        """A central has lost what it signed for: an event, and one for each study that a scanner has to send again."""
        if sent_again:
            what = f"{central} lost what it had signed for; images that this box sends again: {sent_again}"
            self._tell(EventKind.CENTRAL_SET_BACK, what)
        for study in lost[:_TOLD_STUDIES]:
            self._tell(EventKind.CENTRAL_SET_BACK, lost_sentence(study))
        if len(lost) > _TOLD_STUDIES:
            more = f"{len(lost) - _TOLD_STUDIES} studies more have to be sent again: the box's log lists them"
            self._tell(EventKind.CENTRAL_SET_BACK, more)

    def stop(self) -> None:
        for voice in self._voices.values():
            voice.stop()
        self._watch.stop()
        logging.getLogger().removeHandler(self._recent)

    # What central may tell this box to do ----------------------------------------------------------------------

    def pause(self, by: str = "central") -> str:
        self._remote.keep_paused(True)
        self._sending.pause()
        _log.warning("sending paused", extra={"by": by})
        return "sending is paused; images are still received and kept"

    def resume(self, by: str = "central") -> str:
        self._remote.keep_paused(False)
        self._sending.resume()
        _log.info("sending resumed", extra={"by": by})
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

    def send_bundle_as(self, identity: Identity, command_id: str) -> str:
        parts = {
            **self._bundle_parts(),
            "scanners": [one.model_dump(mode="json") for one in self._equipment()],
        }
        packed = support.bundle(parts, self._recent.lines())
        support.send(identity, command_id, packed)
        return f"a bundle of {size_text(len(packed))} was sent"

    # What is said ------------------------------------------------------------------------------------------------

    def _telemetry(self, central: str) -> Telemetry:
        identity = self._voices[central].identity
        ahead_s = identity.clock.offset_s() if identity is not None else None
        telemetry = heartbeat.telemetry(
            self._spool,
            self._links[central].status(),
            started_at_utc=self._started_at_utc,
            paused=self._sending.paused,
            clock_offset_s=None if ahead_s is None else round(-ahead_s, 3),
            destinations=self._destinations(),
        )
        if central == self._first:
            self._notice(telemetry)
            return telemetry
        return heartbeat.as_another_sees_it(
            telemetry, central, self._first, self._links[self._first].status()
        )

    def _notice(self, telemetry: Telemetry) -> None:
        with self._noticing:
            before = self._noticed
            set_aside = sum(one.set_aside_objects for one in telemetry.destinations)
            self._noticed = (telemetry.accepting, telemetry.quarantined_objects, set_aside)
        if before is None:
            return
        if before[0] and not telemetry.accepting:
            free = size_text(telemetry.disk_free_bytes)
            self._tell(EventKind.STOPPED_ACCEPTING, f"scanners are told to send later; {free} are free")
        elif telemetry.accepting and not before[0]:
            self._tell(EventKind.ACCEPTING, "images are taken in again")
        if telemetry.quarantined_objects > before[1]:
            more = telemetry.quarantined_objects - before[1]
            self._tell(EventKind.QUARANTINED, f"{more} objects more in quarantine; the queue goes on")
        if set_aside > before[2]:
            what = f"{set_aside - before[2]} objects more that a destination refuses; the queue goes on"
            self._tell(EventKind.QUARANTINED, what)

    def _equipment(self) -> list[Equipment]:
        return self._watch.equipment()[: heartbeat.MAX_EQUIPMENT]

    def _desire(self, desired: Desired) -> bool:
        if not self._remote.desire(desired):
            return False
        refused = self._remote.reported().refused
        tail = f"; refused: {', '.join(sorted(refused))}" if refused else ""
        self._tell(EventKind.SETTINGS, f"settings version {desired.version} in force{tail}")
        return True
