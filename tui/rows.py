"""Brings a DataTable up to date without losing the technician's place in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text
from textual.coordinate import Coordinate
from textual.widgets import DataTable


def fill(table: DataTable[Text], rows: Mapping[str, Sequence[Text]]) -> None:
    """Make `table` show `rows`, by row key and in their order; the cursor stays on its row if that remains."""
    if [key.value for key in table.rows] == list(rows):
        for index, cells in enumerate(rows.values()):
            for column, cell in enumerate(cells):
                if table.get_cell_at(Coordinate(index, column)) != cell:
                    table.update_cell_at(Coordinate(index, column), cell)
        return
    at = table.cursor_coordinate.row
    held = (
        table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value if table.row_count else None
    ) or ""
    table.clear()
    for key, cells in rows.items():
        table.add_row(*cells, key=key)
    if rows:
        keys = list(rows)
        table.move_cursor(row=keys.index(held) if held in keys else min(at, len(keys) - 1), scroll=True)
