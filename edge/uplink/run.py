"""Which run of the program this is, so that central can order sessions without trusting anybody's clock.

The boot count is durable and goes up by one at each start; the run's name is random. A crash between counting
and speaking only leaves a number out. A count that is lost begins at 1 again: central then orders by clock
until the run is newer, and nothing else depends on it.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from pathlib import Path

from edge.buffer.durable_file import replace_file
from edge.uplink.state_file import read_state

_log = logging.getLogger(__name__)
_FILE = "boot"


@dataclass(frozen=True)
class Run:
    """One start of the program."""

    boot: int
    name: str

    @classmethod
    def begin(cls, directory: Path) -> Run:
        """Count this start in `directory`. A disk that cannot take the count costs the count, not the start."""
        path = directory / _FILE
        kept = read_state(path)
        boot = 1 + (int(kept) if kept is not None and kept.isdigit() and len(kept) < 16 else 0)
        try:
            replace_file(path, b"%d" % boot)
        except OSError as error:
            _log.warning("boot not counted", extra={"detail": error.strerror})
        return cls(boot, secrets.token_hex(8))
