"""Free TCP ports for programs under test.

The kernel hands out ephemeral ports to everybody at once, so a block is taken outside their range, and each
worker of a parallel run looks in a range of its own. What was given once is not given again while others are left:
whoever got it may not listen yet.
"""

from __future__ import annotations

import os
import random
import socket

_FIRST, _LAST, _WORKERS = 15_000, 31_000, 16
_TRIES = 200
_given: set[int] = set()


def free_base_port(count: int = 6) -> int:
    """The first of `count` neighbouring ports on loopback that nobody listens on."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
    share = (_LAST - _FIRST) // _WORKERS
    first = _FIRST + worker * share
    for attempt in range(2 * _TRIES):
        if attempt == _TRIES:
            _given.clear()
        base = random.randrange(first, first + share - count)
        block = range(base, base + count)
        if _given.isdisjoint(block) and all(map(_is_free, block)):
            _given.update(block)
            return base
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
