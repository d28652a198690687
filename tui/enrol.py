"""Gives the box its identity: the technician pastes the pairing string that central shows."""

from __future__ import annotations

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Button, Input, Static

from contract.control import BoxStatus
from contract.enrolment import Pairing, PairingError


class Enrol(Vertical):
    """Checks the pairing string's form here, and leaves everything else to the box."""

    class Requested(Message):
        """The technician wants the box enrolled. The pairing string is a secret until it is used."""

        def __init__(self, pairing: str) -> None:
            super().__init__()
            self.pairing = pairing

    BINDINGS = [Binding("escape", "leave", "Leave the field")]  # noqa: RUF012  # Textual's own declaration

    def compose(self) -> ComposeResult:
        yield Static("", id="enrol-state")
        yield Static(
            "At central: Fleet, Add a box. It shows a pairing string once; it is good for 15 minutes.\n"
            "Paste it here and press Enter."
        )
        yield Input(placeholder="dicomnet-pair:1:…", id="pairing", max_length=512)
        yield Button("Enrol", variant="primary", id="enrol-go")
        yield Static("", id="enrol-result")

    def show(self, status: BoxStatus) -> None:
        if status.gateway_id is None:
            text = Text("○ This box is not enrolled: it takes no images yet.", "bold red")
        else:
            text = Text(f"● This box is {status.gateway_id}. Enrolling again replaces its identity.", "green")
        self.query_one("#enrol-state", Static).update(text)

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
        self.post_message(self.Requested(str(pairing)))
