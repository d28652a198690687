"""The first page: what the box is, whether it takes images, and how it stands with central."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Static

from contract.control import BoxStatus, CentralStatus, CommitmentStatus, DestinationStatus, WorkflowStatus
from contract.sizes import size_text
from tui import words
from tui.confirm import Confirm

_BAR_CELLS: Final = 20
_DISK_TIGHT: Final = 0.1  # share of the disk that is free, below which the bar is yellow
_CERTIFICATE_SOON_D: Final = 14
_KINDS: Final = {"dimse": "C-STORE", "stow": "STOW-RS", "central": "central"}
_FULL_SOON_H: Final = 48  # a weekend


class Overview(VerticalScroll):
    """Shows one `BoxStatus`."""

    BINDINGS = [Binding("p", "pause", "Pause/resume")]  # noqa: RUF012  # Textual's own declaration

    class Pause(Message):
        """The technician wants sending to centrals to stop, or to go on."""

        def __init__(self, *, paused: bool) -> None:
            super().__init__()
            self.paused = paused

    def __init__(self, *, id: str) -> None:  # noqa: A002  # Textual's own name
        super().__init__(id=id)
        self._paused: bool | None = None

    def compose(self) -> ComposeResult:
        yield Static("", id="facts")

    def action_pause(self) -> None:
        if self._paused is None:
            return
        if self._paused:
            self.post_message(self.Pause(paused=False))
            return
        question = (
            "Pause sending to central? Images are received and kept on the box meanwhile, also over a restart, and "
            "nobody elsewhere sees them until p is pressed again."
        )
        self.app.push_screen(Confirm(question, "Pause"), self._if_confirmed)

    def _if_confirmed(self, confirmed: bool | None) -> None:
        if confirmed:
            self.post_message(self.Pause(paused=True))

    def show(self, status: BoxStatus) -> None:
        self._paused = status.paused
        self.query_one("#facts", Static).update(facts(status))


def facts(status: BoxStatus) -> Table:
    """The page's lines: a name, then a value that wraps."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    link = status.link
    table.add_row("Box", f"{status.gateway_id or '(not enrolled)'}, version {words.plain(status.version)}")
    secured = f", TLS port {status.tls_port}" if status.tls_port is not None else ""
    table.add_row("Listening", f"{words.plain(status.ae_title)} on {status.host} port {status.port}{secured}")
    table.add_row("Accepting", _accepting(status))
    table.add_row("Central", link_text(status))
    if link.detail:
        table.add_row("", Text(words.plain(link.detail)))
    if status.paused:
        table.add_row("Sending", Text("✘ PAUSED. Images are received and kept; p goes on", "bold red"))
    for sentence in (link.enrolment, link.notice):
        if sentence:
            table.add_row("", Text(words.plain(sentence), "yellow"))
    for central in status.centrals:
        table.add_row(words.plain(central.name), _further(central))
    for study in status.lost_studies:
        table.add_row("Lost", Text(words.plain(study.sentence), "red"))
    table.add_row("Last receipt", _ago(link.last_receipt_at_utc))
    table.add_row("Heartbeat", _sign(link.heartbeat_connected, "connected", "not connected"))
    if link.heartbeat_detail:
        table.add_row("", Text(words.plain(link.heartbeat_detail)))
    table.add_row("Certificate", _certificate(link.certificate_expires_at_utc, link.key_place))
    table.add_row(
        "Queue",
        f"{words.count(status.queue_objects, 'object')}, {size_text(status.queue_bytes)}, "
        f"oldest {words.age(status.oldest_unsent_at_utc)}",
    )
    table.add_row("Quarantine", _quarantine(status.quarantined_objects))
    for destination in status.destinations:
        table.add_row(f"To {words.plain(destination.name)}", _destination(destination))
    if status.workflow is not None and status.workflow.worklist_source != "off":
        table.add_row("Worklist", _worklist(status.workflow))
    if status.workflow is not None and (
        status.workflow.procedures_waiting or status.workflow.procedures_refused
    ):
        table.add_row("Procedures", _procedures(status.workflow))
    if status.commitments is not None and (status.commitments.unreported or status.commitments.given_up):
        table.add_row("Commitment", _commitments(status.commitments))
    table.add_row(
        "Received", f"{words.count(status.received_objects, 'object')} in {words.age(status.started_at_utc)}"
    )
    table.add_row("Disk", _disk(status))
    table.add_row("Disk check", _disk_check(status))
    table.add_row("Memory", f"{size_text(status.memory_bytes)}, process {status.pid}")
    return table


def link_text(status: BoxStatus) -> Text:
    """Sign, word and address of the link."""
    sign, colour, word = words.LINK_WORDS[status.link.state]
    text = Text.assemble((f"{sign} {word}", colour))
    if status.link.central:
        text.append(f" {words.plain(status.link.central)}")
    return text


def _further(one: CentralStatus) -> Text:
    """A central beside the first: how the box stands with it, and what it is for."""
    sign, colour, word = words.LINK_WORDS[one.link.state]
    text = Text.assemble((f"{sign} {word}", colour))
    if one.link.central:
        text.append(f" {words.plain(one.link.central)}")
    text.append(", gets a copy" if one.mode == "copy" else ", IN USE" if one.in_use else ", stands by")
    if one.gateway_id is not None and not one.link.heartbeat_connected:
        text.append(", hears no heartbeat", "yellow")
    for sentence in (one.link.detail, one.link.enrolment, one.link.notice):
        if sentence:
            text.append(f". {words.plain(sentence)}")
    return text


def _sign(good: bool, yes: str, no: str) -> Text:
    return Text(f"● {yes}", "green") if good else Text(f"○ {no}", "yellow")


def _ago(moment: datetime | None) -> str:
    return f"{words.age(moment)} ago" if moment else "none since the start"


def _accepting(status: BoxStatus) -> Text:
    if status.accepting:
        return Text("✔ yes", "green")
    return Text(f"✘ NO. {words.plain(status.not_accepting_because)}", "bold red")


def _quarantine(objects: int) -> Text:
    if not objects:
        return Text("✔ empty", "green")
    return Text(f"✘ {words.count(objects, 'object')} to look at (page 2)", "red")


def _destination(one: DestinationStatus) -> Text:
    """What waits for it, for how long and why; what it refused."""
    kind = f"{_KINDS[one.kind]}: " if one.kind else ""
    if not (one.waiting_objects or one.set_aside_objects or one.last_error):
        return Text(f"✔ {kind}has everything", "green")
    said = "nothing waits"
    if one.waiting_objects:
        waiting = words.count(one.waiting_objects, "object")
        said = f"{waiting}, {size_text(one.waiting_bytes)}, oldest {words.age(one.oldest_at_utc)}"
    if one.set_aside_objects:
        said += f"; {one.set_aside_objects} REFUSED, to look at (page 2)"
    if one.last_error:
        said += f". {words.plain(one.last_error)}"
    if not one.configured:
        said += ". Not configured any more: configure it again, or dicomnet-edge give-up"
    said = kind + said
    if one.set_aside_objects or not one.configured:
        return Text(f"✘ {said}", "red")
    return Text(f"◌ {said}", "yellow" if one.last_error else "")


def _commitments(commitments: CommitmentStatus) -> Text:
    """Reports that scanners have not taken yet, or never did."""
    waiting = f"{words.count(commitments.unreported, 'report')} to deliver"
    if commitments.unreported_because:
        waiting += f": {words.plain(commitments.unreported_because)}"
    if not commitments.given_up:
        return Text(f"◌ {waiting}", "yellow")
    return Text(f"✘ {commitments.given_up} given up: is the scanner's host set (page 3)? {waiting}", "red")


def _procedures(workflow: WorkflowStatus) -> Text:
    """Messages about procedure steps that central does not have."""
    text = f"{words.count(workflow.procedures_waiting, 'message')} to central"
    if not workflow.procedures_refused:
        return Text(f"◌ {text} since {words.age(workflow.procedures_oldest_at_utc)}", "yellow")
    reason = words.plain(workflow.procedures_error)
    return Text(f"✘ {text}, {workflow.procedures_refused} refused: {reason}", "red")


def _worklist(workflow: WorkflowStatus) -> Text:
    """How many, from where, how old; what keeps it from being fresh comes after it."""
    refreshed = workflow.worklist_refreshed_at_utc
    seen = f"{words.age(refreshed)} old" if refreshed else "never seen yet"
    text = f"{words.count(workflow.worklist_items, 'item')} from {workflow.worklist_source}, {seen}"
    if not workflow.worklist_error and refreshed:
        return Text(f"✔ {text}", "green")
    return Text(f"◌ {text}. {words.plain(workflow.worklist_error)}".rstrip(), "yellow")


def _certificate(expires: datetime | None, key_place: str | None) -> Text:
    if expires is None:
        return Text("-")
    days = (expires - datetime.now(UTC)).days
    if days < 0:
        return Text(f"✘ EXPIRED on {expires:%Y-%m-%d}: enrol the box again", "bold red")
    text = f"until {expires:%Y-%m-%d}, {days} days"
    text += {"tpm": ", key in the TPM", "file": ", key in a file"}.get(key_place or "", "")
    return Text(f"◌ {text}: enrol the box again soon", "yellow") if days < _CERTIFICATE_SOON_D else Text(text)


def _disk(status: BoxStatus) -> Text:
    free = status.disk_free_bytes / max(1, status.disk_total_bytes)
    hours = status.hours_to_full
    soon = hours is not None and hours < _FULL_SOON_H
    colour = "yellow" if free < _DISK_TIGHT or soon else "green"
    text = Text.assemble(
        (words.bar(1 - free, _BAR_CELLS), colour),
        f" {size_text(status.disk_free_bytes)} free of {size_text(status.disk_total_bytes)}",
    )
    if hours:
        text.append(f", full in about {words.count(max(1, round(hours)), 'hour')}", "yellow" if soon else "")
    if status.retained_objects:
        text.append(f"; {size_text(status.retained_bytes)} may go, central has them")
    return text


def _disk_check(status: BoxStatus) -> Text:
    """When everything on the disk was last read and compared, and what came of it."""
    if status.scrubbed_at_utc is None:
        return Text("not yet; it runs while nothing is received")
    read = f"{words.count(status.scrubbed_objects, 'file')} read {words.age(status.scrubbed_at_utc)} ago"
    if status.scrub_damaged_objects:
        damaged = words.count(status.scrub_damaged_objects, "object")
        return Text(
            f"✘ {damaged} DAMAGED, {read}: the disk may be failing (page 2 says what to do)", "bold red"
        )
    return Text(f"✔ nothing damaged, {read}", "green")
