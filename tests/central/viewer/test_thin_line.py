"""The viewer on a thin line, beside the real central: fewer bytes, sooner there, the same pixels."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import UID

from central.access.web import COOKIE_NAME
from central.dicomweb import frames
from central.dicomweb.conversion import FrameCoding
from central.dicomweb.errors import NotAnImageError
from central.dicomweb.render import Job, Renderer
from tests.browser import Browser
from tests.central.access.house import PASSWORD, House, open_house, part10
from tests.central.viewer.phantom import ct_head
from tests.central.viewer.screen import LOADED, READY, text_of

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.filterwarnings("ignore:The number of PN components")]

THIN_BYTES_A_SECOND = 300_000
# Listens to the decoders: each frame's cells as they leave the worker, before anything is drawn.
_LISTEN = """
window.decoded = [];
const Plain = window.Worker;
window.Worker = class extends Plain {
  constructor(...given) {
    super(...given);
    this.addEventListener('message', ({ data }) => {
      const pixels = data?.value?.pixelData;
      if (pixels === undefined) return;
      window.decoded.push(crypto.subtle.digest('SHA-256', Float32Array.from(pixels)).then((digest) =>
        [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, '0')).join('')));
    });
  }
};
"""
_FRAMES = """
(() => {
  const frames = performance.getEntriesByType('resource').filter(({ name }) => name.includes('/frames/'));
  return [frames.length, frames.reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0),
          Math.max(...frames.map(({ responseEnd }) => responseEnd))
          - Math.min(...frames.map(({ startTime }) => startTime))];
})()
"""


@pytest.fixture(scope="module")
def house(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    assert dist.is_dir()
    with open_house(tmp_path_factory.mktemp("house")) as opened:
        yield opened


@pytest.fixture(scope="module")
def listening(dist: Path) -> Iterator[Browser]:
    with Browser() as opened:
        opened.run_first(_LISTEN)
        yield opened


def archived(house: House, slices: list[Dataset]) -> str:
    for ds in slices:
        ds.SOPClassUID = UID(ds.SOPClassUID)
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        house.put(part10(ds))
    return str(slices[0].StudyInstanceUID)


def signed_in(browser: Browser, house: House) -> None:
    admitted = house.accounts.passwords.verify("radiologist", PASSWORD, "127.0.0.1")
    assert admitted is not None
    token = house.accounts.sessions.start(admitted.principal, "cookie", 3600)
    browser.set_cookie(house.base_url, COOKIE_NAME, token)


def open_study(browser: Browser, house: House, study: str, line: str) -> None:
    """With what the page believes of its line from the study before."""
    signed_in(browser, house)
    browser.open(f"{house.base_url}/signin")
    browser.eval(f"sessionStorage.setItem('line', '{line}')")
    browser.open(f"{house.base_url}/viewer/?study={study}")
    browser.wait_for(f"{READY} && {LOADED}")


def transfer(browser: Browser) -> dict[str, int]:
    found: dict[str, str] = browser.eval("({...document.querySelector('#transfer').dataset})")
    return {key: int(value) for key, value in found.items()}


def canvas(browser: Browser) -> str:
    drawn = browser.eval("document.querySelector('#viewport canvas').toDataURL()")
    assert isinstance(drawn, str)
    return drawn


def every_kind_of_grey() -> list[Dataset]:
    """A series whose images differ in sign, depth and range, up to noise over all sixteen bits."""
    slices = ct_head(slices=8, size=128)
    noise = np.random.default_rng(1).integers(0, 1 << 16, (128, 128), np.uint16)
    for number, ds in enumerate(slices):
        hounsfield = ds.pixel_array.astype(np.int16) - 1024
        if number % 4 == 1:  # signed, the sign spread over all sixteen bits
            ds.PixelRepresentation, ds.RescaleIntercept = 1, 0
            ds.PixelData = hounsfield.tobytes()
        elif number % 4 == 2:  # eight bits
            ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
            ds.PixelData = np.clip(hounsfield + 100, 0, 255).astype(np.uint8).tobytes()
        elif number == 3:
            ds.BitsStored, ds.HighBit, ds.PixelData = 16, 15, noise.tobytes()
        elif number == 7:
            ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.PixelData = 16, 15, 1, noise.tobytes()
    return slices


def digests(slices: list[Dataset]) -> set[str]:
    """Of each image's values in Hounsfield units, as pydicom reads them."""
    return {
        hashlib.sha256(
            (ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)).astype("<f4").tobytes()
        ).hexdigest()
        for ds in slices
    }


def test_coded_frames_are_the_same_pixels(
    house: House, listening: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "_THIN_LINE_BYTES_A_SECOND", 1)
    slices = every_kind_of_grey()
    study = archived(house, slices)
    expected = digests(slices)
    shown: dict[str, str] = {}
    for form in ("stored", "coded"):
        with monkeypatch.context() as patch:
            if form == "stored":
                patch.setattr(frames, "_coded_anew", lambda _: [])
            listening.thin_line(THIN_BYTES_A_SECOND)  # so that it stays thin, however fast this machine is
            open_study(listening, house, study, "thin")
            listening.thin_line()
        assert transfer(listening) == {"coded": 0, "stored": 0} | {form: 8}
        assert set(listening.eval("Promise.all(window.decoded)")) == expected
        shown[form] = canvas(listening)
    assert shown["stored"] == shown["coded"]
    assert "coded losslessly" in text_of(listening, "#transfer-summary")
    assert not listening.console, listening.console


def test_a_thin_line_is_found_and_spared(
    house: House, listening: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What crosses shrinks as the coding does, and the last image is there sooner by about as much."""
    monkeypatch.setattr(frames, "_THIN_LINE_BYTES_A_SECOND", 1)
    slices = ct_head(slices=16, size=256)
    study = archived(house, slices)
    as_stored = sum(len(ds.PixelData) for ds in slices)
    found: dict[str, tuple[float, float]] = {}
    try:
        for form in ("stored", "coded"):
            with monkeypatch.context() as patch:
                if form == "stored":
                    patch.setattr(frames, "_coded_anew", lambda _: [])
                listening.thin_line(THIN_BYTES_A_SECOND, latency_ms=20)
                open_study(listening, house, study, "fast")  # it has to find out by itself
            asked, crossed, took_ms = listening.eval(_FRAMES)
            assert asked == len(slices)
            found[form] = crossed, took_ms
            assert set(listening.eval("Promise.all(window.decoded)")) == digests(slices)
    finally:
        listening.thin_line()
    coded_frames = transfer(listening)["coded"]
    assert coded_frames >= len(slices) - 2, "the first image measured the line"
    sizes = [len(imagecodecs.htj2k_encode(ds.pixel_array, reversible=True)) for ds in slices]
    expected = sum(sizes) + (len(slices) - coded_frames) * as_stored / len(slices)
    assert as_stored <= found["stored"][0] < 1.02 * as_stored
    assert abs(found["coded"][0] - expected) < 0.05 * expected + 0.02 * as_stored
    assert found["coded"][1] < found["stored"][1], "the last image was there sooner"
    assert "Mbit/s · coded losslessly" in text_of(listening, "#transfer-summary")
    assert f"{coded_frames} images came coded" in text_of(listening, "#transfer-details")


def test_a_fast_line_is_left_alone(house: House, listening: Browser) -> None:
    """Unless it is found to be thin, which a machine with ten times too much work may seem to be."""
    slices = ct_head(slices=7, size=512)
    open_study(listening, house, archived(house, slices), "fast")
    came = transfer(listening)
    assert came["stored"] > 0
    if listening.eval("sessionStorage.getItem('line')") == "fast":
        assert came == {"coded": 0, "stored": len(slices)}
        assert "images are asked for as they are stored" in text_of(listening, "#transfer-details")


@pytest.mark.parametrize("trouble", ["not in time", "cannot be coded", "cannot be read"])
def test_what_fails_comes_as_stored_and_is_told(
    house: House, listening: Browser, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """central is too slow, central fails, or this browser cannot read what central coded."""
    slices = ct_head(slices=5, size=64)
    study = archived(house, slices)
    render, in_the_end = Renderer.render, threading.Event()

    def fails(self: Renderer, job: Job | FrameCoding) -> bytes:
        if not isinstance(job, FrameCoding):
            return render(self, job)
        if trouble == "cannot be coded":
            raise NotAnImageError("the coder does not manage")
        if trouble == "not in time":
            in_the_end.wait(60)
        return b"\xff\x4f no codestream at all"

    monkeypatch.setattr(Renderer, "render", fails)
    if trouble != "not in time":
        monkeypatch.setattr(frames, "_THIN_LINE_BYTES_A_SECOND", 1)
    listening.thin_line(THIN_BYTES_A_SECOND)
    try:
        open_study(listening, house, study, "thin")
    finally:
        in_the_end.set()
        listening.thin_line()
    assert transfer(listening) == {"coded": 0, "stored": 5}
    empty = {hashlib.sha256(b"").hexdigest()}  # what the decoder makes of no codestream, without an error
    assert set(listening.eval("Promise.all(window.decoded)")) - empty == digests(slices)
    told = "could not read the coding" if trouble == "cannot be read" else "central had no coding"
    assert told in text_of(listening, "#transfer-details")
    assert "coded" not in text_of(listening, "#transfer-summary")
    assert text_of(listening, "#status") == "5 images"
