"""What central or a destination did not take, and what waits for central; each the oldest first."""

from __future__ import annotations

from typing import Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import DataTable, Static

from contract.control import QueueEntry, QueueList
from contract.sizes import size_text
from tui import words
from tui.rows import fill

_COLUMNS: Final = (
    ("State", 11),
    ("Scanner", 16),
    ("Mod", 3),
    ("Size", 7),
    ("Age", 6),
    ("Try", 3),
    ("Error", 19),
)
"""Names and widths: 65 cells and two of padding each; with the scroll bar that is 80 columns."""

_STATE_COLOURS: Final = {
    "ready": "",
    "sending": "cyan",
    "quarantined": "bold red",
    "set aside": "bold red",
    "rejected": "yellow",
}
_REQUEUABLE: Final = {"quarantined", "set aside"}


class Queue(Vertical):
    """Shows one `QueueList`; asks for a requeue by a message."""

    BINDINGS = [  # noqa: RUF012  # Textual's own declaration
        Binding("r", "requeue", "Queue again"),
        Binding("p", "prioritise", "Priority"),
    ]

    class Requeue(Message):
        """The technician wants this object tried again; `destination` empty: at central."""

        def __init__(self, object_id: str, destination: str) -> None:
            super().__init__()
            self.object_id = object_id
            self.destination = destination

    class Prioritise(Message):
        """The technician wants to say how urgent this study is."""

        def __init__(self, study_instance_uid: str) -> None:
            super().__init__()
            self.study_instance_uid = study_instance_uid

    class Hint(Message):
        """Something to tell the technician."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, id: str | None = None) -> None:  # noqa: A002  # Textual's name
        super().__init__(id=id)
        self._entries: dict[str, QueueEntry] = {}

    def compose(self) -> ComposeResult:
        yield Static("", id="queue-title")
        yield DataTable(cursor_type="row", id="queue-table")
        yield Static("", id="queue-detail")

    def on_mount(self) -> None:
        table = self._table
        for name, width in _COLUMNS:
            table.add_column(name, width=width)

    def show(self, queue: QueueList) -> None:
        self._entries = {_key(entry): entry for entry in queue.entries}
        shown = len(queue.entries)
        title = words.count(queue.total, "object") if queue.total else "Nothing waits."
        if shown < queue.total:
            title += f", the oldest {shown} are shown"
        self.query_one("#queue-title", Static).update(Text(title))
        fill(self._table, {key: _cells(entry) for key, entry in self._entries.items()})
        self._show_detail()

    def action_requeue(self) -> None:
        entry = self._selected()
        if entry is None:
            return
        if entry.state in _REQUEUABLE:
            self.post_message(self.Requeue(entry.object_id, entry.destination))
        elif entry.state == "rejected":
            self.post_message(
                self.Hint("Its scanner was told that it failed: it has to be sent again from there.")
            )
        else:
            self.post_message(
                self.Hint("It is on its way already: only a quarantined object can be queued again.")
            )

    def action_prioritise(self) -> None:
        entry = self._selected()
        if entry is not None and entry.study_instance_uid:
            self.post_message(self.Prioritise(entry.study_instance_uid))

    @on(DataTable.RowHighlighted)
    def _show_detail(self) -> None:
        entry = self._selected()
        text = Text()
        if entry is not None:
            text.append(f"Study {words.plain(entry.study_instance_uid) or 'unknown'}")
            text.append(f", {words.plain(entry.priority)}\n" if entry.priority != "routine" else "\n", "bold")
            text.append(_error(entry) or "no error", "" if not entry.last_error else "yellow")
        self.query_one("#queue-detail", Static).update(text)

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one("#queue-table", DataTable)

    def _selected(self) -> QueueEntry | None:
        table = self._table
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return self._entries.get(key or "")


def _cells(entry: QueueEntry) -> list[Text]:
    return [
        Text(entry.state, _STATE_COLOURS.get(entry.state, "")),
        Text(words.plain(entry.calling_ae_title)),
        Text(words.plain(entry.modality)),
        Text(size_text(entry.stored_bytes).replace("iB", ""), justify="right"),
        Text(words.age(entry.received_at_utc), justify="right"),
        Text(str(entry.attempts), justify="right"),
        Text(_error(entry), "yellow"),
    ]


def _key(entry: QueueEntry) -> str:
    """Several destinations may have refused one object."""
    return f"{entry.object_id} {entry.destination}"


def _error(entry: QueueEntry) -> str:
    who = f"{entry.destination}: " if entry.destination else ""
    return words.plain(who + entry.last_error)
