"""What the box says about itself on the control socket, in the shapes of `contract.control`.

Pure translation from the rooms' own records: nothing is counted or decided here, except the one sentence
that tells a technician why nothing is accepted.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import psutil

from contract.control import BoxStatus, LinkStatus, LostStudyEntry, QueueEntry, QueueList
from contract.sizes import size_text
from edge.buffer.deliveries import SetAside
from edge.buffer.receipts import LostStudy
from edge.buffer.records import Disk, ObjectRow, Tally
from edge.buffer.scrub import ScrubReport
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.version import VERSION

QUEUE_STATES: Final = (State.READY, State.SENDING, State.QUARANTINED)
QUEUE_LIMIT: Final = 200
_LOST_SHOWN: Final = 50


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


def status(
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
