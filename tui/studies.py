"""The last studies: still coming or complete, by what that is known, and how many images of how many."""

from __future__ import annotations

from typing import Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import DataTable, Static

from contract.control import StudyEntry, StudyList
from tui import words
from tui.rows import fill

_COLUMNS: Final = (
    ("State", 9),
    ("Scanner", 16),
    ("Images", 13),
    ("Late", 4),
    ("Age", 6),
    ("Known by", 17),
)
"""Names and widths: 65 cells and two of padding each; with the scroll bar that is 78 columns."""

_STATE_COLOURS: Final = {"complete": "green", "receiving": "cyan", "reopened": "yellow"}
_EVIDENCE: Final = {
    "procedure step": "its steps' count",
    "association": "end and silence",
    "idle": "silence alone",
}


class Studies(Vertical):
    """Shows one `StudyList`."""

    def __init__(self, id: str | None = None) -> None:  # noqa: A002  # Textual's name
        super().__init__(id=id)
        self._entries: dict[str, StudyEntry] = {}

    def compose(self) -> ComposeResult:
        yield Static("", id="study-title")
        yield DataTable(cursor_type="row", id="study-table")
        yield Static("", id="study-detail")

    def on_mount(self) -> None:
        for name, width in _COLUMNS:
            self._table.add_column(name, width=width)

    def show(self, listed: StudyList) -> None:
        self._entries = {entry.study_instance_uid: entry for entry in listed.studies}
        coming = sum(entry.state != "complete" for entry in listed.studies)
        title = f"{coming} not complete yet; the one that changed last is first" if self._entries else ""
        self.query_one("#study-title", Static).update(Text(title or "Nothing was received yet."))
        fill(self._table, {uid: _cells(entry) for uid, entry in self._entries.items()})
        self._show_detail()

    @on(DataTable.RowHighlighted)
    def _show_detail(self) -> None:
        entry = self._selected()
        self.query_one("#study-detail", Static).update(_detail(entry) if entry else "")

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one("#study-table", DataTable)

    def _selected(self) -> StudyEntry | None:
        table = self._table
        if not table.row_count:
            return None
        return self._entries.get(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value or "")


def _cells(entry: StudyEntry) -> list[Text]:
    short = entry.expected is not None and entry.received < entry.expected
    images = str(entry.received) if entry.expected is None else f"{entry.received} of {entry.expected}"
    return [
        Text(entry.state, _STATE_COLOURS.get(entry.state, "")),
        Text(words.plain(entry.calling_ae_title)),
        Text(images, "bold yellow" if short and entry.state == "complete" else "", justify="right"),
        Text(str(entry.late or ""), "yellow", justify="right"),
        Text(words.age(entry.last_at_utc), justify="right"),
        Text(_EVIDENCE.get(entry.evidence, words.plain(entry.evidence))),
    ]


def _detail(entry: StudyEntry) -> Text:
    text = Text(f"Study {words.plain(entry.study_instance_uid)}\n")
    if entry.expected is not None and entry.received < entry.expected and entry.state == "complete":
        missing = words.count(entry.expected - entry.received, "image")
        text.append(
            f"At least {missing} that its scanner counted never came: send it again there.\n", "yellow"
        )
    if entry.late:
        text.append(
            f"{words.count(entry.late, 'image')} came after it had been complete; only they were new."
        )
    return text
