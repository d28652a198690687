"""The box's witness of central's audit record: the checkpoints it was given, as they were (contract.witness).

Always true: a word is on the disk before the box shows it; the newest `MAX_WORDS` are kept, and none is taken sooner
than half of `WITNESS_INTERVAL_S` after the one before it, so that washing them all away takes half a day. A crash
leaves the old words or the new ones. A disk that cannot take a word costs that word.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from contract.witness import MAX_WORDS, WITNESS_INTERVAL_S, Witness, Witnessed
from edge.buffer.durable_file import replace_file
from edge.uplink.state_file import read_state

_FILE: Final = "audit-witness.json"
_log = logging.getLogger(__name__)


class WitnessBook:
    """Thread-safe. A file that cannot be read is begun anew."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = directory / _FILE
        self._clock = clock
        self._lock = threading.Lock()
        self._taken_at_s: float | None = None
        self._witnessed = _read(self._path)

    def witnessed(self) -> Witnessed:
        """What the box shows."""
        return self._witnessed

    def take(self, witness: Witness) -> bool:
        """Keep a word; False when it is known, or comes too soon.

        Raises
        ------
        OSError : it could not be kept; the words before it stand.
        """
        with self._lock:
            now = self._clock()
            soon = self._taken_at_s is not None and now - self._taken_at_s < WITNESS_INTERVAL_S / 2
            if soon or witness.word in self._witnessed.words:
                return False
            words = Witnessed(words=(*self._witnessed.words, witness.word)[-MAX_WORDS:])
            replace_file(self._path, words.model_dump_json().encode())
            self._witnessed, self._taken_at_s = words, now
            return True


def _read(path: Path) -> Witnessed:
    content = read_state(path)
    if content is None:
        return Witnessed()
    try:
        return Witnessed.model_validate_json(content)
    except ValidationError:
        _log.warning("audit witness begun anew: its file was damaged")
        return Witnessed()
