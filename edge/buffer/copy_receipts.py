"""The receipts of one further central that gets a copy, and what becomes of a copy whose receipt is void.

As `edge.buffer.receipts` for the first: that central may be set back to a backup, too. Its receipts lie in the rows of
`edge.buffer.deliveries`. What is still on the disk is owed to it once more; what is not is `lost` for that central
alone, whatever the others have. Always true: a receipt that was voided is not shown again; a file whose copy was
recalled stays until that central has signed anew; how far the check has come is kept after the steps it stands for.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Final

from contract.identifiers import ObjectId
from edge.buffer.files import SpoolFiles
from edge.buffer.index import SpoolIndex
from edge.buffer.receipts import MISSED, RECALLED, CheckProgress, HeldReceipt, LostStudy, Progress, Voided
from edge.buffer.retention import AT_ONCE
from edge.buffer.states import FREED_IF_LOST, OWE
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


class CopyReceipts:
    """Part of the spool; safe from any thread. The same questions and steps as `edge.buffer.receipts.Receipts`.

    Parameters
    ----------
    name : the central's; the `destination` of its rows.
    held : the spool's lock, on an open spool.
    changed : to be notified, under that lock, when something can be sent.
    """

    def __init__(
        self,
        name: str,
        index: SpoolIndex,
        files: SpoolFiles,
        held: Callable[[], AbstractContextManager[None]],
        changed: threading.Condition,
    ) -> None:
        self._name = name
        self._index = index
        self._files = files
        self._held = held
        self._changed = changed
        # Not the row of `Receipts.checked_with`, which counts other receipts: it may be left from a time as stand-in.
        self._progress = CheckProgress(index, held, 2 + zlib.crc32(f"copy/{name}".encode()))

    def given_since(self, number: int, *, limit: int) -> list[HeldReceipt]:
        """Receipts behind a number, the oldest first."""
        return self._read(_SINCE, number, limit)

    def given_before(self, number: int, *, limit: int) -> list[HeldReceipt]:
        """Receipts before a number, the newest first."""
        return self._read(_BELOW, number, limit)

    def _read(self, question: str, number: int, limit: int) -> list[HeldReceipt]:
        with self._held():
            rows = self._index.execute(question, (self._name, number, limit)).fetchall()
        return [HeldReceipt(at, ObjectId(object_id), *rest) for at, object_id, *rest in rows]

    def newest_number(self) -> int:
        """Of the receipt that was given last, forgotten or not; 0 if none ever was."""
        with self._held():
            newest: int | None = self._index.execute(_NEWEST, (self._name,)).fetchone()[0]
            return max(newest or 0, self._progress.get().checked_through)

    def progress(self) -> Progress:
        return self._progress.get()

    def advance(self, progress: Progress) -> None:
        """Keep how far the check has come."""
        self._progress.keep(progress)

    def void(self, object_ids: Collection[ObjectId], progress: Progress) -> Voided:
        """This central does not know these receipts: owe it again what is here, list what is not; keep `progress`.

        What has gone on meanwhile (its receipt is void already, or was forgotten with its age) is left as it is.
        """
        recalled = missed = 0
        unknown = list(object_ids)
        for at in range(0, len(unknown), AT_ONCE):
            some = self._void_some(unknown[at : at + AT_ONCE])
            recalled, missed = recalled + some.recalled, missed + some.missed
        self._progress.keep(progress)
        return Voided(recalled, missed)

    def _void_some(self, object_ids: Collection[ObjectId]) -> Voided:
        """All of these or none; a reception waits for no more than that."""
        recalled = missed = 0
        with self._held():
            rows = [
                row
                for one in object_ids
                if self._is_in_force(one) and (row := self._index.find(one)) is not None
            ]
            gone = [ObjectId(row["object_id"]) for row in rows if self._is_gone(row)]
            if gone:
                self._index.lose(gone, reason="the sealed file is missing")
            now = utc_text(datetime.now(UTC))
            with self._index.transaction():
                for row in rows:
                    object_id = ObjectId(row["object_id"])
                    if row["freed_at_utc"] is None and not row["damaged"] and object_id not in gone:
                        self._index.execute(_RECALL, (RECALLED, self._name, object_id))
                        if row["state"] in OWE.from_states:
                            self._index.step_within(object_id, OWE)
                        recalled += 1
                    else:
                        self._index.execute(_MISS, (self._name, object_id))
                        self._index.execute(_KEEP_LISTED, (now, object_id))
                        missed += 1
            if recalled:
                self._changed.notify_all()
        return Voided(recalled, missed)

    def _is_in_force(self, object_id: ObjectId) -> bool:
        return self._index.execute(_IN_FORCE, (self._name, object_id)).fetchone() is not None

    def _is_gone(self, row: dict[str, Any]) -> bool:
        return row["state"] in FREED_IF_LOST and self._files.place_of(ObjectId(row["object_id"])) is None

    def lost(self, *, untold: bool = False) -> list[LostStudy]:
        """Studies of which something is lost, in the order they came. `untold`: only what `note_told` has not seen."""
        with self._held():
            rows = self._index.execute(_LOST, (self._name, not untold)).fetchall()
        return [
            LostStudy(
                ae_title, study, count, utc_from_text(first), utc_from_text(last), bool(elsewhere), self._name
            )
            for ae_title, study, count, first, last, elsewhere in rows
        ]

    def note_told(self) -> None:
        """People were told of everything that is lost."""
        with self._held(), self._index.transaction():
            self._index.execute(_TOLD, (MISSED, self._name))
