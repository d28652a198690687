"""The run on PostgreSQL leaves nothing out that could come to the server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.central import databases
from tests.central.access.house import open_house
from tests.central.databases import open_index, storage_keys
from tests.central.reaching import reaches


class Opening:
    @property
    def index(self) -> object:
        return open_index(Path())


OPENING = Opening()


def through_others() -> None:
    def inside() -> object:
        return open_house(Path())

    inside()


@pytest.fixture
def stocked() -> Callable[..., object]:
    return storage_keys


@pytest.mark.parametrize("_how", [through_others, OPENING, {"named": [open_index]}])
def test_by_what_it_is_given(_how: object, request: pytest.FixtureRequest) -> None:
    assert reaches(request.node, databases.__name__)


def test_by_a_fixture(stocked: object, request: pytest.FixtureRequest) -> None:
    assert stocked
    assert reaches(request.node, databases.__name__)


@pytest.mark.parametrize("_how", [Opening.__name__, Path])
def test_one_that_cannot(_how: object, request: pytest.FixtureRequest) -> None:
    assert not reaches(request.node, "tests.central.databases")
