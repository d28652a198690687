"""The durable spool: takes instances from scanners, lends them to the sender, frees them against a receipt.

Always true: an instance whose `Reception.commit` returned is on the disk, sealed, with a committed row; it
leaves the disk only after central's verified receipt was acknowledged, and no other destination waits for it. The
files are the truth and the index is made of their labels. One process owns a spool directory; within it every method
of every part is safe from any thread. A crash leaves what `edge.buffer.recovery` repairs.

Here the parts are made for each other, once, and ended in order; what they do is theirs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from contract.sealed_object import Aead
from contract.sealing import DataKeyRing
from edge.buffer.arrivals import Arrivals
from edge.buffer.coding import choose_aead
from edge.buffer.coding_pace import Coding
from edge.buffer.copy_receipts import CopyReceipts
from edge.buffer.damage import Inspection
from edge.buffer.deliveries import Deliveries
from edge.buffer.delivery_queue import DeliveryQueue
from edge.buffer.departure import Departure
from edge.buffer.entrance import Entrance
from edge.buffer.files import SpoolFiles
from edge.buffer.holdings import Holdings
from edge.buffer.index import SpoolIndex
from edge.buffer.label import Label
from edge.buffer.lock import SpoolLock
from edge.buffer.new_rows import NewRows, Rank, Route, as_routine, to_central_alone
from edge.buffer.quarantine import Quarantine
from edge.buffer.receipts import LostStudy, Receipts, forget_receipts
from edge.buffer.records import RecoveryReport
from edge.buffer.recovery import open_index, recover
from edge.buffer.retention import Retained
from edge.buffer.room import DiskRoom
from edge.buffer.scanners import ScannerBook
from edge.buffer.sending_queue import SendingQueue

_LOG = logging.getLogger(__name__)


class Spool:
    """See the module. Made by `open`.

    Attributes
    ----------
    recovery : what start-up found and put right.
    entrance : where instances come in.
    queue : what waits for the first central.
    deliveries : what is owed to other destinations than central, and how that stands.
    receipts : those central gave, as long as they are kept, and what becomes of objects it has lost.
    retained : what central has and the site keeps near.
    quarantine : what waits for a person.
    holdings : what is here.
    scanners : who called this box.
    room : on the file system.
    inspection : for the scrub.
    """

    def __init__(
        self,
        files: SpoolFiles,
        index: SpoolIndex,
        rows: NewRows,
        recovery: RecoveryReport,
        *,
        reserve_bytes: int,
        low_water_bytes: int,
        retain: timedelta,
        quarantine_max_bytes: int,
        keys: DataKeyRing | None,
        aead: Aead,
        coding: Coding,
        on_stored: Callable[[Label], None],
        on_low_water: Callable[[], None],
        complete: Callable[[Label], Label],
        copies: Collection[str],
    ) -> None:
        self.recovery = recovery
        self._files = files
        self._index = index
        self._copies = frozenset(copies)
        mutex = threading.RLock()
        changed = threading.Condition(mutex)
        self._arrivals = Arrivals(index, rows, mutex, changed)
        lock = self._lock = SpoolLock(index, self._arrivals, changed, reserve_bytes=reserve_bytes)
        self.scanners = ScannerBook(lock, index)
        self.holdings = Holdings(lock, index, files, self.scanners, self._copies)
        self.retained = Retained(lock, index, files, period=retain)
        self.room = DiskRoom(
            files,
            self.retained,
            reserve_bytes=reserve_bytes,
            low_water_bytes=low_water_bytes,
            on_low_water=on_low_water,
        )
        self.quarantine = Quarantine(lock, index, files, rows, max_bytes=quarantine_max_bytes)
        self.inspection = Inspection(lock, index, files)
        self.receipts = Receipts(lock, index, files)
        self._departure = Departure(index, files, self.room, self.retained)
        self.queue = SendingQueue(
            lock,
            index,
            files,
            self._arrivals,
            self.receipts,
            self._departure,
            self.holdings.open_object,
        )
        self.deliveries = Deliveries(lock, index, self._departure.settle)
        self.entrance = Entrance(
            lock,
            index,
            files,
            rows,
            self._arrivals,
            self.scanners,
            self.room,
            self.quarantine,
            keys=keys,
            aead=aead,
            coding=coding,
            on_stored=on_stored,
            complete=complete,
        )
        self._arrivals.start()

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        reserve_bytes: int,
        quarantine_max_bytes: int,
        keys: DataKeyRing | None,
        aead: Aead | None = None,
        coding: Coding = Coding.PACE,
        on_stored: Callable[[Label], None] = lambda _: None,
        low_water_bytes: int = 0,
        retain: timedelta = timedelta(0),
        on_low_water: Callable[[], None] = lambda: None,
        route: Route = to_central_alone,
        rank: Rank = as_routine,
        complete: Callable[[Label], Label] = lambda label: label,
        copies: Collection[str] = (),
    ) -> Spool:
        """Take the directory over and repair what the last life left; `recovery` says what that was.

        Parameters
        ----------
        root : made with mode 0700 if it is not there.
        reserve_bytes : room that must stay free on the file system; below it nothing is taken in.
        quarantine_max_bytes : bound on what is kept of instances no sender was told success for.
        keys : None before enrolment; `Entrance.set_keys` later.
        aead : None to choose by the processor.
        coding : what decides whether pixels are coded as images.
        on_stored : called after each instance that became durable, on the thread that received it; must not block.
        low_water_bytes : below it what is retained goes, oldest first; the reserve counts where it is higher.
        retain : how long after its arrival an object stays although central has it.
        on_low_water : called on a receiving thread that finds less than the low-water mark; must not block.
        route : to which destinations beside central an instance goes; asked when its row is made, must not block.
        rank : how urgent it is; the same.
        copies : destinations that are centrals: what they do not have is not at central.
        complete : adds what is known of an instance that became durable, before its row is made; the same.

        Raises
        ------
        SpoolInUseError, IndexUnreadableError, StorageFailedError
        OSError : the directory cannot be made or written.
        """
        files = SpoolFiles(root)
        try:
            index, rebuilt = open_index(root / "index.sqlite3", reserve_bytes=reserve_bytes)
            try:
                rows = NewRows(index, route, rank)
                report = recover(files, index, rows, index_rebuilt=rebuilt)
                forget_receipts(index)
            except BaseException:
                index.close()
                raise
        except BaseException:
            files.close()
            raise
        if report != RecoveryReport():
            _LOG.warning("the spool was repaired at start-up", extra=vars(report))
        return cls(
            files,
            index,
            rows,
            report,
            reserve_bytes=reserve_bytes,
            low_water_bytes=low_water_bytes,
            retain=retain,
            quarantine_max_bytes=quarantine_max_bytes,
            keys=keys,
            aead=aead or choose_aead(),
            coding=coding,
            on_stored=on_stored,
            on_low_water=on_low_water,
            complete=complete,
            copies=copies,
        )

    def owed_to(self, central: str) -> DeliveryQueue:
        """What a further central is owed, to be lent to its forwarder."""
        receipts = self.receipts_of_copy(central)
        return DeliveryQueue(
            central,
            self._lock,
            self._index,
            self.deliveries,
            receipts,
            self._departure.settle,
            self.holdings.open_object,
        )

    def receipts_of_copy(self, central: str) -> CopyReceipts:
        """Those of a further central that gets a copy, and what becomes of objects it has lost."""
        return CopyReceipts(central, self._lock, self._index, self._files)

    def lost_studies(self) -> list[LostStudy]:
        """What a central signed for and lost and is not here: the first's, then that of each that gets a copy."""
        found = self.receipts.lost()
        for central in sorted(self._copies):
            found += self.receipts_of_copy(central).lost()
        return found

    def close(self) -> None:
        """Wake whoever waits and let the directory go. Receptions still open fail when they commit."""
        if not self._lock.close():
            return
        self._arrivals.stop()
        with self._lock.changed, ExitStack() as ending, self._index.translated():
            ending.callback(self._files.close)
            ending.callback(self._index.close)
            ending.callback(self.entrance.close)
            self._arrivals.bring_in()
            self.scanners.flush()
