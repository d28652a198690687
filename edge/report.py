"""What the box says about itself, in the shapes of the control socket and of the heartbeat.

Pure translation from the rooms' own records: nothing is counted or decided here, except the one sentence
that tells a technician why nothing is accepted.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from typing import Final

import psutil  # type: ignore[import-untyped]  # it ships no type information

from contract.control import (
    BoxStatus,
    CentralStatus,
    DestinationList,
    DestinationStatus,
    LinkStatus,
    LostStudyEntry,
    QueueEntry,
    QueueList,
    WorkflowStatus,
)
from contract.heartbeat import MAX_DESTINATIONS, DestinationHealth, Equipment, Info, Telemetry
from edge.buffer.deliveries import SetAside
from edge.buffer.receipts import LostStudy
from edge.buffer.records import Disk, ObjectRow, ScannerSeen, Tally
from edge.buffer.scanners import ScannerBook
from edge.buffer.scrub import ScrubReport
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.uplink import box_health
from edge.uplink.refusals import printable

VERSION: Final = installed_version("dicomnet")
QUEUE_STATES: Final = (State.READY, State.SENDING, State.QUARANTINED)
QUEUE_LIMIT: Final = 200
_LOST_SHOWN: Final = 50
_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")
MAX_EQUIPMENT: Final = 256
"""Callers told to central, the latest first: whoever makes up AE titles must not fill the broker."""


def not_accepting_because(link: LinkStatus, disk: Disk, owed: Tally) -> str:
    """Why scanners are answered 0xA700, as a sentence; empty when they are not."""
    if link.state == "not-enrolled":
        return "Not enrolled: nothing can be sealed before central has given this box its keys."
    if not disk.accepting:
        what = (
            f"{size_text(disk.free_bytes)} are free and {size_text(disk.reserve_bytes)} are kept in reserve"
        )
        if disk.free_files < disk.reserve_files:
            what = f"{disk.free_files} more files fit and {disk.reserve_files} are kept in reserve"
        if owed.objects:
            return (
                f"The disk is full: {what}. {owed.objects} objects, {size_text(owed.stored_bytes)}, wait for other "
                "destinations than central alone: dicomnet-edge destinations says why."
            )
        return f"The disk is full: {what}. It goes on by itself once central has taken what waits here."
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
    scrubbed: ScrubReport | None,
) -> BoxStatus:
    depth, disk = spool.holdings.depth(), spool.room.disk()
    process = psutil.Process()
    because = not_accepting_because(link, disk, depth.by_state[State.OWED])
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
        hours_to_full=disk.hours_to_full,
        retained_objects=depth.by_state[State.RETAINED].objects,
        retained_bytes=depth.by_state[State.RETAINED].stored_bytes,
        scrubbed_at_utc=scrubbed.finished_at_utc if scrubbed else None,
        scrubbed_objects=scrubbed.files if scrubbed else 0,
        scrub_damaged_objects=scrubbed.damaged if scrubbed else 0,
        memory_bytes=process.memory_info().rss,
        link=link,
        lost_studies=[
            LostStudyEntry(
                calling_ae_title=study.calling_ae_title,
                study_instance_uid=study.study_instance_uid,
                instances=study.instances,
                first_at_utc=study.first_at_utc,
                last_at_utc=study.last_at_utc,
                sentence=lost_sentence(study),
            )
            for study in spool.lost_studies()[:_LOST_SHOWN]
        ],
    )


def lost_sentence(study: LostStudy) -> str:
    """For a technician; UIDs and times alone."""
    many = "1 image" if study.instances == 1 else f"{study.instances} images"
    fetch = "fetch them from another central of this box, or " if study.at_another else ""
    return (
        f"{study.central or 'Central'} lost {many} of study {study.study_instance_uid} from "
        f"{study.calling_ae_title}, received "
        f"{study.first_at_utc:%Y-%m-%d %H:%M} to {study.last_at_utc:%Y-%m-%d %H:%M} UTC, and they are not here "
        f"any more: {fetch}send the study again from the scanner."
    )


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


def queue(spool: Spool) -> QueueList:
    """What waits for central, and what central or a destination did not take."""
    depth, tallies = spool.holdings.depth(), spool.deliveries.tallies()
    rows = spool.holdings.list_objects(states=QUEUE_STATES, limit=QUEUE_LIMIT)
    refused = spool.deliveries.set_aside_rows(limit=QUEUE_LIMIT)
    return QueueList(
        total=sum(depth.by_state[state].objects for state in QUEUE_STATES)
        + sum(tally.set_aside for tally in tallies.values()),
        entries=[*(_set_aside_entry(row) for row in refused), *(_entry(row) for row in rows)],
    )


def _set_aside_entry(row: SetAside) -> QueueEntry:
    return QueueEntry(
        object_id=row.object_id,
        state="set aside",
        destination=row.destination,
        calling_ae_title=row.calling_ae_title,
        modality=row.modality,
        study_instance_uid=row.study_instance_uid,
        size_bytes=row.size_bytes,
        stored_bytes=row.stored_bytes,
        received_at_utc=row.received_at_utc,
        attempts=row.attempts,
        last_error=row.reason,
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
        last_error=_advised(row),
        priority=row.priority.word,
    )


def _advised(row: ObjectRow) -> str:
    """The last error; with what to do where only the scanner can help."""
    error = row.last_error or ""
    if not row.damaged:
        return error
    return f"{error}: send instance {row.sop_instance_uid} again from {row.calling_ae_title}, then this goes by itself"


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


def status_text(status: BoxStatus) -> str:
    """The plain-text form for `dicomnet-edge status`."""
    link = status.link
    oldest = status.oldest_unsent_at_utc.isoformat() if status.oldest_unsent_at_utc else "-"
    expires = link.certificate_expires_at_utc.date().isoformat() if link.certificate_expires_at_utc else "-"
    place = {"tpm": ", key in the TPM", "file": ", key in a file", None: ""}[link.key_place]
    renewal = f", renewed from {link.renew_at_utc.date().isoformat()} on" if link.renew_at_utc else ""
    lines = [
        f"box           {status.gateway_id or '(not enrolled)'}, version {status.version}, pid {status.pid}",
        f"listening     {status.ae_title} on {status.host} port {status.port}"
        + (f", TLS port {status.tls_port}" if status.tls_port is not None else ""),
        f"accepting     {'yes' if status.accepting else 'NO: ' + status.not_accepting_because}",
        f"central       {link.state}{': ' + link.detail if link.detail else ''}",
        f"heartbeat     {'connected' if link.heartbeat_connected else 'not connected'}"
        f"{': ' + link.heartbeat_detail if link.heartbeat_detail else ''}",
        f"certificate   until {expires}{renewal}{place}",
        *([f"enrolment     {link.enrolment}"] if link.enrolment else []),
        *([f"notice        {link.notice}"] if link.notice else []),
        *(f"LOST          {study.sentence}" for study in status.lost_studies),
        *(
            [f"clock         {link.clock_offset_s:+.0f} s against central's"]
            if link.clock_offset_s is not None
            else []
        ),
        f"queue         {status.queue_objects} objects, {size_text(status.queue_bytes)}, oldest {oldest}",
        f"quarantine    {status.quarantined_objects} objects",
        f"received      {status.received_objects} objects since {status.started_at_utc.isoformat()}",
        f"disk          {size_text(status.disk_free_bytes)} free of {size_text(status.disk_total_bytes)}"
        f"{full_text(status.hours_to_full)}",
        f"kept          {status.retained_objects} objects that central has, {size_text(status.retained_bytes)}",
        f"scrubbed      {_scrub_text(status)}",
        f"memory        {size_text(status.memory_bytes)}",
        *([f"receiving     {status.receiving_notice}"] if status.receiving_notice else []),
    ]
    lines += [_central_line(one) for one in status.centrals]
    lines += [destination_line(one) for one in status.destinations]
    if status.workflow is not None:
        lines += _workflow_lines(status.workflow)
    return "\n".join(lines)


def _central_line(one: CentralStatus) -> str:
    """How the box stands with a further central, on one line."""
    standing = "" if one.mode == "copy" else ", in use" if one.in_use else ", stands by"
    detail = one.link.enrolment or one.link.notice or one.link.detail
    return f"{one.name:<14}{one.mode}{standing}, {one.link.state}{': ' + detail if detail else ''}"


def destinations_text(listed: DestinationList) -> str:
    """The plain-text form for `dicomnet-edge destinations`."""
    lines = [destination_line(one) for one in listed.destinations] or ["no destination beside central"]
    for entry in listed.set_aside:
        about = f"{entry.modality or '-'} from {entry.calling_ae_title or '-'}, study {entry.study_instance_uid or '-'}"
        lines.append(f"  set aside   {entry.destination}: {entry.object_id} {about}: {entry.reason}")
    return "\n".join(lines)


def destination_line(one: DestinationStatus) -> str:
    """How one destination stands, on one line."""
    line = f"to {one.name:<11}{one.waiting_objects} objects wait, {size_text(one.waiting_bytes)}"
    if one.oldest_at_utc is not None:
        line += f", oldest {one.oldest_at_utc.isoformat(timespec='seconds')}"
    if one.set_aside_objects:
        line += f"; {one.set_aside_objects} SET ASIDE (dicomnet-edge destinations)"
    if not one.configured:
        line += "; not configured any more: configure it again, or dicomnet-edge give-up"
    return line + (f": {one.last_error}" if one.last_error else "")


def _workflow_lines(workflow: WorkflowStatus) -> list[str]:
    lines = []
    if workflow.worklist_source != "off":
        refreshed = workflow.worklist_refreshed_at_utc
        seen = f"as of {refreshed.isoformat(timespec='seconds')}" if refreshed else "never seen yet"
        trouble = f": {workflow.worklist_error}" if workflow.worklist_error else ""
        lines.append(
            f"worklist      {workflow.worklist_items} items from {workflow.worklist_source}, {seen}{trouble}"
        )
    if workflow.procedures_waiting or workflow.procedures_refused:
        lines.append(
            f"procedures    {workflow.procedures_waiting} messages wait for central, "
            f"{workflow.procedures_refused} refused{': ' if workflow.procedures_error else ''}"
            f"{workflow.procedures_error}"
        )
    return lines


def full_text(hours: float | None) -> str:
    """Such as ``; full in about 14 hours``; empty where that is not soon or not known."""
    if hours is None:
        return ""
    if hours < 1:
        return "; full within the hour" if hours else "; full"
    return f"; full in about {hours:.0f} hours"


def _scrub_text(status: BoxStatus) -> str:
    if status.scrubbed_at_utc is None:
        return "not yet"
    found = f"{status.scrub_damaged_objects} damaged" if status.scrub_damaged_objects else "none damaged"
    return f"{status.scrubbed_at_utc:%Y-%m-%d}, {status.scrubbed_objects} files, {found}"


def size_text(size_bytes: float) -> str:
    """`size_bytes` with a binary unit and three digits, such as 1.46 GiB."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    power = min(int(math.log2(size_bytes)) // 10, len(_UNITS))
    number = size_bytes / 1024**power
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {_UNITS[power - 1]}"
