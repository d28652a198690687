"""The worklist's line on the first page: how many, from where, how old, and what is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console

from contract.control import WorkflowStatus
from tests.tui.scripted_box import status
from tui.overview import facts


def page(workflow: WorkflowStatus | None) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(facts(status(workflow=workflow)))
    assert isinstance(console.file, StringIO)
    return " ".join(console.file.getvalue().split())


@pytest.mark.parametrize(
    ("workflow", "age", "says"),
    [
        (
            WorkflowStatus(worklist_source="central", worklist_items=7),
            timedelta(minutes=2, seconds=1),
            ["✔ 7 items from central, 2 min old"],
        ),
        (
            WorkflowStatus(
                worklist_source="upstream",
                worklist_items=1,
                worklist_error="the worklist server RIS cannot be reached",
            ),
            timedelta(hours=5, seconds=1),
            ["◌ 1 item from upstream, 5 h", "RIS cannot be reached"],
        ),
        (WorkflowStatus(worklist_source="central"), None, ["◌ 0 items from central, never seen yet"]),
    ],
)
def test_the_line(workflow: WorkflowStatus, age: timedelta | None, says: list[str]) -> None:
    refreshed = datetime.now(UTC) - age if age else None
    shown = page(workflow.model_copy(update={"worklist_refreshed_at_utc": refreshed}))
    for words in says:
        assert words in shown


@pytest.mark.parametrize("workflow", [None, WorkflowStatus()])
def test_no_line_without_a_worklist(workflow: WorkflowStatus | None) -> None:
    assert "Worklist" not in page(workflow)
