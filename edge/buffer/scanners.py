"""Who sends to this box, and what was refused: what a technician looks at first.

Counts of stored instances change in the same transaction as the instance's row. Refusals are held in memory
and written with the next transaction or question, because a refusal is not worth an fsync: an attacker
would buy one for each connection. A crash loses at most the refusals since then. The table is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from peewee import fn

from edge.buffer.index import SpoolIndex
from edge.buffer.records import Origin, ScannerSeen
from edge.buffer.tables import Scanner, utc_from_text, utc_text

MAX_SCANNERS = 512
"""More than any hospital points at one box; the rest are made-up names, and the longest silent goes first."""

# Runs with every instance, so it is written out, as in `edge.buffer.index`.
_COUNT = """
    UPDATE scanners SET
        instances = instances + ?, size_bytes = size_bytes + ?, rejected = rejected + ?, last_seen_at_utc = ?,
        last_error = COALESCE(?, last_error), last_store_at_utc = COALESCE(?, last_store_at_utc)
    WHERE calling_ae_title = ? AND peer_address = ?
"""


@dataclass(frozen=True)
class _Refusals:
    count: int
    reason: str
    at_utc: str


class ScannerBook:
    """Callers hold the spool's lock."""

    def __init__(self, index: SpoolIndex) -> None:
        self._index = index
        self._pending: dict[tuple[str, str], _Refusals] = {}

    def note_store(self, origin: Origin, *, instances: int, size_bytes: int) -> None:
        """Count what was stored (zero for a duplicate). To be called inside the index's transaction."""
        now = utc_text(datetime.now(UTC))
        key = (origin.calling_ae_title, origin.peer_address)
        self._change(key, now, instances=instances, size_bytes=size_bytes, last_store_at_utc=now)
        self._write_pending()

    def note_rejection(self, calling_ae_title: str, peer_address: str, reason: str) -> None:
        key = (calling_ae_title, peer_address)
        held = self._pending.get(key)
        if held is None and len(self._pending) >= MAX_SCANNERS:
            return
        count = held.count + 1 if held else 1
        self._pending[key] = _Refusals(count, reason, utc_text(datetime.now(UTC)))

    def flush(self) -> None:
        """Write what is held in memory."""
        if self._pending:
            with self._index.transaction():
                self._write_pending()

    def all(self) -> list[ScannerSeen]:
        """Everyone who called, latest first."""
        self.flush()
        rows = Scanner.select().order_by(Scanner.last_seen_at_utc.desc()).dicts().execute(self._index.db)
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

    def last_store_at_utc(self) -> datetime | None:
        text = Scanner.select(fn.MAX(Scanner.last_store_at_utc)).scalar(self._index.db)
        return None if text is None else utc_from_text(text)

    def _write_pending(self) -> None:
        for key, refusals in self._pending.items():
            self._change(key, refusals.at_utc, rejected=refusals.count, last_error=refusals.reason)
        self._pending.clear()

    def _change(
        self,
        key: tuple[str, str],
        seen_at_utc: str,
        *,
        instances: int = 0,
        size_bytes: int = 0,
        rejected: int = 0,
        last_error: str | None = None,
        last_store_at_utc: str | None = None,
    ) -> None:
        counted = (instances, size_bytes, rejected, seen_at_utc, last_error, last_store_at_utc, *key)
        if self._index.execute(_COUNT, counted).rowcount:
            return
        self._make_room()
        Scanner.insert(
            calling_ae_title=key[0],
            peer_address=key[1],
            instances=instances,
            size_bytes=size_bytes,
            rejected=rejected,
            last_error=last_error,
            first_seen_at_utc=seen_at_utc,
            last_seen_at_utc=seen_at_utc,
            last_store_at_utc=last_store_at_utc,
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
