"""What the box says about itself in its heartbeat, in the shapes of `contract.heartbeat`.

Pure translation from the rooms' own records and the machine's; nothing of a patient is in it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import psutil

from contract.control import DestinationStatus, LinkStatus
from contract.heartbeat import MAX_DESTINATIONS, DestinationHealth, Equipment, Info, Telemetry
from edge.box_status import not_accepting_because
from edge.buffer.records import ScannerSeen
from edge.buffer.scanners import ScannerBook
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.uplink import box_health
from edge.uplink.refusals import printable
from edge.version import VERSION

MAX_EQUIPMENT: Final = 256
"""Callers told to central, the latest first: whoever makes up AE titles must not fill the broker."""


def telemetry(
    spool: Spool,
    link: LinkStatus,
    *,
    started_at_utc: datetime,
    paused: bool,
    clock_offset_s: float | None,
    destinations: Sequence[DestinationStatus],
) -> Telemetry:
    """How the box is now."""
    depth, disk = spool.holdings.depth(), spool.room.disk()
    now = datetime.now(UTC)
    return Telemetry(
        captured_at_utc=now,
        queue_objects=depth.unsent.objects,
        queue_bytes=depth.unsent.stored_bytes,
        quarantined_objects=depth.by_state[State.QUARANTINED].objects,
        oldest_unsent_at_utc=depth.oldest_unsent_at_utc,
        disk_total_bytes=disk.total_bytes,
        disk_free_bytes=disk.free_bytes,
        accepting=not not_accepting_because(link, disk, depth.by_state[State.OWED]),
        memory_bytes=psutil.Process().memory_info().rss,
        uptime_s=max(0.0, (now - started_at_utc).total_seconds()),
        certificate_expires_at_utc=link.certificate_expires_at_utc,
        key_place=link.key_place,
        paused=paused,
        hours_to_full=disk.hours_to_full,
        disk_wear_percent=box_health.disk_wear_percent(),
        temperature_c=box_health.temperature_c(),
        memory_available_bytes=box_health.memory_available_bytes(),
        clock_offset_s=clock_offset_s,
        destinations=tuple(
            DestinationHealth(
                name=one.name,
                kind=one.kind,
                waiting_objects=one.waiting_objects,
                waiting_bytes=one.waiting_bytes,
                set_aside_objects=one.set_aside_objects,
                oldest_at_utc=one.oldest_at_utc,
                last_error=printable(one.last_error)[:160],
            )
            for one in destinations[:MAX_DESTINATIONS]
        ),
    )


def as_another_sees_it(telemetry: Telemetry, central: str, first: str, link: LinkStatus) -> Telemetry:
    """The same for a further central: the first is a destination, and what waits for its own copy is the queue."""
    others = [one for one in telemetry.destinations if one.name != central]
    to_first = DestinationHealth(
        name=first,
        kind="central",
        waiting_objects=telemetry.queue_objects,
        waiting_bytes=telemetry.queue_bytes,
        set_aside_objects=telemetry.quarantined_objects,
        oldest_at_utc=telemetry.oldest_unsent_at_utc,
        last_error="" if link.state == "connected" else printable(link.detail)[:160],
    )
    changes: dict[str, object] = {"destinations": (to_first, *others)[:MAX_DESTINATIONS]}
    for own in telemetry.destinations:
        if own.name == central:
            changes |= {
                "queue_objects": own.waiting_objects,
                "queue_bytes": own.waiting_bytes or 0,
                "quarantined_objects": own.set_aside_objects,
                "oldest_unsent_at_utc": own.oldest_at_utc,
            }
    return telemetry.model_copy(update=changes)


def info(*, ae_title: str, dicom_port: int, started_at_utc: datetime) -> Info:
    """What kind of box this is."""
    return Info(
        version=VERSION,
        ae_title=ae_title,
        dicom_port=dicom_port,
        started_at_utc=started_at_utc,
        model=box_health.model(),
        system=box_health.system(),
        architecture=platform.machine(),
        processors=os.cpu_count() or 0,
        memory_bytes=box_health.memory_total_bytes(),
    )


def equipment(seen: ScannerSeen) -> Equipment:
    return Equipment(
        ae_title=seen.calling_ae_title,
        address=seen.peer_address,
        first_seen_at_utc=seen.first_seen_at_utc,
        last_store_at_utc=seen.last_store_at_utc,
        instances=seen.instances,
        rejected=seen.rejected,
    )


def equipment_seen(scanners: ScannerBook) -> list[Equipment]:
    """For the heartbeat: everybody who called with a name."""
    return [equipment(seen) for seen in scanners.all() if seen.calling_ae_title][:MAX_EQUIPMENT]
