"""What a person sees: sign in, find the study in the list, open it, look at pixels; and the fleet page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import phantom
from tests.browser import Browser
from tests.central.viewer.screen import READY, centre, picture, slice_is, viewport
from tests.e2e.running import RunningDemo

pytestmark = [
    pytest.mark.needs("chromium"),
    pytest.mark.timeout(600),
]

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
SIGN_IN_PAGE = "location.pathname === '/signin' && document.querySelector('input[name=password]')"
STUDY_LINK = f"#studies a[href*='{phantom.STUDY_INSTANCE_UID}']"


@pytest.fixture(scope="module")
def with_sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    with RunningDemo(tmp_path_factory.mktemp("browser") / "state") as running:
        yield running


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


def sign_in(browser: Browser, running: RunningDemo, role: str, path: str = "/") -> None:
    """Through the form, as a person: an anonymous call of `path` ends on it."""
    account = running.ready["accounts"][role]
    browser.open(running.url + path)
    browser.wait_for(SIGN_IN_PAGE)
    browser.type_into("input[name=username]", account["username"])
    browser.type_into("input[name=password]", account["password"])
    browser.press("Enter")
    browser.wait_for(f"location.pathname === '{path}' && document.readyState === 'complete'")


def test_the_sample_gets_ready_and_says_what_it_does(with_sample: RunningDemo) -> None:
    said = "\n".join(with_sample.said)
    assert "broker:" in said
    assert "enrolled:" in said
    assert "central shows 111 of 111 instances" in said
    assert with_sample.ready["accounts"].keys() == {"admin", "radiologist", "doctor", "patient"}


@pytest.mark.parametrize("role", ["radiologist", "doctor", "patient"])
def test_the_study_is_seen(with_sample: RunningDemo, browser: Browser, role: str) -> None:
    sign_in(browser, with_sample, role)
    browser.wait_for(f'document.querySelector("{STUDY_LINK}")')
    rows = browser.eval("document.querySelectorAll('#studies tbody tr').length")
    assert rows == 1 if role != "radiologist" else rows > 10
    browser.screenshot(SCREENSHOTS / f"studies-{role}.png")
    browser.click(STUDY_LINK)
    browser.wait_for(READY, timeout_s=60)
    assert viewport(browser, "slices") == str(phantom.SLICES)
    drawn = picture(browser, aspect=1)
    assert len({tuple(cell) for cell in drawn.round().reshape(-1, 3).tolist()}) > 50, "pixels were drawn"
    assert drawn[24, 24].mean() > 40, "brain in the middle"
    assert drawn[0, 0].mean() < 10, "air in the corner"
    browser.screenshot(SCREENSHOTS / f"viewer-{role}.png")
    number = int(viewport(browser, "slice"))
    browser.wheel(*centre(browser), 100)
    browser.wait_for(slice_is(number + 1))
    assert (picture(browser, aspect=1) != drawn).any(), "another slice is another picture"


def test_the_fleet_page_shows_the_box_online(with_sample: RunningDemo, browser: Browser) -> None:
    sign_in(browser, with_sample, "admin", "/fleet")
    box = "article[data-gateway][data-state=online]"
    browser.wait_for(f"document.querySelector('{box}')?.textContent.includes('DEMO_CT')", timeout_s=60)
    browser.screenshot(SCREENSHOTS / "fleet.png")


def test_a_stranger_sees_the_sign_in_page_only(with_sample: RunningDemo, browser: Browser) -> None:
    browser.open(f"{with_sample.url}/viewer/?study={phantom.STUDY_INSTANCE_UID}")
    browser.wait_for(SIGN_IN_PAGE, timeout_s=60)
    browser.type_into("input[name=username]", "radiologist")
    browser.type_into("input[name=password]", "not the password")
    browser.press("Enter")
    browser.wait_for("document.querySelector('[role=alert]')?.textContent.trim()")
    assert browser.eval("location.pathname") == "/signin"
