"""A box with several centrals on the technician's screen."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from textual.widgets import Input, Select

from contract.control import CentralStatus, LinkStatus
from tests.tui.driving import opened, shows, until
from tests.tui.scripted_box import CONNECTED, ScriptedBox, status
from tests.tui.test_app import PAIRING
from tui.overview import facts

AWAY = LinkStatus(state="waiting", central="https://north:8443", detail="north cannot be reached")
STRANGER = LinkStatus(state="not-enrolled", detail="Not enrolled")


def page(central: CentralStatus) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(facts(status(centrals=[central])))
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


@pytest.mark.parametrize(
    ("central", "says"),
    [
        (
            CentralStatus(name="north", mode="copy", in_use=True, gateway_id="gw-7", link=AWAY),
            "north ◌ waiting https://north:8443, gets a copy, hears no heartbeat. north cannot be reached",
        ),
        (
            CentralStatus(name="north", mode="fail-over", in_use=False, gateway_id="gw-7", link=CONNECTED),
            "north ● connected https://central.hospital.example:8443, stands by Last receipt",
        ),
        (
            CentralStatus(name="north", mode="fail-over", in_use=True, gateway_id="gw-7", link=CONNECTED),
            "https://central.hospital.example:8443, IN USE",
        ),
        (
            CentralStatus(name="north", mode="copy", in_use=False, gateway_id=None, link=STRANGER),
            "north ○ not enrolled, gets a copy. Not enrolled",
        ),
    ],
)
def test_the_line(central: CentralStatus, says: str) -> None:
    assert says in page(central)


async def test_which_central_the_string_is_of_is_chosen(box: ScriptedBox) -> None:
    further = CentralStatus(name="north", mode="copy", in_use=False, gateway_id=None, link=STRANGER)
    box.status = status(centrals=[further])
    async with opened(box) as pilot:
        await pilot.press("4")
        await shows(pilot, "This box is gw-ct2", "north: not enrolled")
        pilot.app.query_one("#enrol-central", Select).value = "north"
        pilot.app.query_one("#pairing", Input).value = PAIRING
        pilot.app.query_one("#pairing", Input).focus()
        box.status = status(centrals=[further.model_copy(update={"gateway_id": "gw-n", "link": CONNECTED})])
        await pilot.press("enter")
        await shows(pilot, "✔ enrolled as gw-n")
        await until(pilot, lambda: box.enrolled == [f"north {PAIRING}"])
