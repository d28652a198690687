"""One renderer for all houses of a test process: its worker takes a second to load what it draws with."""

from __future__ import annotations

import functools

from central.dicomweb.render import Renderer


@functools.cache
def shared_renderer() -> Renderer:
    """Its worker is started when it is first needed, and ends with this process."""
    return Renderer(1)
