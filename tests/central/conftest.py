"""Central's tests run on SQLite and files, and once more on PostgreSQL and S3 (tests/central/databases.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.central.databases import stop_servers

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On PostgreSQL every test here needs the server."""
    if os.environ.get("DICOMNET_TEST_DATABASE") == "postgresql":
        for item in items:
            if item.path.is_relative_to(_HERE):
                item.add_marker(pytest.mark.needs("postgresql"))


@pytest.fixture(scope="session", autouse=True)
def _server_ends_with_the_session() -> Iterator[None]:
    yield
    stop_servers()
