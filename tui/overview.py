"""The first page: what the box is, whether it takes images, and how it stands with central."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from contract.control import BoxStatus
from tui import words

_BAR_CELLS: Final = 20
_DISK_TIGHT: Final = 0.1  # share of the disk that is free, below which the bar is yellow
_CERTIFICATE_SOON_D: Final = 14


class Overview(VerticalScroll):
    """Shows one `BoxStatus`."""

    def compose(self) -> ComposeResult:
        yield Static("", id="facts")

    def show(self, status: BoxStatus) -> None:
        self.query_one("#facts", Static).update(facts(status))


def facts(status: BoxStatus) -> Table:
    """The page's lines: a name, then a value that wraps."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    link = status.link
    table.add_row("Box", f"{status.gateway_id or '(not enrolled)'}, version {words.plain(status.version)}")
    table.add_row("Listening", f"{words.plain(status.ae_title)} on {status.host} port {status.port}")
    table.add_row("Accepting", _accepting(status))
    table.add_row("Central", link_text(status))
    if link.detail:
        table.add_row("", Text(words.plain(link.detail)))
    table.add_row("Last receipt", _ago(link.last_receipt_at_utc))
    table.add_row("Heartbeat", _sign(link.heartbeat_connected, "connected", "not connected"))
    table.add_row("Certificate", _certificate(link.certificate_expires_at_utc))
    table.add_row(
        "Queue",
        f"{words.count(status.queue_objects, 'object')}, {words.size(status.queue_bytes)}, "
        f"oldest {words.age(status.oldest_unsent_at_utc)}",
    )
    table.add_row("Quarantine", _quarantine(status.quarantined_objects))
    table.add_row(
        "Received", f"{words.count(status.received_objects, 'object')} in {words.age(status.started_at_utc)}"
    )
    table.add_row("Disk", _disk(status))
    table.add_row("Memory", f"{words.size(status.memory_bytes)}, process {status.pid}")
    return table


def link_text(status: BoxStatus) -> Text:
    """Sign, word and address of the link."""
    sign, colour, word = words.LINK_WORDS[status.link.state]
    text = Text.assemble((f"{sign} {word}", colour))
    if status.link.central:
        text.append(f" {words.plain(status.link.central)}")
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


def _certificate(expires: datetime | None) -> Text:
    if expires is None:
        return Text("-")
    days = (expires - datetime.now(UTC)).days
    if days < 0:
        return Text(f"✘ EXPIRED on {expires:%Y-%m-%d}: enrol the box again", "bold red")
    text = f"until {expires:%Y-%m-%d}, {days} days"
    return Text(f"◌ {text}: enrol the box again soon", "yellow") if days < _CERTIFICATE_SOON_D else Text(text)


def _disk(status: BoxStatus) -> Text:
    free = status.disk_free_bytes / max(1, status.disk_total_bytes)
    colour = "yellow" if free < _DISK_TIGHT else "green"
    return Text.assemble(
        (words.bar(1 - free, _BAR_CELLS), colour),
        f" {words.size(status.disk_free_bytes)} free of {words.size(status.disk_total_bytes)}",
    )
