"""The receipts of one further central that gets a copy, and what becomes of a copy whose receipt is void.

As `edge.buffer.receipts` for the first: that central may be set back to a backup, too. Its receipts lie in the rows of
`edge.buffer.deliveries`. What is still on the disk is owed to it once more; what is not is `lost` for that central
alone, whatever the others have. Always true: a receipt that was voided is not shown again; a file whose copy was
recalled stays until that central has signed anew; how far the check has come is kept after the steps it stands for.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from typing import Any, Final

from contract.identifiers import ObjectId
from edge.buffer.files import SpoolFiles
from edge.buffer.index import SpoolIndex
from edge.buffer.lock import SpoolLock
from edge.buffer.receipts import MISSED, RECALLED, HeldReceipt, LostStudy, ReceiptLedger
from edge.buffer.states import OWE
from edge.buffer.tables import utc_from_text, utc_text

_HELD: Final = """
    SELECT d.receipt_number, d.object_id, o.sha256, d.receipt
    FROM deliveries AS d INDEXED BY copy_receipts_by_number JOIN objects AS o USING (object_id)
    WHERE d.receipt_number IS NOT NULL AND d.destination = ?
"""
_SINCE: Final = f"{_HELD} AND d.receipt_number > ? ORDER BY d.receipt_number LIMIT ?"
_BELOW: Final = f"{_HELD} AND d.receipt_number < ? ORDER BY d.receipt_number DESC LIMIT ?"
_NEWEST: Final = """
    SELECT MAX(receipt_number) FROM deliveries INDEXED BY copy_receipts_by_number
    WHERE receipt_number IS NOT NULL AND destination = ?
"""
_IN_FORCE: Final = """
    SELECT 1 FROM deliveries WHERE destination = ? AND object_id = ? AND receipt_number IS NOT NULL
"""
_RECALL: Final = """
    UPDATE deliveries SET state = 'waiting', due_s = 0.0, attempts = 0, last_error = ?, receipt = NULL,
        receipt_number = NULL
    WHERE destination = ? AND object_id = ?
"""
_MISS: Final = """
    UPDATE deliveries SET state = 'lost', last_error = NULL, receipt_number = NULL
    WHERE destination = ? AND object_id = ?
"""
# What is lost is listed for as long as receipts are kept.
_KEEP_LISTED: Final = "UPDATE objects SET freed_at_utc = ? WHERE object_id = ? AND freed_at_utc IS NOT NULL"
# Lost, unless this central is owed the very bytes, or has them, as another object.
_TWIN: Final = """
    SELECT 1 FROM objects AS twin JOIN deliveries AS other USING (object_id)
    WHERE twin.freed_at_utc IS {} AND twin.sop_instance_uid = o.sop_instance_uid AND twin.sha256 = o.sha256
        AND other.destination = d.destination AND other.state IN ('waiting', 'delivered')
"""
_LOST: Final = f"""
    SELECT o.calling_ae_title, o.study_instance_uid, COUNT(*), MIN(o.received_at_utc), MAX(o.received_at_utc),
        MIN(o.receipt IS NOT NULL AND o.state <> 'lost')
    FROM deliveries AS d INDEXED BY lost_deliveries JOIN objects AS o USING (object_id)
    WHERE d.state = 'lost' AND d.destination = ? AND (? OR d.last_error IS NULL)
        AND NOT EXISTS ({_TWIN.format("NULL")}) AND NOT EXISTS ({_TWIN.format("NOT NULL")})
    GROUP BY o.calling_ae_title, o.study_instance_uid ORDER BY MIN(o.received_at_utc)
"""  # noqa: S608  # put together from the constant above alone
_TOLD: Final = """
    UPDATE deliveries SET last_error = ? WHERE state = 'lost' AND destination = ? AND last_error IS NULL
"""


class CopyReceipts(ReceiptLedger):
    """Part of the spool. `name`: the central's, the `destination` of its rows."""

    def __init__(
        self,
        name: str,
        lock: SpoolLock,
        index: SpoolIndex,
        files: SpoolFiles,
    ) -> None:
        # Not the row of `Receipts.checked_with`, which counts other receipts: it may be left from a time as stand-in.
        super().__init__(lock, index, files, 2 + zlib.crc32(f"copy/{name}".encode()))
        self._name = name

    def given_since(self, number: int, *, limit: int) -> list[HeldReceipt]:
        return self._read(_SINCE, self._name, number, limit)

    def given_before(self, number: int, *, limit: int) -> list[HeldReceipt]:
        return self._read(_BELOW, self._name, number, limit)

    def newest_number(self) -> int:
        with self._lock.held():
            newest: int | None = self._index.execute(_NEWEST, (self._name,)).fetchone()[0]
            return max(newest or 0, self._progress.get().checked_through)

    def _is_in_force(self, row: dict[str, Any]) -> bool:
        return self._index.execute(_IN_FORCE, (self._name, row["object_id"])).fetchone() is not None

    def _take_back(self, row: dict[str, Any], *, is_gone: bool) -> bool:
        object_id = ObjectId(row["object_id"])
        back = row["freed_at_utc"] is None and not row["damaged"] and not is_gone
        if back:
            self._index.execute(_RECALL, (RECALLED, self._name, object_id))
            if row["state"] in OWE.from_states:
                self._index.step_within(object_id, OWE)
        else:
            self._index.execute(_MISS, (self._name, object_id))
            self._index.execute(_KEEP_LISTED, (utc_text(datetime.now(UTC)), object_id))
        return back

    def lost(self, *, untold: bool = False) -> list[LostStudy]:
        with self._lock.held():
            rows = self._index.execute(_LOST, (self._name, not untold)).fetchall()
        return [
            LostStudy(
                ae_title, study, count, utc_from_text(first), utc_from_text(last), bool(elsewhere), self._name
            )
            for ae_title, study, count, first, last, elsewhere in rows
        ]

    def note_told(self) -> None:
        with self._lock.held(), self._index.transaction():
            self._index.execute(_TOLD, (MISSED, self._name))
