"""How the box stands, in plain text for a technician's terminal."""

from __future__ import annotations

from contract.control import (
    BoxStatus,
    CentralStatus,
    CommitmentStatus,
    DestinationList,
    DestinationStatus,
    StudyEntry,
    StudyList,
    WorkflowStatus,
)
from contract.sizes import size_text


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
        *(
            ["sending       PAUSED: images are received and kept; dicomnet-edge resume"]
            if status.paused
            else []
        ),
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
    if status.commitments is not None:
        lines += _commitment_lines(status.commitments)
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


def _commitment_lines(commitments: CommitmentStatus) -> list[str]:
    open_ones = {
        "wait for their images": commitments.waiting,
        "to be reported": commitments.unreported,
        "NEVER REPORTED": commitments.given_up,
    }
    said = ", ".join(f"{number} {words}" for words, number in open_ones.items() if number)
    why = f": {commitments.unreported_because}" if commitments.unreported_because else ""
    return [f"commitment    {said}{why}"] if said else []


def studies_text(listed: StudyList) -> str:
    """The plain-text form for `dicomnet-edge studies`, the study that changed last first."""
    return "\n".join(map(_study_line, listed.studies)) or "nothing was received yet"


def _study_line(study: StudyEntry) -> str:
    expected = "" if study.expected is None else f" of {study.expected}"
    late = f", {study.late} late" if study.late else ""
    by = f" ({study.evidence})" if study.evidence else ""
    images = "image" if (study.expected or study.received) == 1 else "images"
    return (
        f"{study.last_at_utc.isoformat(timespec='seconds')}  {study.calling_ae_title:<16}  "
        f"{study.state + by:<25}  {study.received}{expected} {images}{late}  {study.study_instance_uid}"
    )


def _scrub_text(status: BoxStatus) -> str:
    if status.scrubbed_at_utc is None:
        return "not yet"
    found = f"{status.scrub_damaged_objects} damaged" if status.scrub_damaged_objects else "none damaged"
    return f"{status.scrubbed_at_utc:%Y-%m-%d}, {status.scrubbed_objects} files, {found}"


def full_text(hours: float | None) -> str:
    """Such as ``; full in about 14 hours``; empty where that is not soon or not known."""
    if hours is None:
        return ""
    if hours < 1:
        return "; full within the hour" if hours else "; full"
    return f"; full in about {hours:.0f} hours"
