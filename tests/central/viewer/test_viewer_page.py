"""The viewer in a real browser: what a doctor does, and what an attacker tries."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian, generate_uid

from tests.browser import Browser
from tests.central.viewer.phantom import HOSTILE_NAME, ct_head
from tests.central.viewer.screen import (
    DRAWN,
    LOADED,
    READY,
    SETTLED,
    centre,
    picture,
    slice_is,
    text_of,
    viewport,
)
from tests.central.viewer.stand import Stand

pytestmark = [
    pytest.mark.needs("chromium"),
    pytest.mark.filterwarnings("ignore:The number of PN components"),
]


@pytest.fixture
def head(stand: Stand, browser: Browser) -> list[Dataset]:
    """A study with one CT series of nine slices, open and completely loaded."""
    slices = ct_head()
    stand.reset(slices)
    browser.open(stand.viewer_url(slices[0].StudyInstanceUID))
    browser.wait_for(f"{READY} && {LOADED}")
    return slices


@pytest.mark.usefixtures("head")
def test_middle_slice_is_drawn(browser: Browser) -> None:
    cells = picture(browser)
    assert len(np.unique(cells.round())) > 60, "a uniform canvas shows no patient"
    assert (viewport(browser, "slice"), viewport(browser, "slices")) == ("5", "9")
    assert not browser.console, browser.console


def test_every_slice_is_fetched_middle_first(stand: Stand, browser: Browser, head: list[Dataset]) -> None:
    frames = [path for path in stand.asked if "/frames/" in path and head[0].StudyInstanceUID in path]
    assert len(frames) == len(set(frames)) == len(head)
    assert head[4].SOPInstanceUID in frames[0]
    assert viewport(browser, "loaded") == "9"


@pytest.mark.usefixtures("head")
def test_wheel_and_keys_scroll(browser: Browser) -> None:
    middle = picture(browser)
    browser.wheel(*centre(browser), delta_y=120)
    browser.wait_for(slice_is(6))
    below = picture(browser)
    assert np.abs(middle - below).max() > 20, "another slice must be another picture"
    browser.press("ArrowUp")
    browser.wait_for(slice_is(5))
    assert np.allclose(picture(browser), middle), "back on the slice the picture is as before"
    browser.press("End")
    browser.wait_for(slice_is(9))
    browser.press("Home")
    browser.wait_for(slice_is(1))
    browser.press("ArrowUp")
    assert viewport(browser, "slice") == "1"
    assert "Image 1 / 9" in text_of(browser, "#corner-series")


@pytest.mark.usefixtures("head")
def test_window_drag_presets_invert_and_reset(browser: Browser) -> None:
    as_recorded, upright = picture(browser), picture(browser, aspect=1)
    assert "W 400  L 40" in text_of(browser, "#corner-view")
    x, y = centre(browser)
    browser.drag((x, y), (x + 120, y - 60))
    browser.wait_for("!document.querySelector('#corner-view').textContent.includes('W 400 ')")
    assert np.abs(picture(browser) - as_recorded).mean() > 5

    browser.press("1")
    browser.wait_for("document.querySelector('#corner-view').textContent.includes('W 80  L 40')")
    browser.press("r")
    browser.wait_for("document.querySelector('#corner-view').textContent.includes('W 400  L 40')")
    assert np.allclose(picture(browser), as_recorded, atol=1)

    browser.click("#invert")
    browser.wait_for("document.querySelector('#invert').getAttribute('aria-pressed') === 'true'")
    inverted = picture(browser, aspect=1)
    within = (slice(2, -2), slice(2, -2))  # the outermost cells hold some of the ground around the image
    assert np.allclose(inverted[within], 255 - upright[within], atol=2)
    browser.press("r")
    browser.wait_for("document.querySelector('#invert').getAttribute('aria-pressed') === 'false'")
    assert np.allclose(picture(browser), as_recorded, atol=1)


@pytest.mark.usefixtures("head")
def test_length_is_measured_deleted_and_brought_back(browser: Browser) -> None:
    browser.press("l")
    x, y = centre(browser)
    browser.drag((x - 60, y), (x + 60, y))
    lengths = "[...document.querySelectorAll('#viewport svg text')].map((e) => e.textContent).join(' ')"
    # 128 pixels of 0.5 mm fill the viewport's height.
    length_mm = 120 * 64 / browser.eval("document.querySelector('#viewport').clientHeight")
    browser.wait_for(f"Math.abs(/([0-9.]+) ?mm/.exec({lengths})[1] - {length_mm}) < 0.3")

    browser.press("Delete")
    browser.wait_for(f"!/mm/.test({lengths})")
    browser.wait_for("document.querySelector('#delete').disabled")
    browser.press("z", ctrl=True)
    browser.wait_for(f"/mm/.test({lengths})")
    browser.press("z")
    browser.wait_for("document.querySelector('[data-tool=zoom]').getAttribute('aria-checked') === 'true'")
    assert browser.eval(f"/mm/.test({lengths})"), "choosing zoom must take nothing back"
    browser.press("z", ctrl=True)
    browser.wait_for(f"!/mm/.test({lengths})")


DRAWN_TEXT = "[...document.querySelectorAll('#viewport svg text')].map((e) => e.textContent).join(' ')"


@pytest.mark.parametrize(("rescale_type", "unit"), [("HU", " HU"), ("US", "")])
def test_a_region_tells_mean_deviation_and_area(
    stand: Stand, browser: Browser, rescale_type: str, unit: str
) -> None:
    """Half of the slice is 1200, half 40; and only Hounsfield units are called so."""
    (ds,) = ct_head(slices=1)
    ds.RescaleType = rescale_type
    values = np.full((128, 128), 1024 + 40, "<u2")
    values[:, 64:] = 1024 + 1200
    ds.PixelData = values.tobytes()
    stand.reset([ds])
    browser.open(stand.viewer_url(ds.StudyInstanceUID))
    browser.wait_for(f"{READY} && {LOADED}")
    browser.press("e")
    (x, y), height = centre(browser), browser.eval("document.querySelector('#viewport').clientHeight")
    mm = 64 / height  # 128 pixels of 0.5 mm fill the height
    browser.drag((x - 120, y), (x - 120 + 60, y + 40))  # from the middle outwards
    browser.wait_for(f"/Mean 40.0{unit}, SD 0.0/.test({DRAWN_TEXT})")
    said = browser.eval(DRAWN_TEXT)
    assert ("HU" in said) == bool(unit)
    area = np.pi * 60 * 40 * mm**2
    browser.wait_for(f"Math.abs(/to 40.0, ([0-9.]+) mm/.exec({DRAWN_TEXT})[1] - {area}) < {0.05 * area}")
    browser.press("Delete")
    browser.wait_for(f"!/Mean/.test({DRAWN_TEXT})")
    browser.drag((x, y), (x + 60, y + 40))
    browser.wait_for(f"/Mean [0-9]{{3}}.*40.0 to 1200.0/.test({DRAWN_TEXT})")


@pytest.mark.usefixtures("head")
def test_an_angle_is_measured(browser: Browser) -> None:
    browser.press("a")
    x, y = centre(browser)
    browser.drag((x - 100, y), (x, y))
    browser.drag((x, y - 60), (x, y - 90), steps=4)
    browser.wait_for(f"Math.abs(/([0-9.]+) °/.exec({DRAWN_TEXT})[1] - 90) < 1.5")


def test_what_lies_ahead_comes_before_what_lies_behind(stand: Stand, browser: Browser) -> None:
    slices = ct_head(slices=60)
    stand.reset(slices)
    browser.thin_line(120_000)
    try:
        browser.open(stand.viewer_url(slices[0].StudyInstanceUID))
        browser.wait_for(READY)
        browser.press("ArrowDown")
        browser.wait_for("+document.querySelector('#viewport').dataset.loaded >= 18")
    finally:
        browser.thin_line()
    browser.wait_for(LOADED)
    order = {ds.SOPInstanceUID: number for number, ds in enumerate(slices, 1)}
    asked = [order[path.split("/")[-3]] for path in stand.asked if "/frames/" in path]
    assert sorted(asked) == list(range(1, 61))
    ahead = [number for number in asked[5:18] if number > 31]
    assert len(ahead) >= 9, asked


@pytest.mark.usefixtures("head")
def test_zoom_pan_and_help_by_hand(browser: Browser) -> None:
    x, y = centre(browser)
    browser.drag((x, y), (x, y + 100), button="right")
    browser.wait_for("!document.querySelector('#corner-view').textContent.includes('Zoom 100 %')")
    before = picture(browser)
    browser.drag((x, y), (x + 80, y), button="middle")
    browser.wait_for("true")
    assert np.abs(picture(browser) - before).max() > 20
    browser.press("?")
    browser.wait_for("document.querySelector('#help-dialog').open")
    browser.press("Escape")
    browser.wait_for("!document.querySelector('#help-dialog').open")


def test_data_set_text_is_never_markup(stand: Stand, browser: Browser) -> None:
    slices = ct_head(slices=3)
    for ds in slices:
        ds.StudyDescription = ds.SeriesDescription = HOSTILE_NAME
    stand.reset(slices)
    browser.open(stand.viewer_url(slices[0].StudyInstanceUID))
    browser.wait_for(f"{READY} && {LOADED}")
    for place in ("#patient-name", "#corner-patient"):
        assert text_of(browser, place).startswith("<img src")
    for place in ("#study-description", "#corner-study", "#corner-series", "nav .name"):
        assert "<img src=x onerror=window.hacked=1>" in text_of(browser, place)
    assert browser.eval("document.querySelectorAll('img:not(nav .thumbnail img)').length") == 0
    assert browser.eval("window.hacked === undefined")
    assert "P-0001" in text_of(browser, "#patient-facts")
    assert [text_of(browser, f"#edge-{edge}") for edge in ("west", "east", "north", "south")] == list("RLAP")


def test_series_without_pictures_says_so(stand: Stand, browser: Browser) -> None:
    slices = ct_head(slices=3)
    report = _report(slices[0])
    stand.reset([report, *slices])
    browser.open(stand.viewer_url(slices[0].StudyInstanceUID))
    browser.wait_for(f"{READY} && {slice_is(2)}")
    browser.click(f"nav button[data-series='{report.SeriesInstanceUID}']")
    browser.wait_for("!document.querySelector('#notice').hidden")
    assert "1 document or report" in text_of(browser, "#notice-text")
    assert browser.eval("document.querySelector('.stage').classList.contains('covered')")
    browser.press("]")
    browser.wait_for(f"{READY} && {slice_is(2)} && document.querySelector('#notice').hidden")


def test_frame_that_fails_never_shows_another_in_its_place(stand: Stand, browser: Browser) -> None:
    slices = ct_head(slices=5)
    stand.reset(slices)
    stand.broken.add(slices[3].SOPInstanceUID)
    browser.open(stand.viewer_url(slices[0].StudyInstanceUID))
    browser.wait_for(f"{READY} && {LOADED}")
    assert "1 could not be loaded" in text_of(browser, "#status")
    browser.press("ArrowDown")
    browser.wait_for(f"document.documentElement.dataset.viewerState === 'error' && {slice_is(4)}")
    assert browser.eval("getComputedStyle(document.querySelector('#viewport canvas')).visibility") == "hidden"
    assert "Image 4 cannot be shown" in text_of(browser, "#notice-title")
    browser.press("ArrowDown")
    browser.wait_for(f"{READY} && {slice_is(5)} && document.querySelector('#notice').hidden")
    stand.broken.clear()
    browser.press("ArrowUp")
    browser.wait_for(f"{READY} && {slice_is(4)} && document.querySelector('#notice').hidden")


def test_series_whose_middle_fails_can_be_read_on(stand: Stand, browser: Browser) -> None:
    slices = ct_head(slices=5)
    stand.reset(slices)
    stand.broken.add(slices[2].SOPInstanceUID)
    browser.open(stand.viewer_url(slices[0].StudyInstanceUID))
    browser.wait_for("document.documentElement.dataset.viewerState === 'error'")
    assert "Image 3 cannot be shown" in text_of(browser, "#notice-title")
    browser.press("ArrowDown")
    browser.wait_for(f"{READY} && {slice_is(4)} && document.querySelector('#notice').hidden")
    assert len(np.unique(picture(browser).round())) > 60


def test_ended_session_leads_to_sign_in_and_back(stand: Stand, browser: Browser, head: list[Dataset]) -> None:
    stand.signed_in = False
    uid = head[0].StudyInstanceUID
    browser.open(stand.viewer_url(uid))
    browser.wait_for("location.pathname === '/signin'")
    assert browser.eval("new URLSearchParams(location.search).get('next')") == f"/viewer/?study={uid}"


@pytest.mark.parametrize("study", ["1.2.3.4", "", "../../etc", "1.2'\"><script>"])
def test_absent_study_is_told_in_plain_words(stand: Stand, browser: Browser, study: str) -> None:
    browser.open(stand.viewer_url(study))
    browser.wait_for(SETTLED)
    assert browser.eval("document.documentElement.dataset.viewerState") == "error"
    expected = "This study is not here, or you may not see it." if study == "1.2.3.4" else "names no study"
    assert expected in text_of(browser, "#notice-text")
    if study != "1.2.3.4":
        assert not any(path.startswith("/dicom-web") for path in stand.asked)


def test_draws_without_webgl(stand: Stand) -> None:
    slices = ct_head(slices=3)
    stand.reset(slices)
    with Browser(flags=["--disable-3d-apis"]) as browser:
        browser.open(stand.viewer_url(slices[0].StudyInstanceUID))
        browser.wait_for(f"{READY} && {LOADED}")
        assert "without graphics hardware" in text_of(browser, "#status")
        browser.wait_for(DRAWN)
        middle = picture(browser)
        assert len(np.unique(middle.round())) > 60
        browser.press("ArrowDown")
        browser.wait_for(slice_is(3))
        assert np.abs(picture(browser) - middle).max() > 20


def _report(like: Dataset) -> Dataset:
    """A structured report in the same study: no rows, no columns, no pixels."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = BasicTextSRStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = like.StudyInstanceUID, generate_uid()
    ds.Modality, ds.SeriesNumber, ds.SeriesDescription = "SR", 1, "Report"
    ds.PatientName, ds.PatientID = like.PatientName, like.PatientID
    return ds


@pytest.mark.parametrize("width", [1024, 600])
def test_nothing_reaches_over_the_edge_of_a_tablet(stand: Stand, width: int) -> None:
    slices = ct_head(slices=3)
    stand.reset(slices)
    with Browser(width=width, height=900) as browser:
        browser.open(stand.viewer_url(slices[0].StudyInstanceUID))
        browser.wait_for(READY)
        assert browser.eval(
            "[...document.querySelectorAll('header, .tools, .tools button, main, footer')]"
            ".every((e) => e.getBoundingClientRect().right <= innerWidth)"
        )
