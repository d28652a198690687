"""The lines of what central and the box have lost, on the first page."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO

from rich.console import Console

from contract.control import LostStudyEntry
from tests.tui.scripted_box import status
from tui.overview import facts

NOW = datetime(2026, 11, 26, 8, 11, tzinfo=UTC)


def page(*lost: LostStudyEntry) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(facts(status(lost_studies=list(lost))))
    assert isinstance(console.file, StringIO)
    return " ".join(console.file.getvalue().split())


def test_a_line_for_each_study_and_none_without() -> None:
    one = LostStudyEntry(
        calling_ae_title="CT1",
        study_instance_uid="1.2.9",
        instances=1,
        first_at_utc=NOW,
        last_at_utc=NOW,
        sentence="Central lost it: send it again from CT1\x1b[2J.",
    )
    assert page(one, one).count("Lost Central lost it: send it again from CT1") == 2
    assert "\x1b" not in page(one)
    assert "Lost" not in page()
