"""Reading the small files that a box keeps about itself; edge.buffer.durable_file writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

MAX_BYTES: Final = 1 << 20
"""No file of this kind is larger; one that is was not written here and is not read into memory."""


def read_state(path: Path) -> bytes | None:
    """The content of `path`; None if there is none, or none of a sensible size."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError:
        return None
    return content if len(content) <= MAX_BYTES else None
