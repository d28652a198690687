"""Drives the program by keys at 80×24 and reads its screen."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from textual.pilot import Pilot

from tests.tui.scripted_box import ScriptedBox
from tui.app import BoxApp
from tui.client import BoxClient


@asynccontextmanager
async def opened(box: ScriptedBox) -> AsyncIterator[Pilot[None]]:
    app = BoxApp(BoxClient(box.path))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        yield pilot


def seen(pilot: Pilot[None]) -> str:
    """What stands on the screen, line by line."""
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


async def until(pilot: Pilot[None], predicate: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not predicate():
        assert time.monotonic() < deadline_s, f"it did not come about; on the screen:\n{seen(pilot)}"
        await pilot.pause(0.05)


async def shows(pilot: Pilot[None], *texts: str) -> None:
    """Wait until every text is on the screen; line breaks and runs of spaces do not matter."""
    await until(pilot, lambda: all(text in " ".join(seen(pilot).split()) for text in texts))
