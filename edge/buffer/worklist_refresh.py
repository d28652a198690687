"""Keeps the worklist fresh: asks its source at intervals, and knows how old the answer is.

The source is a function, so that this room needs to know neither DICOM nor HTTP. Always true: a failed refresh
changes nothing of what modalities are answered, and is shown with its reason until one succeeds.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edge.buffer.errors import SpoolError, TransientSpoolError
from edge.buffer.worklist_cache import WorklistCache, WorklistItem

_JITTER: Final = 0.1  # boxes that were switched on together shall not go on asking together
_RETRY_S: Final = 15.0
_log = logging.getLogger(__name__)


class WorklistSourceError(TransientSpoolError):
    """The source could not be asked, or did not answer as it should. The text is for a technician."""


@dataclass(frozen=True)
class Fetched:
    """A source's whole worklist.

    Attributes
    ----------
    version : names this state for the next question; "" if the source has no such.
    remark : what a technician should know of it; empty if nothing.
    """

    items: Sequence[WorklistItem]
    version: str = ""
    remark: str = ""


Fetch = Callable[[str], Fetched | None]
"""Asks the source; takes the version that is known here and gives None if that is still the newest.

Raises
------
WorklistSourceError
"""


@dataclass(frozen=True)
class WorklistState:
    """For the technician. `last_error` is empty when the last refresh brought everything."""

    source: str
    items: int
    refreshed_at_utc: datetime | None
    last_error: str


class WorklistRefresher:
    """One thread, from `start` to `stop`.

    Parameters
    ----------
    interval_s : between two refreshes; after a failure at most 15 s pass.
    """

    def __init__(self, cache: WorklistCache, fetch: Fetch, *, interval_s: float) -> None:
        self._cache = cache
        self._fetch = fetch
        self._interval_s = interval_s
        self._wake = threading.Condition()
        self._due = True
        self._stopping = False
        self._last_error = self._remark = ""
        self._thread = threading.Thread(target=self._run, name="worklist", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Ask no more; a question under way gets `timeout_s` to come back."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join(timeout_s)

    def soon(self) -> None:
        """Something suggests that there is news, or that the line is back."""
        with self._wake:
            self._due = True
            self._wake.notify_all()

    def state(self) -> WorklistState:
        snapshot = self._cache.snapshot()
        return WorklistState(
            snapshot.source, len(snapshot.items), snapshot.refreshed_at_utc, self._last_error
        )

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._due and not self._stopping:
                    self._wake.wait(self._pause_s())
                if self._stopping:
                    return
                self._due = False
            self._refresh()

    def _pause_s(self) -> float:
        base = min(self._interval_s, _RETRY_S) if self._last_error else self._interval_s
        return base * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  # spreads load, keeps no secret

    def _refresh(self) -> None:
        snapshot = self._cache.snapshot()
        known = snapshot.version if snapshot.refreshed_at_utc else ""
        try:
            fetched = self._fetch(known)
            if fetched is None:
                self._cache.confirm()
            else:
                self._cache.replace(fetched.items, version=fetched.version)
                self._remark = fetched.remark
        except (SpoolError, OSError) as error:
            self._say(str(error) if isinstance(error, SpoolError) else f"the disk fails: {error.strerror}")
        except Exception as error:
            # A peer's answer that nobody thought of must not end the thread; its text may quote the answer.
            _log.error("the worklist's refresh failed unexpectedly", extra={"reason": type(error).__name__})
            self._say("a fault in the box's program; its log says more")
        else:
            self._say(self._remark)

    def _say(self, error: str) -> None:
        if error != self._last_error:  # not again at every attempt
            if error:
                _log.warning("the worklist is not as it should be", extra={"reason": error})
            else:
                _log.info("the worklist is fresh again")
        self._last_error = error
