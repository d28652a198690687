"""The line of a pause, on the first page: a box that is connected and sends nothing has to say why."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from tests.tui.scripted_box import status
from tui.overview import facts


def page(*, paused: bool) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(facts(status(paused=paused)))
    assert isinstance(console.file, StringIO)
    return " ".join(console.file.getvalue().split())


def test_a_pause_is_said_with_the_way_out() -> None:
    assert "Sending ✘ PAUSED. Images are received and kept; p goes on" in page(paused=True)
    assert "PAUSED" not in page(paused=False)
