"""Waiting for what a box in this process says of itself."""

from __future__ import annotations

import threading
from collections.abc import Callable

from contract.control import BoxStatus
from edge.app import Box
from edge.status_text import status_text


def wait(box: Box, true: Callable[[BoxStatus], bool]) -> BoxStatus:
    """The first status for which it is true."""
    for _ in range(600):
        status = box.operations.status()
        if true(status):
            return status
        threading.Event().wait(0.05)
    raise AssertionError(f"it never came: {status_text(box.operations.status())}")
