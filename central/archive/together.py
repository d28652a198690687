"""One transaction for all who come while the last one is being synced.

Why it exists: a commit waits for the disk, whatever is in it. Who comes meanwhile shares the next one, so that many
senders at once cost hardly more syncs than one.

What is always true: when `write` has returned, the caller's items were in a transaction that ended well, or their
place holds what failed. A fault of the database or its disk fails all that shared the transaction, and nobody else; for
any other fault each item is written once more by itself, so that one bad item harms no other.

What a crash leaves: of each transaction all or nothing, and nobody was told of what is not there.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import peewee

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(eq=False)
class _Waiting(Generic[ItemT, ResultT]):
    item: ItemT
    result: ResultT | Exception | None = None  # None: it was not written yet


class Together(Generic[ItemT, ResultT]):
    """Gathers what many threads write. `write_all` writes items in one transaction and gives their results, none None.

    Parameters
    ----------
    at_most : items in one transaction.
    """

    def __init__(self, write_all: Callable[[Sequence[ItemT]], list[ResultT]], at_most: int) -> None:
        self._write_all = write_all
        self._at_most = at_most
        self._turn = threading.Lock()  # who has it writes for everybody who waits
        self._queue_lock = threading.Lock()
        self._queue: deque[_Waiting[ItemT, ResultT]] = deque()

    def write(self, items: Sequence[ItemT]) -> list[ResultT | Exception]:
        """Write `items`, perhaps with those of others; for each its result, or why it was not written."""
        mine = [_Waiting[ItemT, ResultT](item) for item in items]
        with self._queue_lock:
            self._queue.extend(mine)
        for one in mine:
            with self._turn:
                while one.result is None:
                    self._write_waiting()
        return [cast("ResultT | Exception", one.result) for one in mine]

    def _write_waiting(self) -> None:
        with self._queue_lock:
            batch = [self._queue.popleft() for _ in range(min(self._at_most, len(self._queue)))]
        try:
            self._write(batch)
        finally:  # whatever ended it otherwise: nobody waits for ever, and nobody believes that it was written
            for one in batch:
                if one.result is None:
                    one.result = RuntimeError("the writing did not end")

    def _write(self, batch: Sequence[_Waiting[ItemT, ResultT]]) -> None:
        try:
            results = self._write_all([one.item for one in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, peewee.OperationalError):
                for one in batch:
                    self._write([one])
                return
            for one in batch:
                one.result = error
        else:
            for one, result in zip(batch, results, strict=True):
                one.result = result
