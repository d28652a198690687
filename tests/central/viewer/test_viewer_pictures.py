"""Every kind of pixel data, compared with pydicom's own reading of the same file.

A viewer that shows a wrong picture is worse than one that shows none: colours exchanged, signs lost, grey scales
inverted. So each form is drawn by the real browser and compared, cell by cell, with what pydicom decodes.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.uid import generate_uid

from tests.browser import Browser
from tests.central.viewer.screen import SETTLED, picture, text_of
from tests.central.viewer.stand import Stand

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.filterwarnings("ignore")]

_FILES = Path(pydicom.__file__).parent / "data" / "test_files"

#: What each file stands for.
DRAWN = {
    "CT_small.dcm": "signed, rescaled, explicit little endian",
    "MR_small_implicit.dcm": "implicit little endian",
    "MR_small_bigendian.dcm": "explicit big endian, 16 bits",
    "MR_small_RLE.dcm": "RLE, signed",
    "MR_small_jp2klossless.dcm": "JPEG 2000, signed",
    "693_J2KI.dcm": "JPEG 2000 lossy, CT",
    "image_dfl.dcm": "deflated",
    "JPEG2000.dcm": "JPEG 2000, 16 bits",
    "examples_overlay.dcm": "12 bits with an overlay beside them",
    "examples_palette.dcm": "colour table",
    "examples_rgb_color.dcm": "RGB",
    "examples_ybr_color.dcm": "JPEG baseline, YBR 4:2:2, multi-frame",
    "examples_jpeg2k.dcm": "JPEG 2000, YBR_RCT",
    "SC_rgb_rle_2frame.dcm": "RLE in colour, multi-frame",
    "SC_rgb_jpeg_dcmtk.dcm": "JPEG baseline, YBR",
    "SC_rgb_dcmtk_+eb+cr.dcm": "JPEG baseline in RGB",
    "SC_jpeg_no_color_transform.dcm": "JPEG in RGB whose stream does not say so",
    "SC_ybr_full_422_uncompressed.dcm": "YBR 4:2:2, uncompressed",
    "ExplVR_BigEnd.dcm": "RGB by plane, big endian, 8 bits in words",
    "rtdose.dcm": "32 bits, multi-frame",
}

#: Files this viewer refuses, and the word it does so with.
REFUSED = {
    "J2K_pixelrep_mismatch.dcm": "cannot read",
    "SC_rgb_rle_16bit.dcm": "cannot draw",
    "liver_1frame.dcm": "segmentation",
}


@pytest.fixture(scope="module")
def gallery(shared_stand: Stand, shared_browser: Browser) -> dict[str, Dataset]:
    """All files as series of one study, open in the browser."""
    study = generate_uid()
    found: dict[str, Dataset] = {}
    for name in (*DRAWN, *REFUSED):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = pydicom.dcmread(_FILES / name)
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, generate_uid(), generate_uid()
        ds.SeriesNumber, ds.SeriesDescription = len(found) + 1, name
        found[name] = ds
    shared_stand.reset(found.values())
    shared_browser.open(shared_stand.viewer_url(study))
    shared_browser.wait_for(f"document.querySelectorAll('nav button').length === {len(found)} && {SETTLED}")
    return found


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_as_pydicom_reads_it(name: str, gallery: dict[str, Dataset], browser: Browser) -> None:
    ds = gallery[name]
    _open(browser, ds)
    assert browser.eval("document.documentElement.dataset.viewerState") == "ready", text_of(
        browser, "#notice-text"
    )
    expected = _cells(_reference(ds))
    shown = picture(browser, aspect=_aspect(ds))
    assert np.abs(expected - shown).mean() < 8, f"not the picture pydicom reads ({DRAWN[name]})"
    if expected.std() > 10:  # in a nearly uniform picture only the colour itself can be compared
        assert np.corrcoef(expected.ravel(), shown.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("name", REFUSED)
def test_refused_rather_than_shown_wrongly(name: str, gallery: dict[str, Dataset], browser: Browser) -> None:
    _open(browser, gallery[name])
    browser.wait_for("!document.querySelector('#notice').hidden")
    assert REFUSED[name] in text_of(browser, "#notice")
    assert browser.eval("getComputedStyle(document.querySelector('#viewport canvas')).visibility") == "hidden"


def test_refused_when_only_the_frame_tells_its_coding(stand: Stand, browser: Browser) -> None:
    ds = pydicom.dcmread(_FILES / "SC_rgb_rle_16bit.dcm")
    stand.reset([ds])
    stand.announces_transfer_syntax = False
    browser.open(stand.viewer_url(ds.StudyInstanceUID))
    browser.wait_for("!document.querySelector('#notice').hidden")
    assert "cannot read" in text_of(browser, "#notice-text")
    assert browser.eval("document.querySelector('#notice-action').hidden"), "asking again cannot help"


def _open(browser: Browser, ds: Dataset) -> None:
    browser.eval("void (document.documentElement.dataset.viewerState = 'loading')")
    browser.click(f"nav button[data-series='{ds.SeriesInstanceUID}']")
    browser.wait_for(SETTLED)


def _reference(ds: Dataset) -> np.ndarray[Any, Any]:
    """The middle frame as grey or colour, 0-255, by the file's own window."""
    pixels = ds.pixel_array
    if int(ds.get("NumberOfFrames", 1) or 1) > 1:
        pixels = pixels[(len(pixels) - 1) // 2]
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        return apply_color_lut(pixels, ds) / 256
    if pixels.ndim == 3:
        return pixels.astype(float)
    values = apply_modality_lut(pixels, ds).astype(float)
    if "WindowWidth" in ds:
        center, width = _first(ds.WindowCenter), _first(ds.WindowWidth)
    elif ds.Modality == "CT":
        center, width = 40.0, 400.0
    else:
        center, width = (values.max() + values.min() + 1) / 2, values.max() - values.min() + 1
    return np.clip((values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5, 0, 1) * 255


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, MultiValue) else value)


def _aspect(ds: Dataset) -> float:
    row_mm, column_mm = ds.get("PixelSpacing") or ds.get("PixelAspectRatio") or (1, 1)
    return float(ds.Columns * column_mm / (ds.Rows * row_mm))


def _cells(image: np.ndarray[Any, Any], cells: int = 48) -> np.ndarray[Any, Any]:
    planes = image if image.ndim == 3 else image[..., None].repeat(3, axis=2)
    small = [
        np.asarray(
            Image.fromarray(planes[..., channel].astype(np.float32)).resize(
                (cells, cells), Image.Resampling.BOX
            )
        )
        for channel in range(3)
    ]
    return np.stack(small, axis=2)
