"""The receipts that a box keeps, in the order they were given, and what becomes of an object whose receipt is void.

Central may be set back to a backup and lose what it had signed for. `edge.uplink.receipt_check` finds out; here is
how far it has come, and the steps back: what is still on the disk is sent again (`RECALL`), what is not is `lost` and
stays in the list, for its scanner has to send it again (`MISS`). Always true: a receipt that was voided is not shown
again, so nothing is recalled or missed twice for one loss; how far the check has come is kept after the steps it
stands for. A crash repeats a batch at most, and what of it was done is passed over.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from contract.identifiers import ObjectId
from edge.buffer.damage import MISSING, lose
from edge.buffer.files import SpoolFiles
from edge.buffer.index import SpoolIndex
from edge.buffer.lock import SpoolLock
from edge.buffer.retention import AT_ONCE
from edge.buffer.states import FREED_IF_LOST, MISS, RECALL
from edge.buffer.tables import SpoolObject, utc_from_text, utc_text

RECEIPTS_KEPT: Final = timedelta(days=30)
"""As long as a radiology department takes to ask where a study went; 1,000,000 receipts are about 1 GB."""

_COLUMNS: Final = "receipt_number, object_id, sha256, receipt"
_SINCE: Final = f"""
    SELECT {_COLUMNS} FROM objects INDEXED BY receipts_by_number
    WHERE receipt_number > ? ORDER BY receipt_number LIMIT ?
"""  # noqa: S608  # put together from the constant above alone
_BELOW: Final = f"""
    SELECT {_COLUMNS} FROM objects INDEXED BY receipts_by_number
    WHERE receipt_number < ? ORDER BY receipt_number DESC LIMIT ?
"""  # noqa: S608  # put together from the constant above alone
# What was checked counts, too: receipts go with their age, the newest among them on a box that was idle for long.
_NEWEST: Final = """
    SELECT MAX(number) FROM (
        SELECT MAX(receipt_number) AS number FROM objects INDEXED BY receipts_by_number
        WHERE receipt_number IS NOT NULL
        UNION ALL SELECT checked_through FROM receipt_check
    )
"""
_FORGET_ENDED: Final = """
    DELETE FROM deliveries WHERE state IN ('delivered', 'given-up', 'lost')
        AND object_id IN (SELECT object_id FROM objects WHERE freed_at_utc < ?)
"""
_KEEP_PROGRESS: Final = """
    INSERT INTO receipt_check (number, checked_through, searching_below) VALUES (?, ?, ?)
    ON CONFLICT (number) DO UPDATE SET checked_through = excluded.checked_through,
        searching_below = excluded.searching_below
"""
# Lost, unless the very bytes are here, or at central, as another object.
_LOST: Final = """
    SELECT calling_ae_title, study_instance_uid, COUNT(*), MIN(received_at_utc), MAX(received_at_utc),
        MIN(EXISTS (SELECT 1 FROM deliveries AS d WHERE d.object_id = lost.object_id
            AND d.receipt_number IS NOT NULL))
    FROM objects AS lost INDEXED BY lost_by_instance WHERE state = 'lost' AND (? OR last_error IS NULL)
        AND NOT EXISTS (SELECT 1 FROM objects AS twin WHERE twin.freed_at_utc IS NULL AND NOT twin.damaged
            AND twin.sop_instance_uid = lost.sop_instance_uid AND twin.sha256 = lost.sha256)
        AND NOT EXISTS (SELECT 1 FROM objects AS twin WHERE twin.freed_at_utc IS NOT NULL AND twin.state = 'freed'
            AND twin.receipt IS NOT NULL
            AND twin.sop_instance_uid = lost.sop_instance_uid AND twin.sha256 = lost.sha256)
    GROUP BY calling_ae_title, study_instance_uid ORDER BY MIN(received_at_utc)
"""
_TOLD: Final = "UPDATE objects SET last_error = ? WHERE state = 'lost' AND last_error IS NULL"
RECALLED: Final = "central lost it after it had signed for it; it is sent again"
MISSED: Final = "central lost it after it had signed for it, and it is not here any more"


def forget_receipts(index: SpoolIndex, *, older_than: timedelta = RECEIPTS_KEPT) -> int:
    """Forget the rows of objects that were freed so long ago, with all that belongs to them; how many rows went."""
    limit = utc_text(datetime.now(UTC) - older_than)
    with index.transaction():
        index.execute(_FORGET_ENDED, (limit,))
        index.execute("DELETE FROM study_priorities WHERE set_at_utc < ?", (limit,))
        gone: int = SpoolObject.delete().where(SpoolObject.freed_at_utc < limit).execute(index.db)
    return gone


@dataclass(frozen=True)
class HeldReceipt:
    """A receipt in force. `number` rises in the order in which receipts were given."""

    number: int
    object_id: ObjectId
    sha256: str
    token: str


@dataclass(frozen=True)
class Progress:
    """How far receipts were checked.

    Attributes
    ----------
    checked_through : central knew every receipt up to this number, or will be asked below.
    searching_below : a search through all receipts has come down to this number; None: there is none.
    """

    checked_through: int = 0
    searching_below: int | None = None


@dataclass(frozen=True)
class LostStudy:
    """Images of one study that a central signed for and lost, and that are not here any more.

    Attributes
    ----------
    at_another : another central of this box has signed for all of them.
    central : the one that gets a copy, by the name this box has for it; empty: whichever an image was sent to.
    """

    calling_ae_title: str
    study_instance_uid: str
    instances: int
    first_at_utc: datetime
    last_at_utc: datetime
    at_another: bool = False
    central: str = ""


@dataclass(frozen=True)
class Voided:
    """What became of objects whose receipts are void."""

    recalled: int
    missed: int


class CheckProgress:
    """How far the receipts of one central were checked, durably.

    Parameters
    ----------
    number : of the row in `receipt_check`; 1 is the first central's.
    """

    def __init__(self, lock: SpoolLock, index: SpoolIndex, number: int) -> None:
        self._index = index
        self._lock = lock
        self._number = number

    def get(self) -> Progress:
        with self._lock.held():
            question = "SELECT checked_through, searching_below FROM receipt_check WHERE number = ?"
            found = self._index.execute(question, (self._number,)).fetchone()
        return Progress(*found) if found else Progress()

    def keep(self, progress: Progress) -> None:
        with self._lock.held(), self._index.transaction():
            values = (self._number, progress.checked_through, progress.searching_below)
            self._index.execute(_KEEP_PROGRESS, values)


class ReceiptLedger(ABC):
    """What one central has signed for, as its check asks it, and the steps back. Safe from any thread.

    Parameters
    ----------
    progress_row : of the row in `receipt_check`.
    """

    def __init__(
        self,
        lock: SpoolLock,
        index: SpoolIndex,
        files: SpoolFiles,
        progress_row: int,
    ) -> None:
        self._index = index
        self._files = files
        self._lock = lock
        self._progress = CheckProgress(lock, index, progress_row)

    @abstractmethod
    def given_since(self, number: int, *, limit: int) -> list[HeldReceipt]:
        """Receipts behind a number, the oldest first."""

    @abstractmethod
    def given_before(self, number: int, *, limit: int) -> list[HeldReceipt]:
        """Receipts before a number, the newest first."""

    @abstractmethod
    def newest_number(self) -> int:
        """Of the receipt that was given last, forgotten or not; 0 if none ever was."""

    def progress(self) -> Progress:
        return self._progress.get()

    def advance(self, progress: Progress) -> None:
        """Keep how far the check has come."""
        self._progress.keep(progress)

    def void(self, object_ids: Collection[ObjectId], progress: Progress) -> Voided:
        """This central does not know these receipts: send again what is here, list what is not; then keep `progress`.

        What has gone on meanwhile (its receipt is void already, or was forgotten with its age) is left as it is.
        """
        recalled = missed = 0
        unknown = list(object_ids)
        for at in range(0, len(unknown), AT_ONCE):
            # All of these or none; a reception waits for no more than that.
            with self._lock.held():
                rows = [
                    row
                    for one in unknown[at : at + AT_ONCE]
                    if (row := self._index.find(one)) is not None and self._is_in_force(row)
                ]
                gone = [ObjectId(row["object_id"]) for row in rows if self._is_gone(row)]
                if gone:
                    lose(self._index, gone, reason=MISSING)
                with self._index.transaction():
                    back = sum(self._take_back(row, is_gone=row["object_id"] in gone) for row in rows)
                if back:
                    self._lock.changed.notify_all()
            recalled, missed = recalled + back, missed + len(rows) - back
        self._progress.keep(progress)
        return Voided(recalled, missed)

    @abstractmethod
    def _is_in_force(self, row: dict[str, Any]) -> bool:
        """Whether the receipt for this object is still to be voided."""

    @abstractmethod
    def _take_back(self, row: dict[str, Any], *, is_gone: bool) -> bool:
        """In a transaction: void the receipt; whether the object can be sent again, else it is lost."""

    @abstractmethod
    def lost(self, *, untold: bool = False) -> list[LostStudy]:
        """Studies of which something is lost, in the order they came. `untold`: only what `note_told` has not seen."""

    @abstractmethod
    def note_told(self) -> None:
        """People were told of everything that is lost."""

    def _read(self, question: str, *values: object) -> list[HeldReceipt]:
        with self._lock.held():
            rows = self._index.execute(question, values).fetchall()
        return [HeldReceipt(at, ObjectId(object_id), *rest) for at, object_id, *rest in rows]

    def _is_gone(self, row: dict[str, Any]) -> bool:
        return row["state"] in FREED_IF_LOST and self._files.place_of(ObjectId(row["object_id"])) is None


class Receipts(ReceiptLedger):
    """Part of the spool: the receipts of the first central, or of the one that stands in for it."""

    def __init__(
        self,
        lock: SpoolLock,
        index: SpoolIndex,
        files: SpoolFiles,
        progress_row: int = 1,
    ) -> None:
        super().__init__(lock, index, files, progress_row)

    def checked_with(self, central: str) -> Receipts:
        """The same receipts, with the progress of a further central."""
        row = 2 + zlib.crc32(central.encode())
        return Receipts(self._lock, self._index, self._files, row)

    def given_since(self, number: int, *, limit: int) -> list[HeldReceipt]:
        return self._read(_SINCE, number, limit)

    def given_before(self, number: int, *, limit: int) -> list[HeldReceipt]:
        return self._read(_BELOW, number, limit)

    def newest_number(self) -> int:
        with self._lock.held():
            newest: int | None = self._index.execute(_NEWEST, ()).fetchone()[0]
            return newest or 0

    def _is_in_force(self, row: dict[str, Any]) -> bool:
        return row["receipt_number"] is not None

    def _take_back(self, row: dict[str, Any], *, is_gone: bool) -> bool:
        object_id, back = ObjectId(row["object_id"]), row["state"] in RECALL.from_states and not is_gone
        if back:
            void: dict[str, Any] = {"receipt": None, "due_s": 0.0, "attempts": 0, "last_error": RECALLED}
            self._index.step_within(object_id, RECALL, receipt_number=None, **void)
        else:
            # What is lost is listed for as long as receipts are kept.
            now = utc_text(datetime.now(UTC))
            self._index.step_within(object_id, MISS, receipt_number=None, last_error=None, freed_at_utc=now)
        return back

    def lost(self, *, untold: bool = False) -> list[LostStudy]:
        with self._lock.held():
            rows = self._index.execute(_LOST, (not untold,)).fetchall()
        return [
            LostStudy(ae_title, study, count, utc_from_text(first), utc_from_text(last), bool(at_another))
            for ae_title, study, count, first, last, at_another in rows
        ]

    def note_told(self) -> None:
        with self._lock.held(), self._index.transaction():
            self._index.execute(_TOLD, (MISSED,))
