"""The disk's lines on the first page: what is left, for how long, and what the last check found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console

from tests.tui.scripted_box import status
from tui.overview import facts


def page(**changes: object) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(facts(status(**changes)))
    assert isinstance(console.file, StringIO)
    return " ".join(console.file.getvalue().split())


@pytest.mark.parametrize(
    ("hours", "says"),
    [(14.2, ", full in about 14 hours"), (1.1, ", full in about 1 hour "), (0.2, ", full in about 1 hour ")],
)
def test_how_long_the_disk_lasts(hours: float, says: str) -> None:
    assert says in page(hours_to_full=hours)


@pytest.mark.parametrize("hours", [None, 0.0])
def test_nothing_is_foretold_where_nothing_is_known_or_it_is_full_already(hours: float | None) -> None:
    assert "full in" not in page(hours_to_full=hours)


def test_what_may_go() -> None:
    assert "3.00 GiB may go, central has them" in page(retained_objects=7, retained_bytes=3 << 30)
    assert "may go" not in page()


def test_the_check() -> None:
    before = datetime.now(UTC) - timedelta(days=3)
    assert "Disk check not yet" in page()
    assert "✔ nothing damaged, 1234 files read 3 d ago" in page(scrubbed_at_utc=before, scrubbed_objects=1234)
    damaged = page(scrubbed_at_utc=before, scrubbed_objects=1234, scrub_damaged_objects=1)
    assert "✘ 1 object DAMAGED, 1234 files read 3 d ago: the disk may be failing" in damaged
