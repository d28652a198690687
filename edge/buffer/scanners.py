"""Who sends to this box, and what was refused: what a technician looks at first.

Counts are kept in memory and written when somebody asks (the heartbeat does, every half minute) or at the end: an
instance should not pay for a statistic, and an attacker should not buy a write for each connection. A crash loses
what was counted since then. Table and memory are bounded.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from peewee import fn

from edge.buffer.errors import TransientSpoolError
from edge.buffer.index import SpoolIndex
from edge.buffer.lock import SpoolLock
from edge.buffer.records import Origin, ScannerSeen
from edge.buffer.tables import Scanner, utc_from_text, utc_text

MAX_SCANNERS = 512
"""More than any hospital points at one box; the rest are made-up names, and the longest silent goes first."""

_CALLED: Final = """
    SELECT calling_ae_title, peer_address, called_ae_title FROM (
        SELECT sequence, calling_ae_title, peer_address, called_ae_title FROM objects ORDER BY sequence DESC LIMIT 10000
    ) ORDER BY sequence
"""


@dataclass
class _Counts:
    """What happened since the last write."""

    instances: int = 0
    size_bytes: int = 0
    rejected: int = 0
    last_error: str | None = None
    last_seen_at_utc: datetime = field(default_factory=lambda: datetime.now(UTC))
    last_store_at_utc: datetime | None = None


class ScannerBook:
    """Safe from any thread.

    Attributes
    ----------
    received : instances that were acknowledged since the spool was opened, duplicates among them.
    """

    def __init__(self, lock: SpoolLock, index: SpoolIndex) -> None:
        self.received = 0
        self._lock = lock
        self._index = index
        self._pending: dict[tuple[str, str], _Counts] = {}

    def note_store(self, origin: Origin, *, instances: int, size_bytes: int) -> None:
        """Count what was stored (zero for a duplicate). Under the lock."""
        self.received += 1
        counts = self._counts((origin.calling_ae_title, origin.peer_address))
        if counts is None:
            return
        counts.instances += instances
        counts.size_bytes += size_bytes
        counts.last_store_at_utc = counts.last_seen_at_utc

    def note_rejection(self, calling_ae_title: str, peer_address: str, reason: str) -> None:
        """Remember a refusal for the technician. `calling_ae_title` is empty where it was never learnt."""
        with self._lock.changed:
            counts = self._counts((calling_ae_title, peer_address))
            if counts is not None:
                counts.rejected += 1
                counts.last_error = reason

    def _counts(self, key: tuple[str, str]) -> _Counts | None:
        """Where to count for a sender, now; None where made-up names have filled the memory."""
        counts = self._pending.get(key)
        if counts is None:
            if len(self._pending) >= MAX_SCANNERS:
                return None
            counts = self._pending[key] = _Counts()
        counts.last_seen_at_utc = datetime.now(UTC)
        return counts

    def flush(self) -> None:
        """Write what is held in memory. Under the lock, on a spool that may be closing."""
        if self._pending:
            with self._index.transaction(durable=False):
                for key, counts in self._pending.items():
                    self._write(key, counts)
            self._pending.clear()

    def all(self) -> list[ScannerSeen]:
        """Everyone who called this box, latest first. Where the disk is full, as it was written last."""
        with self._lock.held():
            with suppress(TransientSpoolError):
                self.flush()
            found = Scanner.select().order_by(Scanner.last_seen_at_utc.desc()).dicts()
            rows = list(found.execute(self._index.db))
        return [
            ScannerSeen(
                calling_ae_title=row["calling_ae_title"],
                peer_address=row["peer_address"],
                instances=row["instances"],
                size_bytes=row["size_bytes"],
                rejected=row["rejected"],
                last_error=row["last_error"],
                first_seen_at_utc=utc_from_text(row["first_seen_at_utc"]),
                last_seen_at_utc=utc_from_text(row["last_seen_at_utc"]),
                last_store_at_utc=row["last_store_at_utc"] and utc_from_text(row["last_store_at_utc"]),
            )
            for row in rows
        ]

    def called(self) -> dict[tuple[str, str], str]:
        """What senders of the newest 10,000 objects called this box last, by AE title and address."""
        with self._lock.held():
            rows = self._index.execute(_CALLED, ()).fetchall()
        return {(calling, address): called for calling, address, called in rows}

    def last_store_at_utc(self) -> datetime | None:
        """Under the lock."""
        text = Scanner.select(fn.MAX(Scanner.last_store_at_utc)).scalar(self._index.db)
        written = [] if text is None else [utc_from_text(text)]
        held = [counts.last_store_at_utc for counts in self._pending.values() if counts.last_store_at_utc]
        return max(written + held, default=None)

    def _write(self, key: tuple[str, str], counts: _Counts) -> None:
        here = (Scanner.calling_ae_title == key[0]) & (Scanner.peer_address == key[1])
        seen_at_utc = utc_text(counts.last_seen_at_utc)
        latest = {
            "last_seen_at_utc": seen_at_utc,
            "last_error": counts.last_error,
            "last_store_at_utc": counts.last_store_at_utc and utc_text(counts.last_store_at_utc),
        }
        known = Scanner.update(
            instances=Scanner.instances + counts.instances,
            size_bytes=Scanner.size_bytes + counts.size_bytes,
            rejected=Scanner.rejected + counts.rejected,
            **{name: value for name, value in latest.items() if value is not None},
        )
        if known.where(here).execute(self._index.db):
            return
        self._make_room()
        Scanner.insert(
            calling_ae_title=key[0],
            peer_address=key[1],
            instances=counts.instances,
            size_bytes=counts.size_bytes,
            rejected=counts.rejected,
            first_seen_at_utc=seen_at_utc,
            **latest,
        ).execute(self._index.db)

    def _make_room(self) -> None:
        """Forget one sender when full: first those that never stored anything, then the longest silent."""
        if Scanner.select(fn.COUNT()).scalar(self._index.db) < MAX_SCANNERS:
            return
        victim = (
            Scanner.select(Scanner.sequence)
            .order_by(Scanner.instances > 0, Scanner.last_seen_at_utc)
            .limit(1)
        )
        Scanner.delete().where(Scanner.sequence == victim.scalar(self._index.db)).execute(self._index.db)
