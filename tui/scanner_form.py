"""What holds for one scanner, to be filled in or changed; the box itself checks the values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Select, Static

from contract.control import ScannerEntry
from tui import words

_TLS: Final = (
    ("allowed on either port", "allowed"),
    ("required: TLS port only", "required"),
    ("off: plain port only", "off"),
)

_CALL_OVER: Final = (
    ("TLS where that is required", "auto"),
    ("TLS", "tls"),
    ("plain", "plain"),
)

_FIELDS: Final = (
    ("ae_title", "AE title", "as the scanner calls itself; capitals count"),
    ("name", "Name", "what people call it"),
    ("addresses", "Addresses", "10.1.2.3, 10.1.2.0/24; empty: any"),
    ("called_ae_titles", "May call", "AE titles; empty: this box's"),
    ("certificate_sha256", "Certificate", "SHA-256 fingerprint; empty: any of the CA"),
    ("host", "Host", "for C-ECHO and reports; empty: none"),
    ("port", "Port", "1 to 65535"),
)


class ScannerForm(ModalScreen[None]):
    """Stays open until the box has taken the entry, so that nothing typed is lost to a typing error."""

    BINDINGS = [Binding("escape", "dismiss", "Back")]  # noqa: RUF012  # Textual's own declaration

    class Save(Message):
        """The technician wants this entry to hold."""

        def __init__(self, form: ScannerForm, entry: ScannerEntry) -> None:
            super().__init__()
            self.form = form
            self.entry = entry

    def __init__(self, entry: ScannerEntry, profiles: Sequence[str], *, is_new: bool) -> None:
        super().__init__()
        self._entry = entry
        self._profiles = profiles
        self._is_new = is_new

    def compose(self) -> ComposeResult:
        entry = self._entry
        values = entry.model_dump() | {
            "addresses": ", ".join(entry.addresses),
            "called_ae_titles": ", ".join(entry.called_ae_titles),
        }
        with Vertical(id="scanner-form"):
            yield Label(
                "A scanner that may send" if self._is_new else f"{words.plain(entry.ae_title)} may send"
            )
            for key, label, hint in _FIELDS:
                with Horizontal(classes="row"):
                    yield Label(label, classes="name")
                    yield Input(
                        str(values[key]),
                        placeholder=hint,
                        id=f"scanner-{key}",
                        disabled=key == "ae_title" and not self._is_new,
                        compact=True,
                    )
            with Horizontal(classes="row"):
                yield Label("TLS", classes="name")
                yield Select(_TLS, value=entry.tls, allow_blank=False, id="scanner-tls", compact=True)
            with Horizontal(classes="row"):
                yield Label("Called over", classes="name")
                yield Select(
                    _CALL_OVER, value=entry.call_over, allow_blank=False, id="scanner-call_over", compact=True
                )
            with Horizontal(classes="row"):
                yield Label("Quirks", classes="name")
                yield Select(
                    [(name, name) for name in self._profiles],
                    prompt="none, or by its implementation",
                    value=entry.quirks if entry.quirks in self._profiles else Select.NULL,
                    id="scanner-quirks",
                    compact=True,
                )
            yield Static("", id="scanner-fault")
            with Horizontal(classes="buttons"):
                yield Button("Save", variant="primary", id="scanner-save", compact=True)
                yield Button("Back", id="scanner-back", compact=True)

    def on_mount(self) -> None:
        self.query_one("#scanner-ae_title" if self._is_new else "#scanner-name", Input).focus()

    def show_fault(self, text: str) -> None:
        self.query_one("#scanner-fault", Static).update(Text(f"✘ {words.plain(text)}", "red"))

    @on(Button.Pressed, "#scanner-back")
    def _back(self) -> None:
        self.dismiss()

    @on(Button.Pressed, "#scanner-save")
    @on(Input.Submitted)
    def _save(self) -> None:
        values: dict[str, object] = {
            key: self.query_one(f"#scanner-{key}", Input).value.strip() for key, _, _ in _FIELDS
        }
        for key in ("addresses", "called_ae_titles"):
            values[key] = [part.strip() for part in str(values[key]).split(",") if part.strip()]
        for key in ("tls", "call_over"):
            values[key] = self.query_one(f"#scanner-{key}", Select).value
        quirks = self.query_one("#scanner-quirks", Select)
        values["quirks"] = None if quirks.is_blank() else quirks.value
        try:
            entry = ScannerEntry.model_validate(values)
        except ValidationError as error:
            self.show_fault(f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}")
            return
        self.post_message(self.Save(self, entry))
