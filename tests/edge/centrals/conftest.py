"""A whole box, and two small real centrals that it may belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.app import Box
from edge.config import Settings
from tests.edge.scripted_central import ScriptedCentral

Start = Callable[..., Box]


@pytest.fixture
def north(tmp_path: Path) -> Iterator[ScriptedCentral]:
    """The second central, called north by the box."""
    directory = tmp_path / "north"
    directory.mkdir()
    running = ScriptedCentral(directory, gateway_id="gw-north", central_id="central-north").start()
    yield running
    running.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts lives of one box; what still runs at the end is stopped."""
    running: list[Box] = []

    def starting(**uplink: object) -> Box:
        for former in running:
            former.stop()
        running.clear()
        box = Box(
            Settings.model_validate(
                {
                    "box": {"state_directory": tmp_path / "box", "control_socket": tmp_path / "s"},
                    "gateway": {"host": "127.0.0.1", "port": 0},
                    "buffer": {"reserve_bytes": 0, "low_water_bytes": 0},
                    "commitment": {"policy": "at_central"},
                    "heartbeat": {"enabled": False},
                    "uplink": {"connections": 1, "backoff_ceiling_s": 0.2, "timeout_s": 5, **uplink},
                }
            )
        )
        box.start()
        running.append(box)
        return box

    yield starting
    for box in running:
        box.stop()
