"""A look that goes on: one record stands for what the same session does again within `SPAN_S`.

Why it exists: an open study list asks every quarter of a minute, and a series has hundreds of frames. A row for each
says no more than the first one, hides the others, and costs a sync.

What is always true
-------------------
- Everybody waits for the recording before answering, so nothing is answered before the record is on the disk, and only
  what it says: somebody else, another session, address, study, series or search, another outcome or reason is another
  record.
- It is for allowed looks alone: of refusals each has its record.
- While records cannot be written no span holds: each look tries to write its own, and is refused.
- A list that has changed since it was recorded is recorded anew.

What a crash leaves: nothing; the next look is recorded.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from central.audit.events import AuditEvent
from central.audit.record import Audit, Recording

SPAN_S: Final = 600.0
"""Shorter than the pause after which a look is another one (`central.audit.looks`)."""

_MOST: Final = 10_000  # spans in memory; the oldest makes way, and its next look is recorded


@dataclass
class _Span:
    """`shown` is the hash of what the record stands for, if said."""

    until_s: float
    recording: Recording
    shown: bytes = b""


class Spans:
    """Spans of one process; safe to call from every thread. `clock` is monotonic, in seconds."""

    def __init__(self, audit: Audit, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._lock = threading.Lock()
        self._spans: OrderedDict[tuple[str, AuditEvent], _Span] = OrderedDict()

    def begin(self, session: str, event: AuditEvent) -> Recording:
        """Have `event` written as `Audit.begin` does; or the same one of this session that was, or is being."""
        key, now_s = (session, event), self._clock()
        with self._lock:
            span = self._spans.get(key)
            if (
                span is None
                or span.until_s <= now_s
                or span.recording.has_failed
                or not self._audit.can_write
            ):
                span = self._spans[key] = _Span(now_s + SPAN_S, self._audit.begin(event))
                self._spans.move_to_end(key)
                if len(self._spans) > _MOST:
                    self._spans.popitem(last=False)
            return span.recording

    def begin_shown(self, session: str, event: AuditEvent, content: bytes) -> Recording | None:
        """What `event`, which has begun, is about to show; it begins anew if that has changed meanwhile."""
        key = (session, event)
        digest = hashlib.blake2b(content, digest_size=16).digest()
        with self._lock:
            span = self._spans.get(key)
            if span is not None and span.shown in (b"", digest):
                span.shown = digest
                return None
            self._spans.pop(key, None)
        recording = self.begin(session, event)
        with self._lock:
            if (span := self._spans.get(key)) is not None:
                span.shown = digest
        return recording
