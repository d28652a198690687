"""A real box under siege."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.scripted_central import ScriptedCentral
from tests.peers.real_box import RealBox


@pytest.fixture
def box(tmp_path: Path) -> Iterator[RealBox]:
    """Enrolled, with a central that has gone away: what is taken in stays to be looked at."""
    (tmp_path / "central").mkdir()
    central = ScriptedCentral(tmp_path / "central").start()
    with RealBox(tmp_path / "box") as running:
        running.start()
        running.enrol(central)
        central.stop()
        yield running
