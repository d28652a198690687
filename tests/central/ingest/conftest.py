"""A running central and an enrolled box for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from tests.central.app.house import Box, House, enrol


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path / "central") as house:
        yield house


@pytest.fixture
def box(house: House, tmp_path: Path) -> Box:
    return enrol(house, tmp_path / "box", "CT room 2")


@pytest.fixture(scope="session")
def ct() -> bytes:
    path = get_testdata_file("CT_small.dcm", download=False)
    assert path is not None
    return Path(str(path)).read_bytes()
