"""What the box says about itself, in the shapes of the control socket and of the heartbeat.

Pure translation from the rooms' own records: nothing is counted or decided here, except the one sentence
that tells a technician why nothing is accepted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from typing import Final

import psutil  # type: ignore[import-untyped]  # it ships no type information

from contract.control import BoxStatus, KnownScanner, LinkStatus, QueueEntry, QueueList, ScannerList
from contract.heartbeat import Equipment, Telemetry
from edge.buffer.records import Disk, ObjectRow, ScannerSeen
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.config import ScannerSettings

VERSION: Final = installed_version("dicomnet")
QUEUE_STATES: Final = (State.READY, State.SENDING, State.QUARANTINED)
QUEUE_LIMIT: Final = 200
_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")
MAX_EQUIPMENT: Final = 256
"""Callers told to central, the latest first: whoever makes up AE titles must not fill the broker."""


def not_accepting_because(link: LinkStatus, disk: Disk) -> str:
    """Why scanners are answered 0xA700, as a sentence; empty when they are not."""
    if link.state == "not-enrolled":
        return "Not enrolled: nothing can be sealed before central has given this box its keys."
    if not disk.accepting:
        return (
            f"The disk is full: {size_text(disk.free_bytes)} are free and "
            f"{size_text(disk.reserve_bytes)} are kept in reserve."
        )
    return ""


def box_status(
    spool: Spool,
    link: LinkStatus,
    *,
    gateway_id: str | None,
    ae_title: str,
    host: str,
    port: int,
    started_at_utc: datetime,
) -> BoxStatus:
    depth, disk = spool.depth(), spool.disk()
    process = psutil.Process()
    because = not_accepting_because(link, disk)
    return BoxStatus(
        gateway_id=gateway_id,
        ae_title=ae_title,
        host=host,
        port=port,
        version=VERSION,
        pid=process.pid,
        started_at_utc=started_at_utc,
        accepting=not because,
        not_accepting_because=because,
        queue_objects=depth.unsent.objects,
        queue_bytes=depth.unsent.stored_bytes,
        quarantined_objects=depth.by_state[State.QUARANTINED].objects,
        oldest_unsent_at_utc=depth.oldest_unsent_at_utc,
        received_objects=depth.received_since_open,
        disk_total_bytes=disk.total_bytes,
        disk_free_bytes=disk.free_bytes,
        memory_bytes=process.memory_info().rss,
        link=link,
    )


def telemetry(spool: Spool, link: LinkStatus, *, started_at_utc: datetime) -> Telemetry:
    depth, disk = spool.depth(), spool.disk()
    now = datetime.now(UTC)
    return Telemetry(
        captured_at_utc=now,
        queue_objects=depth.unsent.objects,
        queue_bytes=depth.unsent.stored_bytes,
        quarantined_objects=depth.by_state[State.QUARANTINED].objects,
        oldest_unsent_at_utc=depth.oldest_unsent_at_utc,
        disk_total_bytes=disk.total_bytes,
        disk_free_bytes=disk.free_bytes,
        accepting=not not_accepting_because(link, disk),
        memory_bytes=psutil.Process().memory_info().rss,
        uptime_s=max(0.0, (now - started_at_utc).total_seconds()),
        certificate_expires_at_utc=link.certificate_expires_at_utc,
    )


def queue(spool: Spool) -> QueueList:
    depth = spool.depth()
    rows = spool.list_objects(states=QUEUE_STATES, limit=QUEUE_LIMIT)
    return QueueList(
        total=sum(depth.by_state[state].objects for state in QUEUE_STATES),
        entries=[_entry(row) for row in rows],
    )


def _entry(row: ObjectRow) -> QueueEntry:
    return QueueEntry(
        object_id=row.object_id,
        # What nobody was promised success for cannot be sent: it is shown as another state.
        state="rejected" if row.state is State.QUARANTINED and not row.success_answered else row.state.value,
        calling_ae_title=row.calling_ae_title,
        modality=row.modality or "",
        study_instance_uid=row.study_instance_uid or "",
        size_bytes=row.size_bytes,
        stored_bytes=row.stored_bytes,
        received_at_utc=row.received_at_utc,
        attempts=row.attempts,
        last_error=row.last_error or "",
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


def equipment_seen(spool: Spool) -> list[Equipment]:
    """For the heartbeat: everybody who called with a name."""
    return [equipment(seen) for seen in spool.scanners_seen() if seen.calling_ae_title][:MAX_EQUIPMENT]


def scanners(spool: Spool, configured: Sequence[ScannerSettings]) -> ScannerList:
    """The configured scanners in their order, each with what was seen of it, then everybody else who called."""
    seen = spool.scanners_seen()
    known: list[KnownScanner] = []
    for scanner in configured:
        found = next((one for one in seen if one.calling_ae_title == scanner.ae_title), None)
        if found is not None:
            seen.remove(found)
        known.append(_known(scanner.ae_title, scanner.host, scanner, found))
    known += [_known(one.calling_ae_title, one.peer_address, None, one) for one in seen]
    return ScannerList(scanners=known[: MAX_EQUIPMENT + len(configured)])


def _known(
    ae_title: str, address: str, scanner: ScannerSettings | None, seen: ScannerSeen | None
) -> KnownScanner:
    return KnownScanner(
        ae_title=ae_title,
        address=address,
        echo_host=scanner.host if scanner else None,
        echo_port=scanner.port if scanner else None,
        seen=equipment(seen) if seen else None,
        last_error=(seen.last_error or "") if seen else "",
    )


def status_text(status: BoxStatus) -> str:
    """The plain-text form for `dicomnet-edge status`."""
    link = status.link
    oldest = status.oldest_unsent_at_utc.isoformat() if status.oldest_unsent_at_utc else "-"
    expires = link.certificate_expires_at_utc.date().isoformat() if link.certificate_expires_at_utc else "-"
    lines = [
        f"box           {status.gateway_id or '(not enrolled)'}, version {status.version}, pid {status.pid}",
        f"listening     {status.ae_title} on {status.host} port {status.port}",
        f"accepting     {'yes' if status.accepting else 'NO: ' + status.not_accepting_because}",
        f"central       {link.state}{': ' + link.detail if link.detail else ''}",
        f"heartbeat     {'connected' if link.heartbeat_connected else 'not connected'}",
        f"certificate   until {expires}",
        f"queue         {status.queue_objects} objects, {size_text(status.queue_bytes)}, oldest {oldest}",
        f"quarantine    {status.quarantined_objects} objects",
        f"received      {status.received_objects} objects since {status.started_at_utc.isoformat()}",
        f"disk          {size_text(status.disk_free_bytes)} free of {size_text(status.disk_total_bytes)}",
        f"memory        {size_text(status.memory_bytes)}",
    ]
    return "\n".join(lines)


def size_text(size_bytes: float) -> str:
    """`size_bytes` with a binary unit and three digits, such as 1.46 GiB."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    power = min(int(math.log2(size_bytes)) // 10, len(_UNITS))
    number = size_bytes / 1024**power
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {_UNITS[power - 1]}"
