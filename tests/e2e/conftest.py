"""One running system for the tests of a module that do not break it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.running import RunningDemo
from tests.soft_tpm import chip as chip
from tests.soft_tpm import chips as chips


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    """`dicomnet demo --no-sample --json-only`, empty."""
    state = tmp_path_factory.mktemp("e2e") / "state"
    with RunningDemo(state, "--no-sample", "--json-only") as running:
        yield running
