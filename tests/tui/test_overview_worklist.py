"""The lines of the services on the first page: the worklist's age, what scanners or central were not told, and why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console

from contract.control import CommitmentStatus, WorkflowStatus
from tests.tui.scripted_box import status
from tui.overview import facts


def page(workflow: WorkflowStatus | None, commitments: CommitmentStatus | None = None) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(facts(status(workflow=workflow, commitments=commitments)))
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


@pytest.mark.parametrize(
    ("workflow", "says"),
    [
        (WorkflowStatus(), ""),
        (
            WorkflowStatus(
                procedures_waiting=2,
                procedures_oldest_at_utc=datetime.now(UTC) - timedelta(hours=3, seconds=1),
            ),
            "Procedures ◌ 2 messages to central since 3 h",
        ),
        (
            WorkflowStatus(procedures_refused=1, procedures_error="no step"),
            "Procedures ✘ 0 messages to central, 1 refused: no step",
        ),
    ],
)
def test_procedure_steps_that_central_does_not_have(workflow: WorkflowStatus, says: str) -> None:
    shown = page(workflow)
    assert says in shown
    assert ("Procedures" in shown) is bool(says)


@pytest.mark.parametrize(
    ("commitments", "says"),
    [
        (CommitmentStatus(waiting=3, reported=9), ""),
        (
            CommitmentStatus(unreported=1, unreported_because="CT1 refused"),
            "Commitment ◌ 1 report to deliver: CT1 refused",
        ),
        (
            CommitmentStatus(unreported=2, given_up=1),
            "Commitment ✘ 1 given up: is the scanner's host set (page 3)? 2 reports to deliver",
        ),
    ],
)
def test_commitment_reports_that_scanners_did_not_take(commitments: CommitmentStatus, says: str) -> None:
    shown = page(None, commitments)
    assert says in shown
    assert ("Commitment" in shown) is bool(says)
