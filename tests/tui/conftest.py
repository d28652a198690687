"""A scripted box on a real control socket, for each test its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tui.scripted_box import ScriptedBox


@pytest.fixture
def box() -> Iterator[ScriptedBox]:
    with tempfile.TemporaryDirectory(prefix="dn-") as directory:  # short: it is a socket's path
        made = ScriptedBox(Path(directory) / "control.sock").start()
        yield made
        made.stop()
