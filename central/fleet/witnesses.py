"""Boxes as witnesses of the audit record: which word each is given, and whether what it keeps still fits the record.

Always true: a word counts against central only if central's own key signed it, so a box that lies proves nothing; one
that counts and does not fit is logged at once, shown with the box, and found by ``dicomnet-central audit verify``.
Nothing here is durable but what the box said (central.fleet.heartbeats), which it says again at its next session.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from central.audit.errors import AuditUnavailableError
from contract.witness import WITNESS_INTERVAL_S, Witness

_BOXES: Final = 4096
_JUDGED_FOR_S: Final = 300.0
_log = logging.getLogger(__name__)


class Witnesses:
    """Safe to call from many threads.

    Parameters
    ----------
    newest : the newest checkpoint of the record, None before the first.
    contradicted : of words that boxes keep, those that the record does not fit any more.
    """

    def __init__(
        self,
        newest: Callable[[], str | None],
        contradicted: Callable[[Sequence[str]], list[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._newest = newest
        self._contradicted = contradicted
        self._clock = clock
        self._lock = threading.Lock()
        self._given_at_s: dict[str, float] = {}
        self._judged: dict[str, tuple[tuple[str, ...], float, bool]] = {}

    def due(self, gateway_id: str, known: Sequence[str]) -> Witness | None:
        """The word to give to a box that keeps `known`, if it is time for one."""
        now = self._clock()
        with self._lock:
            given_at_s = self._given_at_s.get(gateway_id)
            if given_at_s is not None and now - given_at_s < WITNESS_INTERVAL_S:
                return None
            if len(self._given_at_s) >= _BOXES:
                self._given_at_s.clear()
            self._given_at_s[gateway_id] = now
        try:
            word = self._newest()
        except AuditUnavailableError:
            _log.warning("no audit checkpoint for the boxes: the record cannot be read")
            return None
        return Witness(word=word) if word is not None and word not in known else None

    def contradicts(self, gateway_id: str, words: Sequence[str]) -> bool:
        """Whether a box keeps a word of central's that the audit record does not fit."""
        now = self._clock()
        with self._lock:
            judged = self._judged.get(gateway_id)
        if judged is not None and judged[0] == tuple(words) and now - judged[1] < _JUDGED_FOR_S:
            return judged[2]
        try:
            found = bool(self._contradicted(words))
        except AuditUnavailableError:
            return False  # nobody can say now; it is asked again
        if found:
            _log.critical("audit record contradicted by a box gateway_id=%s: run audit verify", gateway_id)
        with self._lock:
            if len(self._judged) >= _BOXES:
                self._judged.clear()
            self._judged[gateway_id] = (tuple(words), now, found)
        return found
