"""The scanners beside this box, and how each is: seen, answering C-ECHO, silent against its own week.

    heartbeat/patterns.json     each scanner's week (edge.uplink.weekly_pattern), written once a day and at the end

C-ECHO goes to configured scanners only, one at a time, every `echo_interval_s`; one that has never answered is
asked once an hour, because many scanners do not, and each try is a line in their logs. Always true: no more than
one C-ECHO is under way; an hour in which the box was not on from beginning to end teaches nothing. A crash loses
at most a day's learning.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from contract.heartbeat import Echo, Equipment, EventKind, Silence, equipment_key
from edge.buffer.durable_file import replace_file
from edge.uplink.state_file import read_state
from edge.uplink.weekly_pattern import HOURS, WeeklyPattern

_log = logging.getLogger(__name__)

MAX_PATTERNS: Final = 64
_FILE: Final = "patterns.json"
_TICK_S: Final = 30.0
_JOIN_S: Final = 2.0
_NEVER_ANSWERED_S: Final = 3600.0
_HOUR_S: Final = 3600
_WHOLE_HOUR_SLACK_S: Final = 300  # on since so long after the hour began still counts as the whole of it
_MONDAY_S: Final = 4 * 86_400  # 1970-01-01 was a Thursday


@dataclass(frozen=True)
class Echoed:
    """What became of one C-ECHO; `detail` is a sentence for a person."""

    ok: bool
    round_trip_ms: float | None
    detail: str


@dataclass(frozen=True)
class ConfiguredScanner:
    ae_title: str
    host: str
    port: int


class EquipmentWatch:
    """`start`, then `stop`.

    Parameters
    ----------
    configured : the scanners of now that may be asked.
    seen : everybody who called this box; cheap.
    echo : one C-ECHO to a scanner; blocks, never raises for what the other side does.
    notice : takes what happened, for the outbox.
    clock : seconds since the epoch.
    """

    def __init__(
        self,
        directory: Path,
        *,
        configured: Callable[[], Sequence[ConfiguredScanner]],
        seen: Callable[[], Sequence[Equipment]],
        echo: Callable[[ConfiguredScanner], Echoed],
        notice: Callable[[EventKind, str], None],
        echo_interval_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = directory / _FILE
        self._configured = configured
        self._seen = seen
        self._echo = echo
        self._notice = notice
        self._interval_s = echo_interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._echoes: dict[str, Echo] = {}
        self._ever_answered: set[str] = set()
        self._asked_at: dict[str, float] = {}
        self._patterns = self._load()
        self._silent: set[str] = {key for key, pattern in self._patterns.items() if pattern.is_silent}
        self._watching_since = clock()
        self._hour = int(clock()) // _HOUR_S
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._watch, name="equipment", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End, keeping what was learned. A thread that waits for a C-ECHO ends with the process."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)
        self._save()

    def echo_every(self, interval_s: float) -> None:
        """From now on."""
        with self._wake:
            self._interval_s = interval_s
            self._wake.notify()

    def equipment(self) -> list[Equipment]:
        """Everybody who called, with echo and silence, and the configured ones who never did."""
        with self._lock:
            seen = [self._judged(one) for one in self._seen()]
            called = {one.ae_title for one in seen}
            return seen + [
                Equipment(
                    ae_title=scanner.ae_title,
                    address=scanner.host,
                    instances=0,
                    rejected=0,
                    echo=self._echoes.get(scanner.ae_title),
                )
                for scanner in self._configured()
                if scanner.ae_title not in called
            ]

    def echo_now(self, ae_title: str) -> Echoed | None:
        """One C-ECHO out of turn; None if no configured scanner has this AE title."""
        scanner = next((one for one in self._configured() if one.ae_title == ae_title), None)
        return None if scanner is None else self._ask(scanner)

    def tick(self) -> None:
        """What the thread does every half minute: learn from an hour that ended, ask who is due."""
        self._learn()
        now = self._clock()
        for scanner in self._configured():
            known = scanner.ae_title in self._ever_answered or scanner.ae_title not in self._asked_at
            pause_s = self._interval_s if known else max(self._interval_s, _NEVER_ANSWERED_S)
            if not 0 <= now - self._asked_at.get(scanner.ae_title, float("-inf")) < pause_s:
                if self._stopping:
                    return
                self._ask(scanner)

    def _watch(self) -> None:
        while True:
            try:
                self.tick()
            except Exception:
                _log.exception("watching scanners failed")  # receiving goes on; the next tick tries again
            with self._wake:
                if self._wake.wait_for(lambda: self._stopping, _TICK_S):
                    return

    def _ask(self, scanner: ConfiguredScanner) -> Echoed:
        with self._asking:
            self._asked_at[scanner.ae_title] = self._clock()
            echoed = self._echo(scanner)
        at_utc = datetime.fromtimestamp(self._clock(), UTC)
        with self._lock:
            if echoed.ok:
                self._ever_answered.add(scanner.ae_title)
            self._echoes[scanner.ae_title] = Echo(
                at_utc=at_utc, ok=echoed.ok, round_trip_ms=echoed.round_trip_ms
            )
        return echoed

    def _judged(self, seen: Equipment) -> Equipment:
        key = equipment_key(seen.ae_title, seen.address)
        pattern = self._patterns.get(key)
        silence: Silence = "learning"
        if pattern is not None and pattern.is_known:
            silence = "silent" if key in self._silent and not self._sent_this_hour(seen) else "usual"
        return seen.model_copy(update={"echo": self._echoes.get(seen.ae_title), "silence": silence})

    def _sent_this_hour(self, seen: Equipment) -> bool:
        return (
            seen.last_store_at_utc is not None and seen.last_store_at_utc.timestamp() >= self._hour * _HOUR_S
        )

    def _learn(self) -> None:
        now = self._clock()
        hour = int(now) // _HOUR_S
        if hour == self._hour:
            return
        with self._lock:
            passed, self._hour = self._hour, hour
            whole = hour == passed + 1 and self._watching_since <= passed * _HOUR_S + _WHOLE_HOUR_SLACK_S
            self._watching_since = now if hour != passed + 1 else self._watching_since
            noticed = self._hour_passed(passed) if whole else []
        for kind, detail in noticed:
            self._notice(kind, detail)
        if hour % 24 == 0:
            self._save()

    def _hour_passed(self, hour: int) -> list[tuple[EventKind, str]]:
        noticed = []
        of_week = (hour * _HOUR_S - _MONDAY_S) // _HOUR_S % HOURS
        senders = [one for one in self._seen() if one.last_store_at_utc is not None]
        senders.sort(key=lambda one: one.last_store_at_utc or datetime.min.replace(tzinfo=UTC), reverse=True)
        kept: dict[str, WeeklyPattern] = {}
        for one in senders[:MAX_PATTERNS]:
            key = equipment_key(one.ae_title, one.address)
            pattern = kept[key] = self._patterns.get(key) or WeeklyPattern()
            assert one.last_store_at_utc is not None
            pattern.hour_passed(of_week, active=one.last_store_at_utc.timestamp() >= hour * _HOUR_S)
            if pattern.is_silent and key not in self._silent:
                self._silent.add(key)
                since = f"{one.last_store_at_utc:%Y-%m-%d %H:%M} UTC"
                sentence = (
                    f"{one.ae_title} at {one.address} has sent nothing since {since}, which it never does"
                )
                noticed.append((EventKind.SCANNER_SILENT, f"{sentence} in a usual week"))
            elif not pattern.is_silent and key in self._silent:
                self._silent.discard(key)
                noticed.append((EventKind.SCANNER_BACK, f"{one.ae_title} at {one.address} sends again"))
        self._patterns = kept
        return noticed

    def _save(self) -> None:
        with self._lock:
            kept = {
                key: {
                    "weeks": pattern.weeks.hex(),
                    "hits": pattern.hits.hex(),
                    "surprise": round(pattern.surprise, 3),
                    "silent_h": pattern.silent_h,
                }
                for key, pattern in self._patterns.items()
            }
        if not kept:
            return
        try:
            replace_file(self._path, json.dumps({"version": 1, "scanners": kept}).encode())
        except OSError as error:
            _log.warning("scanners' weeks not kept", extra={"detail": error.strerror})

    def _load(self) -> dict[str, WeeklyPattern]:
        content = read_state(self._path)
        if content is None:
            return {}
        try:
            return {str(key): _pattern(kept) for key, kept in json.loads(content)["scanners"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            _log.warning("scanners' weeks unreadable, learned anew", extra={"path": str(self._path)})
            return {}


def _pattern(kept: dict[str, object]) -> WeeklyPattern:
    weeks, hits = bytearray.fromhex(str(kept["weeks"])), bytearray.fromhex(str(kept["hits"]))
    if (
        len(weeks) != HOURS
        or len(hits) != HOURS
        or any(hit > week for hit, week in zip(hits, weeks, strict=True))
    ):
        raise ValueError("not a week")
    return WeeklyPattern(weeks, hits, float(str(kept["surprise"])), int(str(kept["silent_h"])))
