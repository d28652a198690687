"""A look that goes on: one record stands for what the same session does again within `SPAN_S`.

Why it exists: an open study list asks every quarter of a minute, and a series has hundreds of frames. A row for each
says no more than the first one, hides the others, and costs a sync.

What is always true
-------------------
- Only after the record is on the disk is anything answered, and only for what the record says: somebody else, another
  session, address, study, series or search, another outcome or reason is another record.
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
from dataclasses import dataclass, field
from typing import Final

from central.audit.record import Audit, AuditEvent

SPAN_S: Final = 600.0
"""Shorter than the pause after which a look is another one (`central.audit.looks`)."""

_MOST: Final = 10_000  # spans in memory; the oldest makes way, and its next look is recorded


@dataclass
class _Span:
    """`settled` once the record was written, or could not be; `shown` is the hash of what it stands for, if said."""

    until_s: float
    settled: threading.Event = field(default_factory=threading.Event)
    durable: bool = False
    shown: bytes = b""


class Spans:
    """Spans of one process; safe to call from every thread. `clock` is monotonic, in seconds."""

    def __init__(self, audit: Audit, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._lock = threading.Lock()
        self._spans: OrderedDict[tuple[str, AuditEvent], _Span] = OrderedDict()

    def record(self, session: str, event: AuditEvent) -> None:
        """Make `event` durable, unless this session's same one is and goes on. Raises AuditUnavailableError as
        `Audit.record`."""
        while True:
            span, is_new = self._span(session, event)
            if is_new:
                self._write(span, session, event)
                return
            span.settled.wait()  # of several that come at once one writes
            if span.durable:
                return

    def record_shown(self, session: str, event: AuditEvent, content: bytes) -> None:
        """What `event`, which was recorded before, is about to show: recorded anew if that has changed meanwhile.

        Raises as `record`.
        """
        digest = hashlib.blake2b(content, digest_size=16).digest()
        with self._lock:
            span = self._spans.get((session, event))
            if span is not None and span.shown in (b"", digest):
                span.shown = digest
                return
            self._spans.pop((session, event), None)
        self.record(session, event)
        with self._lock:
            if (span := self._spans.get((session, event))) is not None:
                span.shown = digest

    def _span(self, session: str, event: AuditEvent) -> tuple[_Span, bool]:
        key, now_s = (session, event), self._clock()
        with self._lock:
            span = self._spans.get(key)
            if span is not None and span.until_s > now_s and self._audit.can_write:
                return span, False
            span = self._spans[key] = _Span(now_s + SPAN_S)
            self._spans.move_to_end(key)
            if len(self._spans) > _MOST:
                self._spans.popitem(last=False)
            return span, True

    def _write(self, span: _Span, session: str, event: AuditEvent) -> None:
        key = (session, event)
        try:
            self._audit.record(event)
            span.durable = True
        finally:
            if not span.durable:
                with self._lock:
                    if self._spans.get(key) is span:
                        del self._spans[key]
            span.settled.set()
