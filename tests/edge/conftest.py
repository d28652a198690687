"""Fixtures for tests of the box against a small real central."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.scripted_central import ScriptedCentral


@pytest.fixture
def central(tmp_path: Path) -> Iterator[ScriptedCentral]:
    """A running ScriptedCentral on 127.0.0.1."""
    directory = tmp_path / "central"
    directory.mkdir()
    running = ScriptedCentral(directory).start()
    yield running
    running.stop()
