"""A spool in a temporary folder, with keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.buffer.spool import Spool
from tests.edge.buffer.instances import Central

OpenSpool = Callable[..., Spool]


@pytest.fixture(scope="session")
def receiving_central() -> Central:
    return Central()


@pytest.fixture
def open_spool(tmp_path: Path, receiving_central: Central) -> Iterator[OpenSpool]:
    """Opens lives of one and the same spool; whatever is still open at the end is closed."""
    opened: list[Spool] = []

    def opening(**changes: object) -> Spool:
        settings: dict[str, object] = {
            "reserve_bytes": 0,
            "quarantine_max_bytes": 1 << 20,
            "keys": receiving_central.ring(),
        }
        spool = Spool.open(tmp_path / "spool", **(settings | changes))  # type: ignore[arg-type]
        opened.append(spool)
        return spool

    yield opening
    for spool in opened:
        spool.close()


@pytest.fixture
def spool(open_spool: OpenSpool) -> Spool:
    return open_spool()
