"""Reading what the viewer shows: states, pixels, places."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.browser import Browser

READY = "document.documentElement.dataset.viewerState === 'ready'"
SETTLED = "['ready', 'error'].includes(document.documentElement.dataset.viewerState)"
LOADED = "document.querySelector('#progress.done') !== null"

DRAWN = """
(() => {
  const canvas = document.querySelector('#viewport canvas'), copy = document.createElement('canvas');
  copy.width = copy.height = 32;
  const context = copy.getContext('2d');
  context.drawImage(canvas, 0, 0, 32, 32);
  return new Set(context.getImageData(0, 0, 32, 32).data).size > 2;
})()
"""
"""True once a copy of the canvas holds more than one colour: without graphics hardware the browser hands out what was
drawn a moment after it was drawn."""

_CELLS = """
(() => {
  const canvas = document.querySelector('#viewport canvas');
  const aspect = %f || canvas.width / canvas.height;
  const width = Math.min(canvas.width, canvas.height * aspect), height = width / aspect;
  const copy = document.createElement('canvas');
  copy.width = Math.round(width); copy.height = Math.round(height);
  const context = copy.getContext('2d');
  context.drawImage(canvas, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height,
                    0, 0, copy.width, copy.height);
  const data = context.getImageData(0, 0, copy.width, copy.height).data;
  const n = %d, sums = new Array(3 * n * n).fill(0), counts = new Array(n * n).fill(0);
  for (let y = 0; y < copy.height; y++) for (let x = 0; x < copy.width; x++) {
    const cell = Math.floor(y * n / copy.height) * n + Math.floor(x * n / copy.width);
    counts[cell]++;
    for (let c = 0; c < 3; c++) sums[3 * cell + c] += data[4 * (y * copy.width + x) + c];
  }
  return sums.map((sum, at) => sum / Math.max(1, counts[Math.floor(at / 3)]));
})()
"""


def slice_is(number: int) -> str:
    """The expression that is true once slice `number` (from 1) is on the canvas."""
    return f"document.querySelector('#viewport').dataset.slice === '{number}'"


def viewport(browser: Browser, name: str) -> str:
    """A data attribute of the viewport element."""
    value = browser.eval(f"document.querySelector('#viewport').dataset.{name}")
    assert isinstance(value, str), f"the viewport has no data-{name}"
    return value


def text_of(browser: Browser, selector: str) -> str:
    return str(browser.eval(f"document.querySelector('{selector}').textContent"))


def centre(browser: Browser) -> tuple[float, float]:
    """The middle of the viewport in CSS pixels of the page."""
    x, y = browser.eval(
        "(() => { const b = document.querySelector('#viewport').getBoundingClientRect();"
        "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    return x, y


def picture(browser: Browser, *, aspect: float = 0, cells: int = 48) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The canvas as cells x cells mean colours (0-255).

    `aspect` is the image's width to height: given, only the part of the canvas that a fitted image fills is read.
    """
    return np.array(browser.eval(_CELLS % (aspect, cells)), dtype=np.float64).reshape(cells, cells, 3)
