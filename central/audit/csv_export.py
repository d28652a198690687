"""Records as CSV (RFC 4180), for people and their spreadsheets: the one way to make it, for page and command.

Always true: nothing in it is computed. What a spreadsheet would take for a formula gets an apostrophe, since usernames
and searches come from outside; so who checks the chain takes the JSON export instead. That is so behind a semicolon as
well: where a comma is the decimal sign, spreadsheets take that for the end of a cell, quoted or not.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from central.audit.chain import FIELDS

_COLUMNS: Final = (*FIELDS, "chain")
# At the beginning of a cell, or of what may be taken for one, what spreadsheets would compute.
_FORMULA: Final = re.compile(r"""(^|[;\t\r\n])(?=[\s"']*[=+\-@])|^(?=[\t\r\n])""")


def csv_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A line of names, and one for each of `rows` as `Audit.rows` gives them, made as they are asked for."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(_COLUMNS)
    for row in rows:
        yield _taken(out)
        writer.writerow([_cell(row[name]) for name in _COLUMNS])
    yield _taken(out)


def _taken(out: io.StringIO) -> str:
    text = out.getvalue()
    out.seek(0)
    out.truncate()
    return text


def _cell(value: object) -> str:
    return _FORMULA.sub(r"\1'", "" if value is None else str(value))
