"""One event a line on standard error: time, severity, what happened, then its fields as key=value.

Fields come from logging's `extra`. Nothing here filters: that no patient data gets into a log is the duty of
who writes the event, and of the test that sends a canary through the whole box.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from typing import Final

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """``2026-03-01T10:00:00.123Z info edge.uplink.dispatch freed object_id=… attempts=1``."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        parts = [
            f"{moment}.{int(record.msecs):03d}Z",
            record.levelname.lower(),
            record.name,
            _one_line(record.getMessage()),
        ]
        parts += [f"{key}={_value(value)}" for key, value in vars(record).items() if key not in _OWN]
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def log_to_stderr(level: str) -> None:
    """Send every logger's events of at least `level` to standard error, once a process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # These narrate each request and each connection; the events of this program say what matters.
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # These quote what a peer sent, at the length the peer chose.
    for quoting in ("pydicom", "pynetdicom"):
        logging.getLogger(quoting).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="pydicom")


def _value(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and not any(char in text for char in ' "=')
    return text if plain and text else json.dumps(text)


def _one_line(text: str) -> str:
    """A peer's text inside a message must not be able to forge a second line."""
    return "".join(char if char.isprintable() else " " for char in text)
