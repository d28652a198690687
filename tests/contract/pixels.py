"""Made-up pixels that a scanner could have made: slopes, noise, and a round field of view with a cliff around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contract.pixel_rows import PixelLayout

CT = PixelLayout(columns=128, samples=1, sample_bytes=2, signed=True)


def ct_slice(layout: PixelLayout = CT, rows: int = 128, seed: int = 1) -> bytes:
    """Air at -1000, a body, noise, and -2000 outside the circle, as one manufacturer writes it."""
    across, down = np.meshgrid(np.linspace(-1, 1, layout.columns), np.linspace(-1, 1, rows))
    noise = np.random.default_rng(seed).normal(0, 8, (rows, layout.columns))
    picture = np.where(across**2 + (1.4 * down) ** 2 < 0.5, 40 + 30 * across, -1000) + noise
    picture[across**2 + down**2 > 0.98] = -2000
    return _fitted(picture, layout)


def _fitted(picture: NDArray[np.float64], layout: PixelLayout) -> bytes:
    if not layout.signed:
        picture = picture + 2000
    if layout.sample_bytes == 1:
        picture = picture / 16
    samples = np.repeat(picture[:, :, None], layout.samples, axis=2) + np.arange(layout.samples)
    kind = f"<{'i' if layout.signed else 'u'}{layout.sample_bytes}"
    return samples.astype(np.int64).astype(kind).tobytes()
