"""The key to look inside what a spool sealed."""

from __future__ import annotations

import pytest

from tests.edge.buffer.instances import Central


@pytest.fixture(scope="session")
def receiving_central() -> Central:
    return Central()
