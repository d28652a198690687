"""Who may send to this box, who waits for approval, and whether they answer a C-ECHO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import DataTable, Static

from contract.control import CallerParams, EchoAnswer, EchoParams, KnownScanner, ScannerEntry, ScannerList
from tui import words
from tui.confirm import Confirm
from tui.echo_form import EchoForm
from tui.rows import fill
from tui.scanner_form import ScannerForm
from tui.scanner_words import cells, detail, title

_COLUMNS: Final = (
    ("Standing", 12),
    ("AE title", 16),
    ("Address", 15),
    ("Last image", 10),
    ("Images", 7),
    ("Refused", 7),
)
"""Names and widths: 67 cells and two of padding each; with the scroll bar that is 80 columns."""

_KEYS: Final = "y approve  n refuse  i add  m change  d remove  p pin  e C-ECHO  a C-ECHO to…"


class Scanners(Vertical):
    """Shows one `ScannerList`; what the technician decides goes out as messages."""

    # Beside the pages' keys they would not fit into the footer at 80 columns: the page's last line names them.
    BINDINGS = [  # noqa: RUF012  # Textual's own declaration
        Binding("e", "echo", "C-ECHO", show=False),
        Binding("a", "echo_any", "C-ECHO to…", show=False),
        Binding("y", "approve", "Approve", show=False),
        Binding("n", "refuse", "Refuse", show=False),
        Binding("i", "add", "Add", show=False),
        Binding("m", "change", "Change", show=False),
        Binding("d", "remove", "Remove", show=False),
        Binding("p", "pin", "Pin its certificate", show=False),
    ]

    class Echo(Message):
        """The technician wants to know whether this AE answers."""

        def __init__(self, params: EchoParams) -> None:
            super().__init__()
            self.params = params

    class Decide(Message):
        """The technician decides about a caller: ``approve``, ``refuse`` or ``remove_scanner``."""

        def __init__(self, method: str, caller: CallerParams, done: str) -> None:
            super().__init__()
            self.method = method
            self.caller = caller
            self.done = done

    class Pin(Message):
        """The technician wants this entry, with the certificate pinned, to hold."""

        def __init__(self, entry: ScannerEntry) -> None:
            super().__init__()
            self.entry = entry

    class Hint(Message):
        """Something to tell the technician."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, id: str | None = None) -> None:  # noqa: A002  # Textual's name
        super().__init__(id=id)
        self._scanners: dict[str, KnownScanner] = {}
        self._profiles: list[str] = []

    def compose(self) -> ComposeResult:
        yield Static("", id="scanner-title")
        yield DataTable(cursor_type="row", id="scanner-table")
        yield Static("", id="scanner-detail")
        yield Static("", id="echo-result")
        yield Static(Text(_KEYS, "dim"), id="scanner-keys")

    def on_mount(self) -> None:
        for name, width in _COLUMNS:
            self._table.add_column(name, width=width)

    def show(self, scanners: ScannerList) -> None:
        self._scanners = {}
        for one in scanners.scanners:
            # Not by its standing: the cursor must stay on what was just approved, so that y twice approves one.
            key = f"{one.ae_title}\0{one.address}"
            self._scanners[f"{key}\0{one.standing}" if key in self._scanners else key] = one
        self._profiles = scanners.profiles
        self.query_one("#scanner-title", Static).update(title(scanners))
        fill(self._table, {key: cells(one) for key, one in self._scanners.items()})
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

    def action_approve(self) -> None:
        one = self._selected()
        if one is None:
            return
        if one.standing in ("configured", "approved"):
            self._hint(f"{one.ae_title} may send already: m changes what holds for it.")
        elif not one.ae_title:
            self._hint("It gave no usable AE title: there is nothing to approve.")
        else:
            self._decide("approve", one, f"{one.ae_title} may send from {one.address}.")

    def action_refuse(self) -> None:
        one = self._selected()
        if one is None or not one.ae_title:
            return
        if one.standing in ("configured", "approved"):
            self._hint(f"{one.ae_title} may send: d removes it.")
        elif one.standing != "refused":
            self._decide("refuse", one, f"{one.ae_title} is refused from {one.address}.")

    def action_add(self) -> None:
        self.app.push_screen(ScannerForm(ScannerEntry(ae_title=""), self._profiles, is_new=True))

    def action_change(self) -> None:
        one = self._selected()
        if one is None or self._is_configured(one):
            return
        entry = one.entry or ScannerEntry(
            ae_title=one.ae_title,
            addresses=[one.address],
            called_ae_titles=[one.called_ae_title] if one.called_ae_title else [],
            host=one.address,
        )
        self.app.push_screen(ScannerForm(entry, self._profiles, is_new=one.entry is None))

    def action_remove(self) -> None:
        one = self._selected()
        if one is None or self._is_configured(one):
            return
        if one.standing == "approved":
            caller = CallerParams(ae_title=one.ae_title)
            message = self.Decide("remove_scanner", caller, f"{one.ae_title} is removed.")
            question = f"Remove {words.plain(one.ae_title)}? It will be an unlisted scanner like any other."
            self.app.push_screen(Confirm(question, "Remove"), self._if_confirmed(message))
        elif one.standing in ("waiting", "refused"):
            self._decide("remove_scanner", one, f"{one.ae_title} is forgotten until it calls again.")
        else:
            self._hint("It is in no list: there is nothing to remove.")

    def action_pin(self) -> None:
        """Let the scanner in over TLS only, and only with the certificate that it showed last."""
        one = self._selected()
        if one is None or self._is_configured(one):
            return
        if one.entry is None:
            self._hint("Approve it first: a certificate is pinned in an entry.")
        elif not one.certificate_sha256:
            self._hint("It has not come over TLS since the box started: there is no certificate to pin.")
        elif one.certificate_sha256 == one.entry.certificate_sha256:
            self._hint("This certificate is pinned already.")
        else:
            pinned = {"tls": "required", "certificate_sha256": one.certificate_sha256}
            message = self.Pin(one.entry.model_copy(update=pinned))
            question = (
                f"From now on {words.plain(one.ae_title)} may send over TLS only, and with this certificate only:\n"
                f"{words.plain(one.certificate)}\n{one.certificate_sha256}\nIs it the scanner's?"
            )
            self.app.push_screen(Confirm(question, "Pin"), self._if_confirmed(message))

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

    def _decide(self, method: str, one: KnownScanner, done: str) -> None:
        caller = CallerParams(ae_title=one.ae_title, address=one.address)
        self.post_message(self.Decide(method, caller, done))

    def _if_confirmed(self, message: Message) -> Callable[[bool | None], None]:
        def then(yes: bool | None) -> None:
            if yes:
                self.post_message(message)

        return then

    def _is_configured(self, one: KnownScanner) -> bool:
        if one.standing == "configured":
            self._hint(f"{one.ae_title} is in the configuration file: change it there and restart.")
        return one.standing == "configured"

    def _hint(self, text: str) -> None:
        self.post_message(self.Hint(text))

    @on(DataTable.RowHighlighted)
    def _show_detail(self) -> None:
        scanner = self._selected()
        if scanner is None:
            text = Text("No scanner is listed and none has called yet. Press i to add one, a to ask one.")
        else:
            text = detail(scanner)
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
