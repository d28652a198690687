"""The scanners this box knows, and whether they answer a C-ECHO."""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Button, DataTable, Input, Label, Static

from contract.control import EchoAnswer, EchoParams, KnownScanner, ScannerList
from tui import words
from tui.rows import fill

_COLUMNS: Final = (
    ("AE title", 16),
    ("Address", 20),
    ("Last image", 10),
    ("Images", 9),
    ("Refused", 9),
)
_DICOM_PORT: Final = 104


class Scanners(Vertical):
    """Shows one `ScannerList`; asks for a C-ECHO by a message."""

    BINDINGS = [  # noqa: RUF012  # Textual's own declaration
        Binding("e", "echo", "C-ECHO"),
        Binding("a", "echo_any", "C-ECHO to…"),
    ]

    class Echo(Message):
        """The technician wants to know whether this AE answers."""

        def __init__(self, params: EchoParams) -> None:
            super().__init__()
            self.params = params

    def __init__(self, id: str | None = None) -> None:  # noqa: A002  # Textual's name
        super().__init__(id=id)
        self._scanners: dict[str, KnownScanner] = {}

    def compose(self) -> ComposeResult:
        yield DataTable(cursor_type="row", id="scanner-table")
        yield Static("", id="scanner-detail")
        yield Static("", id="echo-result")

    def on_mount(self) -> None:
        for name, width in _COLUMNS:
            self._table.add_column(name, width=width)

    def show(self, scanners: ScannerList) -> None:
        self._scanners = {f"{one.ae_title}\0{one.address}": one for one in scanners.scanners}
        fill(self._table, {key: _cells(one) for key, one in self._scanners.items()})
        self._show_detail()

    def show_echo(self, params: EchoParams, answer: EchoAnswer | None, error: str = "") -> None:
        """The result line; `answer` None and no error: still waiting."""
        target = f"{params.ae_title} at {params.host} port {params.port}"
        if answer is None:
            text = Text(f"✘ {error}", "red") if error else Text(f"◌ asking {words.plain(target)} …", "yellow")
        elif answer.ok:
            text = Text(f"✔ {words.plain(answer.detail)} in {answer.round_trip_ms or 0:.0f} ms", "green")
        else:
            text = Text(f"✘ {words.plain(answer.detail)}", "bold red")
        self.query_one("#echo-result", Static).update(text)

    @on(DataTable.RowSelected)
    def action_echo(self) -> None:
        scanner = self._selected()
        if scanner is None or scanner.echo_host is None or scanner.echo_port is None:
            self.action_echo_any()  # its port is not configured: ask for it
            return
        self.post_message(
            self.Echo(EchoParams(host=scanner.echo_host, port=scanner.echo_port, ae_title=scanner.ae_title))
        )

    def action_echo_any(self) -> None:
        scanner = self._selected()
        form = EchoForm(scanner.address if scanner else "", scanner.ae_title if scanner else "")
        self.app.push_screen(form, self._asked)

    def _asked(self, params: EchoParams | None) -> None:
        if params is not None:
            self.post_message(self.Echo(params))

    @on(DataTable.RowHighlighted)
    def _show_detail(self) -> None:
        scanner = self._selected()
        if scanner is None:
            text = Text("No scanner is configured and none has called yet. Press a to ask one.")
        else:
            asked_at = (
                f"C-ECHO to port {scanner.echo_port}" if scanner.echo_port else "not in the configuration"
            )
            text = Text(f"{words.plain(scanner.ae_title) or '(no AE title)'}: {asked_at}")
            if scanner.last_error:
                text.append(f"\nlast refusal: {words.plain(scanner.last_error)}", "yellow")
        self.query_one("#scanner-detail", Static).update(text)

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one("#scanner-table", DataTable)

    def _selected(self) -> KnownScanner | None:
        table = self._table
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return self._scanners.get(key or "")


def _cells(scanner: KnownScanner) -> list[Text]:
    seen = scanner.seen
    rejected = seen.rejected if seen else 0
    return [
        Text(words.plain(scanner.ae_title) or "(none)"),
        Text(words.plain(scanner.address)),
        Text(words.age(seen.last_store_at_utc) if seen else "never", justify="right"),
        Text(str(seen.instances if seen else 0), justify="right"),
        Text(str(rejected), "yellow" if rejected else "", justify="right"),
    ]


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
