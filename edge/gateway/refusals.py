"""Tells the technician why somebody was refused, and cannot be made to fill the log or the database by refusing often.

Each address may have `PER_ADDRESS` refusals noted in a window of `WINDOW_S`; what is beyond is counted, and the count
stands in the first event of the address's next window. Memory is bounded: `MAX_ADDRESSES` are told apart, and together
the rest have one address's share. A crash loses counts only.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_LOG = logging.getLogger(__name__)

WINDOW_S: Final = 60.0
PER_ADDRESS: Final = 10
"""A scanner that retries every few seconds stays visible; a flood costs ten lines a minute."""
MAX_ADDRESSES: Final = 256
_THE_REST: Final = "several addresses"

NoteRejection = Callable[[str, str, str], None]


@dataclass
class _Window:
    began_s: float
    noted: int = 0
    left_out: int = 0


class Refusals:
    """Safe from any thread.

    Parameters
    ----------
    note_rejection : takes calling AE title, address and reason for the list of scanners.
    """

    def __init__(self, note_rejection: NoteRejection, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._note_rejection = note_rejection
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def note(self, calling_ae_title: str, peer_address: str, reason: str) -> None:
        """Log one refusal and put it in the list, unless this address has used up its share."""
        left_out = self._share(peer_address)
        if left_out is None:
            return
        self._note_rejection(calling_ae_title, peer_address, reason)
        fields = {"calling_ae_title": calling_ae_title, "peer_address": peer_address, "reason": reason}
        _LOG.warning("refused", extra=fields | ({"more_not_shown": left_out} if left_out else {}))

    def _share(self, peer_address: str) -> int | None:
        """Refusals left out since the last one that was noted, or None where this one is left out, too."""
        now_s = self._clock()
        with self._lock:
            window = self._window(peer_address, now_s)
            if now_s - window.began_s >= WINDOW_S:
                window.began_s, window.noted = now_s, 0
            if window.noted >= PER_ADDRESS:
                window.left_out += 1
                return None
            window.noted += 1
            left_out, window.left_out = window.left_out, 0
            return left_out

    def _window(self, peer_address: str, now_s: float) -> _Window:
        found = self._windows.get(peer_address)
        if found is None:
            while self._windows and len(self._windows) >= MAX_ADDRESSES:
                oldest, window = next(iter(self._windows.items()))
                if now_s - window.began_s < WINDOW_S:
                    return self._windows.setdefault(_THE_REST, _Window(now_s))
                del self._windows[oldest]
            found = self._windows[peer_address] = _Window(now_s)
        self._windows.move_to_end(peer_address)
        return found
