"""What time it is, on a box whose own clock may be anything.

    (nothing known) ──the system's clock, but never before the floor──▶ learn ──▶ central's time, carried on by the
                                                                                   monotonic clock

Central's signed word counts (contract.signed_time), the system's clock only until it is heard. The *floor* is the
latest time that was believed, kept in a file: over a restart without a battery-backed clock time goes on from
there and never jumps back. The system's clock does not move the floor, so that a clock once set to 2038 does not
stay. A crash loses at most an hour of the floor. Nothing here sets the system's clock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from edge.buffer.durable_file import replace_file
from edge.uplink.errors import UplinkPermanentError

BACKWARDS_TOLERATED: Final = timedelta(hours=1)
"""How far behind the floor central's word may be; its own clock is put right now and then."""
_KEEP_EVERY_S: Final = 3600.0
_log = logging.getLogger(__name__)


class ClockError(UplinkPermanentError):
    """Central's time cannot be believed; the text says what to do."""


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    floor_utc: AwareDatetime


class BoxClock:
    """Thread-safe.

    Parameters
    ----------
    path : file of the floor; None keeps nothing.
    system : seconds since the epoch, as the system has them.
    monotonic : seconds that only go on.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        system: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._system = system
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._floor = _read_floor(path)
        self._learned: tuple[datetime, float] | None = None  # central's time, and when that was
        self._kept_at_s = float("-inf")

    @property
    def is_learned(self) -> bool:
        """Whether central has said the time in this process's life."""
        return self._learned is not None

    def now(self) -> datetime:
        """The best known time, in UTC; never before what was believed earlier."""
        with self._lock:
            return self._now()

    def offset_s(self) -> float | None:
        """How many seconds this machine's clock is ahead of central's; None until central has said."""
        with self._lock:
            if self._learned is None:
                return None
            return self._system() - self._now().timestamp()

    def learn(self, at_utc: datetime) -> None:
        """Go by central's verified word from now on.

        Raises
        ------
        ClockError : it lies before what central said earlier.
        """
        with self._lock:
            if self._floor is not None and at_utc < self._floor - BACKWARDS_TOLERATED:
                raise ClockError(
                    f"clock: central says {at_utc:%Y-%m-%d %H:%M} UTC and said {self._floor:%Y-%m-%d %H:%M} before. "
                    "Put central's clock right; if it was wrong earlier, enrol this box again with a new pairing "
                    "string."
                )
            self._learned = (at_utc, self._monotonic())
            self._keep()

    def begin_anew(self, at_utc: datetime) -> None:
        """Enrolled anew by a person: forget the floor and go by this central's verified word."""
        with self._lock:
            self._floor = None
            self._learned = (at_utc, self._monotonic())
            self._keep()

    def keep(self) -> None:
        """Move the floor up to now, durably. Once an hour is enough, and when the box stops."""
        with self._lock:
            if self._learned is not None:
                self._keep()

    def _now(self) -> datetime:
        if self._learned is not None:
            said, when = self._learned
            now = said + timedelta(seconds=self._monotonic() - when)
            if self._monotonic() - self._kept_at_s > _KEEP_EVERY_S:
                self._keep()
        else:
            now = _from_seconds(self._system())
        return now if self._floor is None else max(now, self._floor)

    def _keep(self) -> None:
        assert self._learned is not None, "only central's word moves the floor"
        self._kept_at_s = self._monotonic()
        said, when = self._learned
        reached = said + timedelta(seconds=self._kept_at_s - when)
        self._floor = reached if self._floor is None else max(self._floor, reached)
        if self._path is None:
            return
        try:
            replace_file(self._path, _Kept(floor_utc=self._floor).model_dump_json().encode())
        except OSError as error:
            # The time is right for this life; the next one begins at an older floor.
            _log.warning("time floor not kept", extra={"path": str(self._path), "detail": error})


def _read_floor(path: Path | None) -> datetime | None:
    if path is None:
        return None
    try:
        return _Kept.model_validate_json(path.read_bytes()).floor_utc
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _log.warning("time floor unreadable: going by the system's clock", extra={"detail": error})
        return None


def _from_seconds(seconds: float) -> datetime:
    """A system clock may say anything; what no date can hold becomes the epoch."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
