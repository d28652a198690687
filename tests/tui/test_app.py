"""The technician's screen, driven by keys at 80×24, against a real control socket."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from textual import events
from textual.widgets import DataTable, Footer, Input, TabbedContent

from contract.control import EchoAnswer, LinkStatus
from tests.tui.driving import opened, seen, shows, until
from tests.tui.scripted_box import CONNECTED, ScriptedBox, entry, scanner, status, study
from tui.app import BoxApp
from tui.client import BoxClient

PAIRING = f"dicomnet-pair:1:central.example:8443:{'a' * 64}:{'b' * 32}"


async def test_the_overview_says_what_the_box_is_and_how_it_is(box: ScriptedBox) -> None:
    async with opened(box) as pilot:
        await shows(pilot, "gw-ct2 ● connected", "DICOMNET on 0.0.0.0 port 11112, TLS port 2762", "✔ yes")
        await shows(
            pilot, "12 objects, 32.4 MiB", "1 object to look at", "120 GiB free of 200 GiB", "58 days"
        )


async def test_not_accepting_is_said_in_words_with_the_reason(box: ScriptedBox) -> None:
    waiting = LinkStatus(state="waiting", central=CONNECTED.central, detail="central cannot be reached")
    box.status = status(accepting=False, not_accepting_because="The disk is full.", link=waiting)
    async with opened(box) as pilot:
        await shows(
            pilot, "◌ waiting", "✘ NOT ACCEPTING IMAGES", "✘ NO. The disk is full.", "cannot be reached"
        )


async def test_it_refreshes_by_itself(box: ScriptedBox) -> None:
    async with opened(box) as pilot:
        await shows(pilot, "12 objects")
        box.status = status(queue_objects=13)
        await shows(pilot, "13 objects")


async def test_sending_is_paused_by_a_key_after_a_question_and_goes_on_by_the_same(box: ScriptedBox) -> None:
    async with opened(box) as pilot:
        await shows(pilot, "12 objects", "Pause/resume")
        await pilot.press("p")
        await shows(pilot, "Pause sending to central?")
        await pilot.press("n")
        await pilot.pause()
        assert not box.status.paused
        await pilot.press("2", "1", "p", "y")
        await shows(pilot, "✘ PAUSED. Images are received and kept; p goes on")
        assert box.status.paused
        await pilot.press("p")
        await until(pilot, lambda: "PAUSED" not in seen(pilot))
        assert not box.status.paused


async def test_a_box_that_goes_away_is_said_so_and_found_again(box: ScriptedBox) -> None:
    async with opened(box) as pilot:
        await shows(pilot, "● connected")
        box.stop()
        await shows(pilot, "The box is away", "Trying again")
        assert "● connected h" not in " ".join(seen(pilot).split()[:8])
        box.start()
        await until(pilot, lambda: "The box is away" not in seen(pilot))
        await shows(pilot, "gw-ct2 ● connected")


async def test_without_any_box_it_starts_and_says_so(tmp_path: Path) -> None:
    app = BoxApp(BoxClient(tmp_path / "nobody"))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await shows(pilot, "The box is away", "No such file or directory")


async def test_a_quarantined_object_is_queued_again_by_a_key(box: ScriptedBox) -> None:
    box.entries = [entry(1), entry(2, "quarantined", "central answered 422: it does not verify"), entry(3)]
    async with opened(box) as pilot:
        await pilot.press("2")
        await shows(pilot, "3 objects", "quarantined")
        await pilot.press("down")
        await shows(pilot, "central answered 422: it does not verify")
        await pilot.press("r")
        await until(pilot, lambda: box.requeued == [f"{2:032x}"])
        await until(pilot, lambda: "quarantined" not in seen(pilot))


async def test_what_a_destination_refused_is_sent_there_again_by_a_key(box: ScriptedBox) -> None:
    """Two destinations refused the same object: each line is its own."""
    refused = entry(1, "set aside", "answered C000: cannot understand the data set")
    box.entries = [
        refused.model_copy(update={"destination": "PACS"}),
        refused.model_copy(update={"destination": "WEB"}),
        entry(1),
    ]
    async with opened(box) as pilot:
        await pilot.press("2")
        await shows(pilot, "3 objects", "set aside")
        await pilot.press("down")
        await shows(pilot, "WEB: answered C000: cannot understand")
        await pilot.press("r")
        await until(pilot, lambda: box.requeued == [f"{1:032x} WEB"])


async def test_a_studys_priority_is_changed_by_a_key(box: ScriptedBox) -> None:
    box.entries = [entry(1)]
    async with opened(box) as pilot:
        await pilot.press("2")
        await shows(pilot, "1 object", "ready")
        await pilot.press("p")
        await shows(pilot, "How urgent is study")
        await pilot.press("escape", "p")
        await shows(pilot, "How urgent is study")
        await pilot.press("s")
        await until(pilot, lambda: box.prioritised == [f"{box.entries[0].study_instance_uid} stat"])
        await shows(pilot, ", stat")


@pytest.mark.parametrize(
    ("state", "hint"), [("ready", "It is on its way"), ("rejected", "sent again from there")]
)
async def test_what_cannot_be_queued_again_says_why(state: str, hint: str, box: ScriptedBox) -> None:
    box.entries = [entry(1, state)]
    async with opened(box) as pilot:
        await pilot.press("2")
        await shows(pilot, "1 object")
        await pilot.press("r")
        await shows(pilot, hint)
        assert box.requeued == []


async def test_the_cursor_stays_on_its_object_while_the_queue_moves(box: ScriptedBox) -> None:
    box.entries = [entry(number) for number in range(1, 9)]
    async with opened(box) as pilot:
        await pilot.press("2")
        await shows(pilot, "8 objects")
        await pilot.press("down", "down", "down")
        table = pilot.app.query_one("#queue-table", DataTable)
        assert table.cursor_row == 3
        box.entries = box.entries[2:]
        await shows(pilot, "6 objects")
        assert table.cursor_row == 1
        box.entries = box.entries[3:]
        await shows(pilot, "3 objects")
        assert table.cursor_row <= 2


async def test_a_scanner_is_asked_with_enter_and_the_screen_goes_on_meanwhile(box: ScriptedBox) -> None:
    box.scanners = [scanner("CT1", "10.0.0.5", port=104), scanner("MR2", "10.0.0.6", rejected=2)]
    box.hold = threading.Event()
    async with opened(box) as pilot:
        await pilot.press("3")
        await shows(pilot, "CT1", "MR2", "98765")
        await pilot.press("enter")
        await shows(pilot, "◌ asking CT1 at 10.0.0.5 port 104")
        box.status = status(gateway_id="gw-renamed")
        await shows(pilot, "gw-renamed")  # the refresh does not wait for the scanner
        box.hold.set()
        await shows(pilot, "✔ CT1 answered in 12 ms")
        assert [(one.host, one.port, one.ae_title) for one in box.echoed] == [("10.0.0.5", 104, "CT1")]
        await pilot.press("down")
        await shows(pilot, "last refusal: called AE title WRONG")


async def test_a_failed_echo_is_said_with_what_to_do(box: ScriptedBox) -> None:
    box.scanners = [scanner("CT1", "10.0.0.5", port=104)]
    box.echo_answer = EchoAnswer(ok=False, detail="nothing answered: check address, port and cable")
    async with opened(box) as pilot:
        await pilot.press("3")
        await shows(pilot, "CT1")
        await pilot.press("e")
        await shows(pilot, "✘ nothing answered: check address, port and cable")


async def test_anybody_can_be_asked_through_the_form(box: ScriptedBox) -> None:
    async with opened(box) as pilot:
        await pilot.press("3")
        await shows(pilot, "No scanner is listed")
        await pilot.press("a")
        await shows(pilot, "C-ECHO to any DICOM application")
        box.status = status(gateway_id="gw-renamed")
        await shows(pilot, "gw-renamed")  # the page below goes on while the form is open
        await pilot.press(*"10.1.1.1", "tab", "tab", *"PACS", "tab", "enter")
        await until(pilot, lambda: len(box.echoed) == 1)
        assert (box.echoed[0].host, box.echoed[0].port, box.echoed[0].ae_title) == ("10.1.1.1", 104, "PACS")
        await pilot.press("a", "enter")
        await shows(pilot, "a port from 1 to 65535 and an AE title are")
        await pilot.press("escape")
        await until(pilot, lambda: "C-ECHO to any" not in seen(pilot))
        assert len(box.echoed) == 1


async def test_a_box_that_is_not_enrolled_opens_at_the_pairing_field(box: ScriptedBox) -> None:
    box.status = status(
        gateway_id=None,
        accepting=False,
        not_accepting_because="Not enrolled.",
        link=LinkStatus(state="not-enrolled", detail="Not enrolled: paste the pairing string."),
    )
    async with opened(box) as pilot:
        await shows(pilot, "This box is not enrolled")
        await until(pilot, lambda: isinstance(pilot.app.focused, Input))
        await pilot.press(*"nonsense", "enter")
        await shows(pilot, "✘ this is not a pairing string")
        assert box.enrolled == []
        field = pilot.app.query_one("#pairing", Input)
        field.value = ""
        field.post_message(events.Paste(f"{PAIRING[:60]}\n  {PAIRING[60:]}\n"))  # as a terminal wraps it
        await until(pilot, lambda: field.value == PAIRING)
        box.enrol_error = "central does not take this pairing string"
        await pilot.press("enter")
        await shows(pilot, "✘ central does not take this pairing string")
        box.enrol_error = ""
        await pilot.press("enter")
        await shows(pilot, "✔ enrolled as gw-ct2", "This box is gw-ct2")
        assert box.enrolled == [PAIRING, PAIRING]
        assert field.value == "", "a used secret does not stay on the screen"
        await pilot.press("escape", "1")
        await until(pilot, lambda: pilot.app.query_one(TabbedContent).active == "overview")


async def test_studies_are_listed_with_what_is_missing_and_what_came_late(box: ScriptedBox) -> None:
    async with opened(box) as pilot:
        await pilot.press("5")
        await shows(pilot, "Nothing was received yet.")
        box.studies = [
            study(1, state="receiving", evidence="", received=7),
            study(2, evidence="procedure step", received=120, expected=120, late=2),
            study(3, evidence="idle", received=118, expected=120),
        ]
        await shows(
            pilot, "1 not complete yet", "receiving CT1 7", "complete CT1 120 of 120 2 3 d its steps'"
        )
        await pilot.press("down")
        await shows(pilot, "Study 1.2.2", "2 images came after it had been complete; only they were new.")
        await pilot.press("down")
        await shows(pilot, "Study 1.2.3", "At least 2 images that its scanner counted never came")


async def test_foreign_text_is_shown_as_text(box: ScriptedBox) -> None:
    """AE titles and errors come from other machines: no markup, no control characters."""
    box.entries = [entry(1, "quarantined", "[red]bold[/red] \x1b[2J\x07 [/]")]
    box.scanners = [scanner("[b]AE[/b]", "10.0.0.9", rejected=1)]
    async with opened(box) as pilot:
        await pilot.press("2")
        await shows(pilot, "[red]bold[/red] ·[2J· [/]")
        await pilot.press("3")
        await shows(pilot, "[b]AE[/b]")


@pytest.mark.parametrize("page", ["1", "2", "3", "4", "5"])
async def test_nothing_overflows_80_by_24(page: str, box: ScriptedBox) -> None:
    long = "https://central.a-hospital-with-a-long-name.example:8443 cannot be reached: " + "no route " * 10
    box.status = status(
        accepting=False,
        not_accepting_because="The disk is full: 1.99 GiB are free and 2.00 GiB are kept in reserve.",
        link=CONNECTED.model_copy(update={"state": "waiting", "detail": long}),
    )
    box.entries = [entry(number, "quarantined", long) for number in range(1, 200)]
    box.total = 123_456
    box.studies = [study(number, received=12_345, expected=123_456, late=999) for number in range(200)]
    box.scanners = [scanner("SIXTEEN_CHARS_AE", "2001:db8:0:1:2:3:4:5", port=104, rejected=1)] + [
        scanner(f"AE{number}", "10.0.0.1", rejected=99999) for number in range(40)
    ]
    async with opened(box) as pilot:
        await shows(pilot, "NOT ACCEPTING")
        await pilot.press(page)
        await pilot.pause(0.5)
        screen = pilot.app.screen
        wide = [
            widget
            for widget in screen.walk_children()
            if widget.is_scrollable and widget.region.width and widget.max_scroll_x > 0
        ]
        assert wide == []
        assert pilot.app.query_one(Footer).region.bottom == 24
        outside = [
            widget for widget in screen.walk_children() if widget.region.right > 80 and widget.is_on_screen
        ]
        assert outside == []
        assert "Traceback" not in seen(pilot)
