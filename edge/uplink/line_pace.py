"""How much goes into one request: what the line carries in about a second, so that a cut costs little.

Always true: between 64 KiB, below which a request's own cost outweighs it, and one chunk of the contract. Learnt from
what got through, halved when the line breaks; a restart learns anew. A long round trip asks for longer requests, since
each ends with one: four round trips at least.
"""

from __future__ import annotations

import threading
from typing import Final

from contract.transfer import CHUNK_BYTES

LEAST_BYTES: Final = 64 << 10
_BEGIN_BYTES: Final = 256 << 10
_ONE_REQUEST_S: Final = 1.0
_ROUND_TRIPS: Final = 4.0
_NEWEST_WEIGHS: Final = 0.4
_SLOW_BYTES: Final = 1 << 20
_LEARNT_AFTER: Final = 4


class LinePace:
    """Thread-safe; one for all connections of a line."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = float(_BEGIN_BYTES)
        self._round_trip_s = 0.0
        self._learnt = 0

    @property
    def is_slow(self) -> bool:
        """Whether a second carries less than a mebibyte on each connection; False until that is known."""
        return self._learnt >= _LEARNT_AFTER and self._bytes < _SLOW_BYTES

    def chunk_bytes(self) -> int:
        """The most that one request should carry now."""
        return int(self._bytes)

    def pack_bytes(self, worker: int, workers: int) -> int:
        """The most that a pack should hold now.

        Until the line is known they differ from worker to worker, or all would wait for their answers at once and leave
        the line idle meanwhile.
        """
        size = self.chunk_bytes()
        return size if self._learnt else size * (worker + 1) // workers

    def note_round_trip(self, took_s: float) -> None:
        """Something went to central and back without a body in `took_s`."""
        with self._lock:
            self._round_trip_s = took_s

    def note_sent(self, size_bytes: int, took_s: float) -> None:
        """A request that carried `size_bytes` was answered after `took_s`. Small ones tell nothing of the line."""
        if size_bytes < LEAST_BYTES // 2:
            return
        with self._lock:
            # Its answer's way is no bytes' time; a request is never thought to be mostly that.
            sending_s = max(took_s - self._round_trip_s, took_s / 4, 1e-3)
            wanted = size_bytes / sending_s * max(_ONE_REQUEST_S, _ROUND_TRIPS * self._round_trip_s)
            # The first one tells more than the guess before it.
            weight = _NEWEST_WEIGHS if self._learnt else 1.0
            self._learnt += 1
            self._set(self._bytes + (wanted - self._bytes) * weight)

    def note_cut(self) -> None:
        """The line broke in the middle."""
        with self._lock:
            self._set(self._bytes / 2)

    def _set(self, size_bytes: float) -> None:
        self._bytes = min(max(size_bytes, LEAST_BYTES), CHUNK_BYTES)
