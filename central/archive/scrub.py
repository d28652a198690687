"""Reads every object again and again, slowly, and compares it with its name and with the index.

Always true: of all processes on one index one scrubs at a time, the one that owns the row in `scrub_state`; where it
stands is written every half minute and when it stops, so that a crash repeats what was read since. What is found, here
or by somebody's look, is on the audit record once. Every process removes what is doomed (`central.archive.removal`).
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import peewee

from central.archive.comparison import FIRST, Comparison
from central.archive.errors import ArchiveError
from central.archive.faults import Fault, Faults
from central.archive.removal import Removal
from central.archive.tables import ScrubState
from central.audit.errors import AuditUnavailableError
from central.database import Database, put

_LOOK_EVERY_S: Final = 60.0
_RETRY_S: Final = 600.0
_SAVE_EVERY_S: Final = 30.0
_OWNED_S: Final = 300.0
_LEAST_WAIT_S: Final = 0.05
_TOLD_AT_ONCE: Final = 100
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScrubReport:
    """`objects` and `bytes` of the pass that runs, or of the last one. `finished_at_utc`: when the last one ended."""

    running: bool
    objects: int
    bytes: int
    finished_at_utc: datetime | None


class _StoppedError(Exception):
    """`Scrub.stop` was called, or another process has taken over."""


class Scrub:
    """The scrubbing thread: `start`, then `stop`.

    Parameters
    ----------
    comparison : makes what compares, given what it pays with.
    compare_renditions : called at the start, as a crash may have left some, and after each pass. They need no more:
        each is compared when it is read.
    interval : from the end of a pass to the start of the next.
    tell : puts one fault on record; called once for each, by one process.
    """

    def __init__(
        self,
        db: Database,
        faults: Faults,
        removal: Removal,
        comparison: Callable[[Callable[[int], None]], Comparison],
        compare_renditions: Callable[[], None],
        *,
        bytes_per_s: int,
        interval: timedelta,
        tell: Callable[[Fault], None],
    ) -> None:
        self._db = db
        self._faults = faults
        self._removal = removal
        self._comparison = comparison(self._pay)
        self._compare_renditions = compare_renditions
        self._renditions_compared = False
        self._bytes_per_s = bytes_per_s
        self._interval = interval
        self._tell = tell
        self._me = secrets.token_hex(8)
        self._stopping = threading.Event()
        self._owed_s = 0.0
        self._saved_at_s = 0.0
        self._state: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, name="archive-scrub", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """To be called before the database is closed. Waits for the piece that is being read."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            wait_s = _LOOK_EVERY_S
            try:
                self._go_on()
            except _StoppedError:
                pass
            except (ArchiveError, OSError, peewee.PeeweeException, AuditUnavailableError) as error:
                _log.warning("event=scrub-interrupted error=%s again_in_s=%.0f", error, _RETRY_S)
                wait_s = _RETRY_S
            self._stopping.wait(wait_s)

    def _go_on(self) -> None:
        """Remove what is due or was left, tell what was found, and bring a pass that is due to its end."""
        self._removal.run()
        if not self._renditions_compared:
            self._compare_renditions()
            self._renditions_compared = True
        state = _read(self._db)
        untold = self._faults.untold(1)
        if not untold and not self._is_due(state):
            return
        if not self._own():
            return
        try:
            self._tell_all()
            if self._is_due(self._state):
                self._pass()
        finally:
            self._save(owned_until_s=0.0)

    def _pass(self) -> None:
        if not self._state["running"]:
            self._state |= {"running": True, "position": FIRST, "objects": 0, "bytes": 0}
            self._save()
        while True:
            step = self._comparison.step(self._state["position"])
            self._state["objects"] += step.objects
            self._state["bytes"] += step.bytes
            if step.found:
                self._tell_all()
            if step.position is None:
                break
            self._state["position"] = step.position
            self._check_in()
        self._renditions_compared = False
        self._state |= {"running": False, "position": FIRST, "finished_at_s": time.time()}
        _log.info(
            "event=scrubbed objects=%d bytes=%d faults=%d",
            self._state["objects"], self._state["bytes"], self._faults.count(),
        )  # fmt: skip

    def _is_due(self, state: Mapping[str, Any]) -> bool:
        since_s = time.time() - state["finished_at_s"]
        # A pass that ended in the future was dated by a clock that was wrong: it says nothing.
        return bool(self._bytes_per_s) and (
            state["running"] or not 0 <= since_s < self._interval.total_seconds()
        )

    def _tell_all(self) -> None:
        while faults := self._faults.untold(_TOLD_AT_ONCE):
            for fault in faults:
                _log.error("event=object-fault %s", fault.sentence())
                self._tell(fault)
            self._faults.told(faults)
            if self._stopping.is_set():
                raise _StoppedError

    def _own(self) -> bool:
        """Take the row, unless another process has it."""
        with self._db.writing():
            state = _read(self._db)
            if state["owner"] not in ("", self._me) and state["owned_until_s"] > time.time():
                return False
            self._state = state
            self._write(time.time() + _OWNED_S)
        return True

    def _save(self, owned_until_s: float | None = None) -> None:
        with self._db.writing():
            if _read(self._db)["owner"] != self._me:
                raise _StoppedError  # it took too long, and somebody else goes on from where this one stood
            self._write(time.time() + _OWNED_S if owned_until_s is None else owned_until_s)

    def _write(self, owned_until_s: float) -> None:
        self._state |= {"owner": self._me, "owned_until_s": owned_until_s}
        put(self._db, ScrubState, self._state)
        self._saved_at_s = time.monotonic()

    def _pay(self, size_bytes: int) -> None:
        """Wait for as long as reading so much may take."""
        self._owed_s += size_bytes / self._bytes_per_s
        while self._owed_s >= _LEAST_WAIT_S:
            waited_s = min(self._owed_s, _SAVE_EVERY_S)
            self._owed_s -= waited_s
            self._stopping.wait(waited_s)
            self._check_in()
        self._check_in()

    def _check_in(self) -> None:
        if self._stopping.is_set():
            raise _StoppedError
        if time.monotonic() - self._saved_at_s >= _SAVE_EVERY_S:
            self._save()


def scrub_report(db: Database) -> ScrubReport:
    """Where the scrub stands, whichever process does it."""
    state = _read(db)
    finished_at_s = state["finished_at_s"]
    return ScrubReport(
        bool(state["running"]),
        state["objects"],
        state["bytes"],
        datetime.fromtimestamp(finished_at_s, UTC) if finished_at_s else None,
    )


def _read(db: Database) -> dict[str, Any]:
    row = next(iter(ScrubState.select().where(ScrubState.id == 1).dicts().execute(db)), None)
    return row or {
        "id": 1,
        "running": False,
        "position": FIRST,
        "objects": 0,
        "bytes": 0,
        "finished_at_s": 0.0,
        "owner": "",
        "owned_until_s": 0.0,
    }
