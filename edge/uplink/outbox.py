"""Events that must reach central even if the line is down for days: a bounded, durable list.

    heartbeat/events.jsonl      first line: the stream's name and the number acknowledged last; then an event a line

Always true: an event is fsynced before `add` returns; it is dropped only once central has said that it keeps it,
or when `MAX_EVENTS` newer ones wait, oldest first. Nothing is written while nothing happens. A crash may tear
the last line, which is then no event; what central acknowledged and the file still holds is sent again, and
central knows it by its number. A file that cannot be read is put aside and a new stream begins.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from contract.command import EventMark
from contract.heartbeat import CommandAnswer, Event, EventKind
from edge.buffer.durable_file import replace_file
from edge.uplink.state_file import read_state

_log = logging.getLogger(__name__)

MAX_EVENTS: Final = 500
_FILE: Final = "events.jsonl"
_MAX_DETAIL: Final = 300


class Outbox:
    """Thread-safe.

    Parameters
    ----------
    on_added : called after each event, outside the lock; must return at once.
    now : the best known time; the system's clock may be anything.
    """

    def __init__(
        self,
        directory: Path,
        *,
        on_added: Callable[[], None] = lambda: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._path = directory / _FILE
        self._on_added = on_added
        self._now = now
        self._lock = threading.Lock()
        self._waiting: deque[Event] = deque()
        self._stream, self._last = secrets.token_hex(8), 0
        self._torn = False
        self._load()

    def add(self, kind: EventKind, detail: str, answer: CommandAnswer | None = None) -> None:
        """Keep an event until central has it. Never raises: if the disk fails it is kept in memory, and said."""
        with self._lock:
            event = Event(
                stream=self._stream,
                number=self._last + 1,
                after=self._waiting[-1].number if self._waiting else 0,
                at_utc=self._now(),
                kind=kind.value,
                detail=detail[:_MAX_DETAIL],
                answer=answer,
            )
            self._last = event.number
            self._waiting.append(event)
            try:
                if len(self._waiting) > MAX_EVENTS:
                    # Down to three quarters at once: otherwise every event of a long outage rewrites the file.
                    while len(self._waiting) > MAX_EVENTS * 3 // 4:
                        self._waiting.popleft()
                    self._rewrite()
                else:
                    self._append(event)
            except OSError as error:
                self._torn = True
                _log.warning("event not durable", extra={"kind": kind.value, "detail": error.strerror})
        self._on_added()

    def waiting(self, limit: int) -> list[Event]:
        """The oldest `limit` events that central does not have yet. The first names no predecessor."""
        with self._lock:
            events = [event for event, _ in zip(self._waiting, range(limit), strict=False)]
        return [events[0].model_copy(update={"after": 0}), *events[1:]] if events else []

    def answered(self) -> list[str]:
        """Ids of the commands whose answers central does not have yet, the oldest first."""
        with self._lock:
            return [event.answer.command_id for event in self._waiting if event.answer is not None]

    def acknowledge(self, mark: EventMark) -> None:
        """Central keeps everything up to `mark`. A mark of another stream is nobody's.

        A mark of numbers that were never given means that this file is older than what was said from it: a new
        stream begins, or central would take the next events for known ones.
        """
        with self._lock:
            if mark.stream != self._stream:
                return
            before = len(self._waiting)
            if mark.through > self._last:
                self._begin_anew()
            else:
                while self._waiting and self._waiting[0].number <= mark.through:
                    self._waiting.popleft()
                if len(self._waiting) == before:
                    return
            try:
                self._rewrite()
            except OSError as error:
                self._torn = True
                _log.warning("acknowledged events not removed", extra={"detail": error.strerror})

    def _begin_anew(self) -> None:
        self._stream, self._last = secrets.token_hex(8), 0
        events, self._waiting = self._waiting, deque()
        for event in events:
            changes = {"stream": self._stream, "number": self._last + 1, "after": self._last}
            self._waiting.append(event.model_copy(update=changes))
            self._last += 1

    def _append(self, event: Event) -> None:
        if self._torn or not self._path.exists():
            self._rewrite()
            return
        self._torn = True  # until the line is whole
        with self._path.open("ab") as file:
            file.write(event.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._torn = False

    def _rewrite(self) -> None:
        first = self._waiting[0].number - 1 if self._waiting else self._last
        lines = [json.dumps({"stream": self._stream, "through": first})]
        lines += [event.model_dump_json() for event in self._waiting]
        replace_file(self._path, ("\n".join(lines) + "\n").encode())
        self._torn = False

    def _load(self) -> None:
        content = read_state(self._path)
        if content is None:
            return
        head, *lines = content.split(b"\n")
        try:
            kept = EventMark.model_validate_json(head)
        except ValidationError:
            _log.warning("events unreadable, begun anew", extra={"path": str(self._path)})
            self._path.replace(self._path.with_suffix(".damaged"))
            return
        self._stream, self._last = kept.stream, kept.through
        for line in lines:
            if not line:
                continue
            try:
                event = Event.model_validate_json(line)
            except ValidationError:
                self._torn = True  # torn by a power cut: written over with the next event
                break
            if event.stream != self._stream or event.number <= self._last:
                self._torn = True
                break
            self._waiting.append(event)
            self._last = event.number
        # A torn number may have been said to central before the cut: never used for another event.
        if self._torn:
            self._last += 1
