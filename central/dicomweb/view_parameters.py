"""How a picture is asked for: window, viewport, part of the image, quality and media type (PS3.18 section 8.3.5)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

from central.dicomweb.errors import BadRequestError

WindowFunction = Literal["linear", "linear-exact", "sigmoid"]
PictureType = Literal["image/jpeg", "image/png"]
MAX_VIEWPORT: Final = 8192
JPEG_QUALITY: Final = 90
_VIEWPORT: Final = "viewport is <columns>,<rows>[,<left>,<top>,<width>,<height>], the latter of the image"
_FUNCTIONS: Final = ("linear", "linear-exact", "sigmoid")


@dataclass(frozen=True)
class Window:
    """What is shown: values from centre - width/2 (black) to centre + width/2 (white)."""

    centre: float
    width: float
    function: WindowFunction = "linear"


@dataclass(frozen=True)
class Region:
    """The part of an image that is shown, in its pixels, or in shares of its columns and rows where `is_share`.

    A negative width or height is mirrored; None: up to the edge.
    """

    left: float = 0.0
    top: float = 0.0
    width: float | None = None
    height: float | None = None
    is_share: bool = False


@dataclass(frozen=True)
class ViewParameters:
    """What a request asks of a picture. `viewport`: the columns and rows it must fit into; `quality`: 1 to 100."""

    media_type: PictureType = "image/jpeg"
    window: Window | None = None
    viewport: tuple[int, int] | None = None
    region: Region | None = None
    quality: int = JPEG_QUALITY


def view_parameters(
    query: Mapping[str, str], media_type: str, viewport: tuple[int, int] | None = None
) -> ViewParameters:
    """Read ``window=<centre>,<width>[,<function>]``, ``viewport=<columns>,<rows>[,<left>,<top>,<width>,<height>]``,
    ``quality=<1 to 100>``, and ``region=<left>,<top>,<right>,<bottom>`` in shares of the image.

    `viewport` is taken when the request says none.

    Raises
    ------
    BadRequestError : a parameter is malformed or out of range.
    """
    region = _shares(query["region"]) if "region" in query else None
    if "viewport" in query:
        size, *of_image = _viewport_parts(query["viewport"])
        viewport, region = _viewport(*size), _pixels(*of_image[0]) if of_image else region
    return ViewParameters(
        cast("PictureType", media_type),
        _window(query["window"]) if "window" in query else None,
        viewport,
        region,
        _quality(query["quality"]) if "quality" in query else JPEG_QUALITY,
    )


def _window(text: str) -> Window:
    parts = text.split(",")
    function = parts[2].lower() if len(parts) == 3 else "linear"
    try:
        centre, width = float(parts[0]), float(parts[1])
    except (ValueError, IndexError) as error:
        raise BadRequestError("window is <centre>,<width>[,linear|linear-exact|sigmoid]") from error
    if len(parts) > 3 or function not in _FUNCTIONS or not math.isfinite(centre) or not 0 < width < math.inf:
        raise BadRequestError(
            "window is <centre>,<width>[,linear|linear-exact|sigmoid], with a width above 0"
        )
    return Window(centre, width, cast("WindowFunction", function))


def _viewport_parts(text: str) -> list[list[str]]:
    parts = text.split(",")
    if len(parts) not in (2, 6):
        raise BadRequestError(_VIEWPORT)
    return [parts[:2], parts[2:]] if len(parts) == 6 else [parts]


def _viewport(columns: str, rows: str) -> tuple[int, int]:
    try:
        size = int(columns), int(rows)
    except ValueError as error:
        raise BadRequestError(_VIEWPORT) from error
    if not all(1 <= side <= MAX_VIEWPORT for side in size):
        raise BadRequestError(f"a viewport has 1 to {MAX_VIEWPORT} columns and rows")
    return size


def _pixels(left: str, top: str, width: str, height: str) -> Region:
    """What is left out is the image's own edge."""
    try:
        region = Region(
            float(left or 0),
            float(top or 0),
            float(width) if width else None,
            float(height) if height else None,
        )
    except ValueError as error:
        raise BadRequestError(_VIEWPORT) from error
    begins, sides = (
        (region.left, region.top),
        [side for side in (region.width, region.height) if side is not None],
    )
    if not all(map(math.isfinite, (*begins, *sides))) or min(begins) < 0 or 0 in sides:
        raise BadRequestError(_VIEWPORT)
    return region


def _shares(text: str) -> Region:
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError as error:
        raise BadRequestError("region is <left>,<top>,<right>,<bottom>, from 0.0 to 1.0") from error
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise BadRequestError("region is <left>,<top>,<right>,<bottom>, from 0.0 to 1.0")
    return Region(left, top, right - left, bottom - top, is_share=True)


def _quality(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 3 or not 1 <= int(text) <= 100:
        raise BadRequestError("a quality is a whole number from 1 to 100")
    return int(text)
