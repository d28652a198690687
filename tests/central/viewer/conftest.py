"""One browser for all viewer tests, and the viewer as it was built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser
from tests.central.viewer.stand import Stand, serving

_DIST = Path(__file__).parents[3] / "central" / "viewer" / "dist"


@pytest.fixture(scope="session")
def dist() -> Path:
    """The built viewer; its absence is a failure, for the Makefile builds it before the tests."""
    if not (_DIST / "index.html").is_file():
        pytest.fail("the viewer is not built: run make viewer", pytrace=False)
    return _DIST


@pytest.fixture(scope="session")
def shared_stand(dist: Path) -> Iterator[Stand]:
    """One server for all tests: from one origin the browser loads and compiles the viewer only once."""
    with serving(Stand(dist)) as stand:
        yield stand


@pytest.fixture
def stand(shared_stand: Stand) -> Stand:
    """The shared server, empty and well."""
    shared_stand.reset()
    return shared_stand


@pytest.fixture(scope="session")
def shared_browser(dist: Path) -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(shared_browser: Browser) -> Browser:
    """The shared browser, its console emptied, so that each test answers for its own complaints."""
    shared_browser.console.clear()
    return shared_browser
