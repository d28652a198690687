"""How long a scanner pauses within a study: learnt from each study it sends, robust against single odd ones.

For every finished study the longest pause between two of its instances is kept; the waiting time is a high
percentile of those with a margin, within bounds. Pauses beyond the upper bound are no pauses but second thoughts
(an image sent again the next day) and are not learnt from.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

KEPT_STUDIES: Final = 64
MAX_SCANNERS: Final = 256
_LEAST_STUDIES: Final = 5
_PERCENTILE: Final = 0.95
_MARGIN: Final = 1.5


class Pace:
    """Safe from any thread.

    Parameters
    ----------
    default_s : waited for scanners of which less than five studies are known.
    least_s, longest_s : bounds of what is learnt.
    """

    def __init__(self, *, default_s: float, least_s: float, longest_s: float) -> None:
        self._default_s, self._least_s, self._longest_s = default_s, least_s, longest_s
        self._lock = threading.Lock()
        self._gaps: OrderedDict[str, list[float]] = OrderedDict()  # the longest unused first
        self._unwritten: set[str] = set()

    def idle_s(self, calling_ae_title: str) -> float:
        """Seconds of silence after which a study of this scanner is taken to be over."""
        with self._lock:
            gaps = sorted(self._gaps.get(calling_ae_title, ()))
        if len(gaps) < _LEAST_STUDIES:
            return self._default_s
        high = gaps[min(len(gaps) - 1, int(len(gaps) * _PERCENTILE))]
        return min(self._longest_s, max(self._least_s, high * _MARGIN))

    def learn(self, calling_ae_title: str, longest_gap_s: float) -> None:
        """A study is over; this was its longest pause."""
        if longest_gap_s > self._longest_s:
            return
        with self._lock:
            gaps = [*self._gaps.pop(calling_ae_title, ()), round(longest_gap_s, 1)][-KEPT_STUDIES:]
            self._gaps[calling_ae_title] = gaps
            self._unwritten.add(calling_ae_title)
            while len(self._gaps) > MAX_SCANNERS:
                forgotten, _ = self._gaps.popitem(last=False)
                self._unwritten.discard(forgotten)

    def load(self, gaps: Mapping[str, Sequence[float]]) -> None:
        """What a former life learnt, by scanner."""
        with self._lock:
            self._gaps.update({scanner: list(kept)[-KEPT_STUDIES:] for scanner, kept in gaps.items()})

    def unwritten(self) -> dict[str, list[float]]:
        """What was learnt since the last call."""
        with self._lock:
            taken = {scanner: list(self._gaps[scanner]) for scanner in self._unwritten}
            self._unwritten.clear()
            return taken
