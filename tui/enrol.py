"""Gives the box its identity: the technician pastes the pairing string that central shows."""

from __future__ import annotations

from typing import Final

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Button, Input, Select, Static

from contract.control import BoxStatus, LinkStatus
from contract.enrolment import Pairing, PairingError
from tui import words

FIRST: Final = "central"


def standing_with(status: BoxStatus, central: str) -> tuple[str | None, LinkStatus]:
    """What a central calls this box, and how the box stands with it."""
    for one in status.centrals:
        if one.name == central:
            return one.gateway_id, one.link
    return status.gateway_id, status.link


class _PairingField(Input):
    """Takes a pasted text whole: Textual's own field takes its first line alone, and a wrapped string has several."""

    def _on_paste(self, event: events.Paste) -> None:
        event.prevent_default().stop()
        self.replace("".join(event.text.split()), *self.selection)


class Enrol(Vertical):
    """Checks the pairing string's form here, and leaves everything else to the box."""

    class Requested(Message):
        """The technician wants the box enrolled. The pairing string is a secret until it is used."""

        def __init__(self, pairing: str, central: str) -> None:
            super().__init__()
            self.pairing = pairing
            self.central = central

    BINDINGS = [Binding("escape", "leave", "Leave the field")]  # noqa: RUF012  # Textual's own declaration

    def __init__(self, id: str | None = None) -> None:  # noqa: A002  # Textual's name
        super().__init__(id=id)
        self._names = [FIRST]

    def compose(self) -> ComposeResult:
        yield Static("", id="enrol-state")
        yield Static(
            "At central: Fleet, Add a box. It shows a pairing string once; it is good for 15 minutes.\n"
            "Paste it here and press Enter."
        )
        yield Select[str]([(FIRST, FIRST)], value=FIRST, allow_blank=False, id="enrol-central", compact=True)
        yield _PairingField(placeholder="dicomnet-pair:1:…", id="pairing", max_length=512)
        yield Button("Enrol", variant="primary", id="enrol-go")
        yield Static("", id="enrol-result")

    def show(self, status: BoxStatus) -> None:
        if status.gateway_id is None:
            text = Text("○ This box is not enrolled: it takes no images yet.", "bold red")
        else:
            text = Text(f"● This box is {status.gateway_id}. Enrolling again replaces its identity.", "green")
        for one in status.centrals:
            if one.gateway_id is None:
                text.append(
                    f"\n○ {words.plain(one.name)}: not enrolled. It gets nothing of what comes until then.",
                    "yellow",
                )
            else:
                text.append(f"\n● {words.plain(one.name)}: this box is {one.gateway_id}.", "green")
        self.query_one("#enrol-state", Static).update(text)
        names = [FIRST, *(one.name for one in status.centrals)]
        if names != self._names:
            self._names = names
            self.query_one("#enrol-central", Select).set_options([(name, name) for name in names])
            self.set_class(len(names) > 1, "several")

    def show_result(self, text: str, *, ok: bool | None) -> None:
        """`ok` None: under way."""
        sign, colour = {True: ("✔", "green"), False: ("✘", "bold red"), None: ("◌", "yellow")}[ok]
        self.query_one("#enrol-result", Static).update(Text(f"{sign} {text}", colour))
        self.query_one("#enrol-go", Button).disabled = ok is None
        if ok:
            self.query_one("#pairing", Input).value = ""

    def action_leave(self) -> None:
        """Digits go into the field while it has the focus, and choose a page when it has not."""
        self.screen.set_focus(None)

    @on(Button.Pressed, "#enrol-go")
    @on(Input.Submitted, "#pairing")
    def _go(self) -> None:
        if self.query_one("#enrol-go", Button).disabled:
            return
        text = self.query_one("#pairing", Input).value
        try:
            pairing = Pairing.parse(text)
        except PairingError as error:
            self.show_result(str(error), ok=False)
            return
        self.show_result(f"asking central at {pairing.host} port {pairing.port} …", ok=None)
        central = self.query_one("#enrol-central", Select).value
        self.post_message(self.Requested(str(pairing), str(central)))
