"""Central's tests run on SQLite and files, and once more on PostgreSQL and S3 (tests/central/databases.py)."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.central import databases
from tests.central.reaching import reaches

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On PostgreSQL: of the tests here, those that can come to the server, and they need it."""
    if os.environ.get("DICOMNET_TEST_DATABASE") != "postgresql":
        return
    spared = [
        item
        for item in items
        if item.path.is_relative_to(_HERE)
        and isinstance(item, pytest.Function)
        and not reaches(item, databases.__name__)
    ]
    config.hook.pytest_deselected(items=spared)
    proven = set(spared)
    items[:] = [item for item in items if item not in proven]
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.needs("postgresql"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    """Databases go with the folders of their tests."""
    result = yield
    databases.drop_what_is_gone()
    return result


@pytest.fixture(scope="session", autouse=True)
def _server_ends_with_the_session() -> Iterator[None]:
    yield
    databases.stop_servers()
