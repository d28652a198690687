"""Asks for host, port and AE title of anybody, for a C-ECHO."""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Static

from contract.control import EchoParams

_DICOM_PORT: Final = 104


class EchoForm(ModalScreen[EchoParams | None]):
    """Host, port and AE title of anybody."""

    BINDINGS = [Binding("escape", "dismiss(None)", "Back")]  # noqa: RUF012  # Textual's own declaration

    def __init__(self, host: str, ae_title: str) -> None:
        super().__init__()
        self._host = host
        self._ae_title = ae_title

    def compose(self) -> ComposeResult:
        with Vertical(id="echo-form"):
            yield Label("C-ECHO to any DICOM application")
            yield Input(self._host, placeholder="host or address", id="echo-host")
            yield Input(str(_DICOM_PORT), placeholder="port", id="echo-port", type="integer")
            yield Input(self._ae_title, placeholder="AE title it is called by", id="echo-ae", max_length=16)
            yield Static("", id="echo-fault")
            with Horizontal():
                yield Button("Ask", variant="primary", id="echo-ask")
                yield Button("Back", id="echo-back")

    def on_mount(self) -> None:
        self.query_one("#echo-port" if self._host else "#echo-host", Input).focus()

    @on(Button.Pressed, "#echo-back")
    def _back(self) -> None:
        self.dismiss(None)

    @on(Button.Pressed, "#echo-ask")
    @on(Input.Submitted)
    def _ask(self) -> None:
        host, port, ae_title = (
            self.query_one(name, Input).value.strip() for name in ("#echo-host", "#echo-port", "#echo-ae")
        )
        try:
            params = EchoParams.model_validate({"host": host, "port": port, "ae_title": ae_title})
        except ValidationError:
            self.query_one("#echo-fault", Static).update(
                Text("✘ a host, a port from 1 to 65535 and an AE title are needed", "red")
            )
            return
        self.dismiss(params)
