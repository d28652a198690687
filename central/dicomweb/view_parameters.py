"""How a picture is asked for: window, viewport and media type (PS3.18 section 8.3.5)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

from central.dicomweb.errors import BadRequestError

WindowFunction = Literal["linear", "linear-exact", "sigmoid"]
PictureType = Literal["image/jpeg", "image/png"]
MAX_VIEWPORT: Final = 8192
_FUNCTIONS: Final = ("linear", "linear-exact", "sigmoid")


@dataclass(frozen=True)
class Window:
    """What is shown: values from centre - width/2 (black) to centre + width/2 (white)."""

    centre: float
    width: float
    function: WindowFunction = "linear"


@dataclass(frozen=True)
class ViewParameters:
    """What a request asks of a picture. `viewport`: the columns and rows it must fit into."""

    media_type: PictureType = "image/jpeg"
    window: Window | None = None
    viewport: tuple[int, int] | None = None


def view_parameters(
    query: Mapping[str, str], media_type: str, viewport: tuple[int, int] | None = None
) -> ViewParameters:
    """Read ``window=<centre>,<width>[,<function>]`` and ``viewport=<columns>,<rows>``.

    `viewport` is taken when the request says none.

    Raises
    ------
    BadRequestError : a parameter is malformed or out of range.
    """
    return ViewParameters(
        cast("PictureType", media_type),
        _window(query["window"]) if "window" in query else None,
        _viewport(query["viewport"]) if "viewport" in query else viewport,
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


def _viewport(text: str) -> tuple[int, int]:
    try:
        columns, rows = (int(part) for part in text.split(","))
    except ValueError as error:
        raise BadRequestError(
            "viewport is <columns>,<rows>; parts of an image are not cut out here"
        ) from error
    if not (1 <= columns <= MAX_VIEWPORT and 1 <= rows <= MAX_VIEWPORT):
        raise BadRequestError(f"a viewport has 1 to {MAX_VIEWPORT} columns and rows")
    return columns, rows
