"""A sending box in a temporary folder, and a storescp beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.edge.destinations.sending import SendingBox, StoreScp
from tests.ports import free_base_port

MakeBox = Callable[..., SendingBox]


@pytest.fixture
def make_box(tmp_path: Path) -> Iterator[MakeBox]:
    made: list[SendingBox] = []

    def making(**destinations: object) -> SendingBox:
        made.append(SendingBox(tmp_path / f"box-{len(made)}", **destinations))
        return made[-1]

    yield making
    for box in made:
        box.stop()


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[StoreScp]:
    scp = StoreScp(tmp_path / "pacs", free_base_port())
    yield scp
    scp.kill()
