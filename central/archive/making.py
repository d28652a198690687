"""What many want at the same time is made once; what cannot be made is not tried again at each request.

Always true: nobody gets what was made for another key. All of this is memory: it ends with the process.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Generic, TypeVar

Made = TypeVar("Made")
NOT_AGAIN_S: Final = 60.0
"""So long a refusal holds: a hostile image costs a worker once a minute, one that is drawn late is drawn then."""

_MOST_REFUSALS: Final = 4096


class Making(Generic[Made]):
    """Safe to call from many threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way: dict[str, Future[Made]] = {}
        self._refused: OrderedDict[str, tuple[float, Exception]] = OrderedDict()

    def once(self, key: str, make: Callable[[], Made], refusal: tuple[type[Exception], ...] = ()) -> Made:
        """What `make` returns or raises, here or for whoever asked first.

        Parameters
        ----------
        refusal : the errors that say that it cannot be made, and not only not now.
        """
        with self._lock:
            self._remember_no_longer()
            if (refused := self._refused.get(key)) is not None:
                raise refused[1]
            others = self._under_way.get(key)
            mine = self._under_way[key] = others or Future()
        if others is not None:
            return others.result()  # whoever makes it has limits of time of its own
        try:
            made = make()
        except BaseException as error:
            self._end(key, error if isinstance(error, refusal) else None)
            mine.set_exception(error)
            raise
        self._end(key)
        mine.set_result(made)
        return made

    def _end(self, key: str, refused: Exception | None = None) -> None:
        with self._lock:
            del self._under_way[key]
            if refused is not None:
                self._refused[key] = (self._clock() + NOT_AGAIN_S, refused)

    def _remember_no_longer(self) -> None:
        """Refusals are in the order in which they end."""
        now = self._clock()
        while self._refused:
            key, (until, _) = next(iter(self._refused.items()))
            if until > now and len(self._refused) <= _MOST_REFUSALS:
                return
            del self._refused[key]
