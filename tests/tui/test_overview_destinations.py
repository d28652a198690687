"""The lines of destinations on the first page: what waits, for how long and why, and what was refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console

from contract.control import DestinationStatus
from tests.tui.scripted_box import status
from tui.overview import facts

LONG_AGO = datetime.now(UTC) - timedelta(days=5)  # still said so, however long the tests before this take


def page(*destinations: DestinationStatus) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(facts(status(destinations=list(destinations))))
    assert isinstance(console.file, StringIO)
    return " ".join(console.file.getvalue().split())


@pytest.mark.parametrize(
    ("destination", "says"),
    [
        (DestinationStatus(name="PACS"), "To PACS ✔ has everything"),
        (DestinationStatus(name="PACS", kind="stow"), "To PACS ✔ STOW-RS: has everything"),
        (
            DestinationStatus(
                name="PACS",
                waiting_objects=12,
                waiting_bytes=3 << 20,
                oldest_at_utc=LONG_AGO,
                last_error="PACS cannot be reached",
            ),
            "To PACS ◌ 12 objects, 3.00 MiB, oldest 5 d. PACS cannot be reached",
        ),
        (
            DestinationStatus(name="PACS", set_aside_objects=2),
            "To PACS ✘ nothing waits; 2 REFUSED, to look at (page 2)",
        ),
        (
            DestinationStatus(name="OLD", waiting_objects=1, oldest_at_utc=LONG_AGO, configured=False),
            "oldest 5 d. Not configured any more",
        ),
    ],
)
def test_the_line(destination: DestinationStatus, says: str) -> None:
    assert says in page(destination)


def test_no_line_without_destinations() -> None:
    assert "To " not in page()
