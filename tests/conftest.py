"""What every test may lean on: real peers by marker, the folder of real series, and nothing shared between tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers_installed import missing_peers


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose peers are not installed; with CI set their absence is a failure, never a skip."""
    wanted = [str(peer) for mark in item.iter_markers("needs") for peer in mark.args]
    missing = missing_peers(wanted)
    if missing:
        sentence = f"not installed: {', '.join(missing)} (make test installs them where it may)"
        if os.environ.get("CI"):
            pytest.fail(sentence, pytrace=False)
        pytest.skip(sentence)
    if item.get_closest_marker("samples") and not os.environ.get("DICOM_SAMPLES"):
        pytest.skip("DICOM_SAMPLES names no folder of real series")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests that may take long begin first: begun last they would have one worker busy, the others idle."""
    long = {item.path for item in items if item.get_closest_marker("timeout")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture
def tmp_path(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Pytest's own, which `make test` has in memory; of a test marked `disk` a folder where writes come to a disk."""
    if request.node.get_closest_marker("disk") is None:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(
        prefix="dicomnet-test-", dir=os.environ.get("DICOMNET_TEST_DISK", "/var/tmp")
    ) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real series, for tests marked `samples`."""
    return Path(os.environ["DICOM_SAMPLES"])
