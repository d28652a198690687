"""OHIF, as it is published and with the settings of docs/ohif, at an address of its own: it lists and draws a study."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from central.access.policy import Action
from central.access.web import COOKIE_NAME
from central.audit.reading import Wanted
from tests.browser import Browser
from tests.central.access.house import pydicom_file
from tests.central.access.house import served as served_app
from tests.clients.house import STUDY, central_with_studies
from tests.ports import free_base_port

ROOT = Path(__file__).parents[2]
DIST = Path(__file__).parent / "ohif" / "dist"
CONFIG = (ROOT / "docs" / "ohif" / "app-config.js").read_text()
CELLS = 24
WAIT_S = 90.0  # Chromium draws by software, on a machine that does other things as well
# The correlation of the canvas, scaled down, with the grey values that are expected of it.
LIKENESS = """
(() => {
  const canvas = document.querySelector('canvas.cornerstone-canvas'), n = %d, wanted = %s;
  const side = Math.min(canvas.width, canvas.height), copy = document.createElement('canvas');
  copy.width = copy.height = n;
  const context = copy.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(canvas, (canvas.width - side) / 2, (canvas.height - side) / 2, side, side, 0, 0, n, n);
  const drawn = wanted.map((_, at) => context.getImageData(at %% n, Math.floor(at / n), 1, 1).data[0]);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const centred = (values) => { const middle = mean(values); return values.map((value) => value - middle); };
  const product = (a, b) => a.reduce((sum, value, at) => sum + value * b[at], 0);
  const d = centred(drawn), w = centred(wanted);
  return product(d, w) / Math.sqrt(product(d, d) * product(w, w));
})()
"""
SCREENSHOTS = ROOT / "build" / "screenshots"


@contextmanager
def ohif(central_url: str, port: int) -> Iterator[str]:
    """OHIF's files on a port, with its settings made for this central."""
    asked = "window.prompt = () => localStorage.getItem('pasted');"  # a dialog of the browser's would stop the page
    config = asked + CONFIG.replace("https://central.example", central_url)

    def file(request: Request) -> Response:
        if request.url.path == "/app-config.js":
            return PlainTextResponse(config, media_type="text/javascript")
        path = DIST / request.path_params["path"]
        return FileResponse(path if path.is_file() else DIST / "index.html")

    with served_app(Starlette(routes=[Route("/{path:path}", file)]), port) as url:
        yield url


def likeness(shown: np.ndarray) -> str:
    """The expression for how much the canvas' middle square looks like `shown`: 1 is wholly, whatever the window."""
    rows = np.linspace(0, shown.shape[0], CELLS + 1).astype(int)
    columns = np.linspace(0, shown.shape[1], CELLS + 1).astype(int)
    means = [
        float(shown[rows[y] : rows[y + 1], columns[x] : columns[x + 1]].mean())
        for y in range(CELLS)
        for x in range(CELLS)
    ]
    return LIKENESS % (CELLS, json.dumps([round(mean, 1) for mean in means]))


@pytest.mark.needs("chromium", "ohif")
def test_ohif_lists_a_study_and_draws_it(tmp_path: Path) -> None:
    port = free_base_port(1)
    origin = f"http://127.0.0.1:{port}"
    with (
        central_with_studies(tmp_path, people={"allowed_origins": [origin]}) as served,
        ohif(served.url, port),
        Browser() as browser,
    ):
        token = served.api_token("radiologist", Action.SEARCH, Action.VIEW)
        browser.open(f"{origin}/ohif-logo.svg")  # any file of this origin: its storage is what is wanted
        browser.eval("localStorage.setItem('pasted', 'one-that-has-ended')")
        browser.open(origin)
        browser.wait_for("document.body.innerText.includes('Study List')", WAIT_S)
        browser.wait_for("sessionStorage.getItem('dicomnet-token') === null", WAIT_S)
        browser.eval(f"localStorage.setItem('pasted', {json.dumps(token)})")
        browser.open(origin)
        browser.wait_for("document.body.innerText.includes('Doe, Jané')", WAIT_S)
        browser.wait_for("document.body.innerText.includes('02-Jan-2026')", WAIT_S)
        browser.screenshot(SCREENSHOTS / "ohif-list.png")
        # The second is archived as JPEG-LS; its plain twin says what must be seen.
        for number, name in enumerate(("CT_small.dcm", "emri_small.dcm")):
            browser.open(f"{origin}/viewer?StudyInstanceUIDs={STUDY}&initialSeriesInstanceUID=1.2.9.{number}")
            pixels = dcmread(BytesIO(pydicom_file(name))).pixel_array
            first = pixels if pixels.ndim == 2 else pixels[0]
            try:
                browser.wait_for(f"{likeness(first)} > 0.95", WAIT_S)
            finally:
                browser.screenshot(SCREENSHOTS / f"ohif-study-{number}.png")
        browser.set_cookie(served.url, COOKIE_NAME, served.session("radiologist", "cookie"))
        with_cookie = f"fetch('{served.url}/dicom-web/studies', {{credentials: 'include'}})"
        assert (
            browser.eval(f"{with_cookie}.then(() => 'read', () => 'not for this page')")
            == "not for this page"
        )
        events = [row.event for row in served.house.central.foundation.audit.newest(Wanted(), limit=200)]
        looks = {
            event.series_instance_uid
            for event in events
            if event.detail.endswith("WADO-RS frames of the series")
        }
        assert looks == {"1.2.9.0", "1.2.9.1"}
        assert {(event.actor, event.outcome) for event in events} == {("radiologist", "success")}
