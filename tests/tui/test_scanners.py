"""The scanners' page by keys: who waits is approved or refused, and entries are made, changed and removed."""

from __future__ import annotations

import pytest
from textual.widgets import Footer, Input

from contract.control import ScannerEntry
from tests.tui.driving import opened, seen, shows, until
from tests.tui.scripted_box import ScriptedBox, approved, scanner, waiting

ENTRY = ScannerEntry(
    ae_title="CT1",
    name="CT room 2",
    addresses=["10.0.0.5"],
    tls="required",
    call_over="plain",
    quirks="lossless",
    host="10.0.0.5",
)


async def test_one_key_approves_what_waits(box: ScriptedBox) -> None:
    box.unknown = "hold"
    box.scanners = [waiting("MR9", "10.0.0.9"), approved(ENTRY)]
    async with opened(box) as pilot:
        await pilot.press("3")
        await shows(pilot, "Unlisted scanners wait for approval. ◌ 1 waiting", "◌ waiting MR9 10.0.0.9")
        await shows(pilot, "called OLDBOX from 10.0.0.9, 12 times, last", "certificate CN=ct1; abab")
        await pilot.press("y")
        await until(pilot, lambda: box.decided == [("approve", "MR9", "10.0.0.9")])
        await shows(pilot, "● approved MR9", "MR9 may send from 10.0.0.9.")
        await pilot.press("y")
        await shows(pilot, "MR9 may send already")
        assert len(box.decided) == 1


async def test_the_same_key_twice_never_decides_about_the_next_one(box: ScriptedBox) -> None:
    box.unknown = "hold"
    box.scanners = [waiting("MR9", "10.0.0.9"), waiting("XX1", "10.0.0.66"), waiting("MR9", "10.0.0.10")]
    async with opened(box) as pilot:
        await pilot.press("3")
        await shows(pilot, "3 waiting")
        await pilot.press("y")
        await shows(pilot, "● approved MR9 10.0.0.9")
        await pilot.press("y")
        await shows(pilot, "MR9 may send already")
        assert box.decided == [("approve", "MR9", "10.0.0.9")]


async def test_one_key_refuses_and_another_forgets(box: ScriptedBox) -> None:
    box.unknown = "hold"
    box.scanners = [waiting("MR9", "10.0.0.9")]
    async with opened(box) as pilot:
        await pilot.press("3")
        await shows(pilot, "◌ waiting MR9")
        await pilot.press("n")
        await shows(pilot, "✘ refused MR9")
        await pilot.press("n", "d")
        await until(pilot, lambda: "✘ refused" not in seen(pilot))
        assert box.decided == [("refuse", "MR9", "10.0.0.9"), ("remove_scanner", "MR9", "10.0.0.9")]


async def test_an_approved_scanner_is_removed_only_after_a_question(box: ScriptedBox) -> None:
    box.scanners = [approved(ENTRY)]
    async with opened(box) as pilot:
        await pilot.press("3")
        await shows(
            pilot, "● approved CT1", "CT room 2; from 10.0.0.5; TLS required; quirks lossless; C-ECHO to"
        )
        await pilot.press("d")
        await shows(pilot, "Remove CT1?")
        await pilot.press("escape")
        await until(pilot, lambda: "Remove CT1?" not in seen(pilot))
        assert box.decided == []
        await pilot.press("d")
        await shows(pilot, "Remove CT1?")
        await pilot.press("y")
        await until(pilot, lambda: box.decided == [("remove_scanner", "CT1", "")])


async def test_a_scanner_is_added_and_a_fault_does_not_lose_what_was_typed(box: ScriptedBox) -> None:
    async with opened(box) as pilot:
        await pilot.press("3")
        await shows(pilot, "No scanner is listed")
        await pilot.press("i")
        await shows(pilot, "A scanner that may send")
        await pilot.press(*"CT7", "tab", *"CT room 7", "tab", *"10.0.0.7, 10.0.1.0/24", "tab", "tab", "tab")
        await pilot.press(*"10.0.0.7")
        box.save_error = "addresses.1: '10.0.1.0/99' is not an IP address or network"
        await pilot.press("enter")
        await shows(pilot, "✘ addresses.1: '10.0.1.0/99' is not an IP address")
        assert box.saved == []
        box.save_error = ""
        await pilot.press("enter")
        await until(pilot, lambda: len(box.saved) == 1)
        assert box.saved[0] == ScannerEntry(
            ae_title="CT7", name="CT room 7", addresses=["10.0.0.7", "10.0.1.0/24"], host="10.0.0.7"
        )
        await shows(pilot, "● approved CT7")
        await until(pilot, lambda: "A scanner that may send" not in seen(pilot))


async def test_an_entry_is_changed_and_keeps_what_was_not_touched(box: ScriptedBox) -> None:
    box.scanners = [approved(ENTRY)]
    async with opened(box) as pilot:
        await pilot.press("3")
        await shows(pilot, "● approved CT1")
        await pilot.press("m")
        await shows(pilot, "CT1 may send", "required: TLS port only", "lossless")
        assert pilot.app.screen.query_one("#scanner-ae_title", Input).disabled
        await pilot.press("tab", "tab", *"OTHER", "enter")
        await until(pilot, lambda: len(box.saved) == 1)
        assert box.saved[0] == ENTRY.model_copy(update={"called_ae_titles": ["OTHER"]})


async def test_an_unlisted_caller_becomes_an_entry_with_its_address(box: ScriptedBox) -> None:
    box.scanners = [scanner("US3", "10.0.0.3")]
    async with opened(box) as pilot:
        await pilot.press("3")
        await shows(pilot, "○ unlisted US3")
        await pilot.press("m")
        await shows(pilot, "A scanner that may send")
        await pilot.press("tab", "enter")
        await until(pilot, lambda: len(box.saved) == 1)
        assert box.saved[0] == ScannerEntry(ae_title="US3", addresses=["10.0.0.3"], host="10.0.0.3")


async def test_the_certificate_that_was_shown_is_pinned_by_a_key_and_a_question(box: ScriptedBox) -> None:
    entry = ScannerEntry(ae_title="CT1", addresses=["10.0.0.5"])
    shown = {"certificate": "CN=ct1", "certificate_sha256": "cd" * 32}
    box.scanners = [approved(entry)]
    async with opened(box) as pilot:
        await pilot.press("3")
        await shows(pilot, "● approved CT1")
        await pilot.press("p")
        await shows(pilot, "It has not come over TLS")
        box.scanners = [approved(entry).model_copy(update=shown)]
        await shows(pilot, "TLS allowed, shows CN=ct1")
        await pilot.press("p")
        await shows(pilot, "may send over TLS only", "CN=ct1", "cd" * 32, "Is it the scanner's?")
        await pilot.press("y")
        pinned = entry.model_copy(update={"tls": "required", "certificate_sha256": "cd" * 32})
        await until(pilot, lambda: box.saved == [pinned])
        box.scanners = [
            approved(pinned).model_copy(update={"certificate_sha256": "ef" * 32, "certificate": "CN=x"})
        ]
        await shows(pilot, "pinned, but shows another certificate: CN=x")


@pytest.mark.parametrize("key", ["m", "d", "p"])
async def test_a_configured_scanner_is_changed_in_its_file(key: str, box: ScriptedBox) -> None:
    box.scanners = [approved(ENTRY).model_copy(update={"standing": "configured"})]
    async with opened(box) as pilot:
        await pilot.press("3")
        await shows(pilot, "● configured CT1")
        await pilot.press(key)
        await shows(pilot, "CT1 is in the configuration file")
        assert (box.decided, box.saved) == ([], [])


async def test_damage_and_silence_are_said(box: ScriptedBox) -> None:
    box.warning = "scanners.json is damaged: unknown scanners wait for approval until the list is made anew"
    quiet = scanner("CT1", "10.0.0.5")
    assert quiet.seen is not None
    box.scanners = [quiet.model_copy(update={"seen": quiet.seen.model_copy(update={"silence": "silent"})})]
    async with opened(box) as pilot:
        await pilot.press("3")
        await shows(pilot, "✘ scanners.json is damaged", "silent for longer than is usual for it")


@pytest.mark.parametrize("key", ["i", "m", "d"])
async def test_no_form_overflows_80_by_24(key: str, box: ScriptedBox) -> None:
    entry = ENTRY.model_copy(
        update={
            "ae_title": "SIXTEEN_CHARS_AE",
            "name": "x" * 64,
            "addresses": [f"2001:db8:0:1:2:3:4:{number}" for number in range(32)],
            "called_ae_titles": ["SIXTEEN_CHARS_AE"] * 32,
            "certificate_sha256": "a" * 64,
        }
    )
    box.scanners = [approved(entry)]
    box.save_error = "the box says no, and says why, at some length, " * 5
    async with opened(box) as pilot:
        await pilot.press("3")
        await shows(pilot, "SIXTEEN_CHARS_AE")
        await pilot.press(key)
        await pilot.pause(0.3)
        if key != "d":
            await pilot.press("enter")
            await shows(pilot, "✘ the box says no")
        screen = pilot.app.screen
        outside = [
            widget
            for widget in screen.walk_children()
            if widget.region.right > 80 or widget.region.bottom > 24
        ]
        assert outside == []
        assert pilot.app.default_screen.query_one(Footer).region.bottom == 24
