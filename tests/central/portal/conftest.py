from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.central.access.house import House, open_house, pydicom_file


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("house")) as opened:
        opened.put(pydicom_file("CT_small.dcm"))
        yield opened


@pytest.fixture
def admin(house: House) -> Iterator[httpx.Client]:
    with house.client("admin") as client:
        yield client


@pytest.fixture
def second(house: House) -> Iterator[httpx.Client]:
    """Another administrator, where a module's house has one."""
    with house.client("admin-two") as client:
        yield client
