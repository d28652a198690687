from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from central.access.doorkeeper import Doorkeeper
from central.database import Database
from tests.central.access.house import CHEAP, FACTOR_KEY, PASSWORD, people_in
from tests.central.databases import open_index


class Clock:
    """UTC seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = open_index(tmp_path)
    yield database
    database.close()


class People:
    """The people of `tests.central.access.house` at the door, each with a session."""

    def __init__(self, doorkeeper: Doorkeeper) -> None:
        self.doorkeeper = doorkeeper
        people_in(doorkeeper.accounts)

    def token(self, username: str) -> str:
        admitted = self.doorkeeper.accounts.passwords.verify(username, PASSWORD, "::1")
        assert admitted is not None
        return self.doorkeeper.accounts.sessions.start(admitted.principal, "cookie", 10**9)


@pytest.fixture
def people(db: Database, clock: Clock) -> People:
    return People(Doorkeeper.open(db, clock, CHEAP, factor_key=FACTOR_KEY))
