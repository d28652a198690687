"""The durable spool: takes instances from scanners, lends them to the sender, frees them against a receipt.

Always true: an instance whose `Reception.commit` returned is on the disk, sealed, with a committed row; it
leaves the disk only after `acknowledge` took central's verified receipt, and no other destination waits for it. The
files are the truth and the index is made of their labels. One process owns a spool directory; within it every method
is safe from any thread. A crash leaves what `edge.buffer.recovery` repairs.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from contract.identifiers import ObjectId
from contract.priority import Priority
from contract.sealed_object import Aead
from contract.sealing import DataKeyRing
from edge.buffer.arrivals import BATCH, LINGER_S, Arrivals
from edge.buffer.catalogue import Present, present
from edge.buffer.coding import choose_aead
from edge.buffer.coding_pace import Coding, CodingPace
from edge.buffer.copy_receipts import CopyReceipts
from edge.buffer.damage import condemn, find_damage, sealed_after, sealed_row
from edge.buffer.deliveries import Deliveries
from edge.buffer.delivery_queue import DeliveryQueue
from edge.buffer.departure import forget_lost_twins, is_owed, replace_damaged_twins
from edge.buffer.desk import Desk
from edge.buffer.errors import (
    DiskFullError,
    SpoolClosedError,
    TransientSpoolError,
    UnknownObjectError,
    WrongStateError,
    storage_error,
)
from edge.buffer.files import Place, SpoolFiles
from edge.buffer.forecast import RoomHistory
from edge.buffer.index import SpoolIndex
from edge.buffer.label import Label
from edge.buffer.listing import (
    newest_received_behind,
    object_rows,
    oldest_unsent_at_utc,
    received_since,
    retained_bytes,
    tallies,
)
from edge.buffer.new_rows import NewRow, NewRows, Rank, Route, as_routine, to_central_alone
from edge.buffer.order import ClaimOrder, Waiting
from edge.buffer.quarantine import evict
from edge.buffer.receipts import LostStudy, Receipts, forget_receipts
from edge.buffer.reception import Reception
from edge.buffer.records import (
    Claimed,
    Depth,
    Disk,
    InstanceIdentity,
    ObjectRow,
    Origin,
    ReceivedRow,
    RecoveryReport,
    ScannerSeen,
    SealedRow,
)
from edge.buffer.recovery import open_index, recover
from edge.buffer.remote_spool import Terms
from edge.buffer.retention import Freed, Freeing, choose, free, free_all, stays
from edge.buffer.scanners import ScannerBook
from edge.buffer.sealed_file import SealedBytes
from edge.buffer.standing import Standing, standing
from edge.buffer.states import (
    ACKNOWLEDGE,
    CONDEMN,
    FREE,
    FREED_IF_LOST,
    OWE,
    RELEASE,
    REQUEUE,
    RETAIN,
    SET_ASIDE,
    SETTLE,
    State,
)
from edge.buffer.tables import utc_from_text, utc_text

_PRUNE_EVERY_S = 3600.0
_TRY_ROWS_AGAIN_S = 1.0
_RESERVE_FILES = (128, 1024)  # at least two batches of names; a hundredth of a file system in between
_READ_BYTES = 1 << 17
_RESTORED_OBJECTS = 10_000
_RESTORED_AT_ONCE = 500
_RANKED_AT_ONCE = 64  # studies; a reception waits for no more
_UNTRIED = "UPDATE objects SET attempts = attempts - 1 WHERE object_id = ?"
_LOG = logging.getLogger(__name__)


class Spool:
    """See the module. Made by `open`.

    Attributes
    ----------
    deliveries : what is owed to other destinations than central, and how that stands.
    receipts : those central gave, as long as they are kept, and what becomes of objects it has lost.
    pace : decides how tightly an instance is coded; whoever knows the line tells it whether that is slow.
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
        self.reserve_bytes = reserve_bytes
        self.retain = retain
        self._low_water_bytes = low_water_bytes
        self._on_low_water = on_low_water
        self._room = RoomHistory()
        self._making_room = threading.Lock()
        self._refusing = False
        self._touched_at_s = float("-inf")
        self._files = files
        self._index = index
        self._rows = rows
        self._arrivals = Arrivals(index, rows)
        self._order = ClaimOrder(index)
        self._book = ScannerBook(index)
        self._quarantine_max_bytes = quarantine_max_bytes
        self._aead = aead
        self._coding = coding
        self.pace = CodingPace(coding)
        self._desk = Desk(self, files.new_file, self.pace, aead, keys)
        self._on_stored = on_stored
        self._complete = complete
        self._copies = frozenset(copies)
        self._closed = False
        self._turn = 0  # of whoever took the lock
        # Turn, SOP instance and hash that were not here then.
        self._absent: tuple[int, str, str] | None = None
        self._received = 0
        self._pruned_at_s = time.monotonic()
        # Guards index, book and every move of a sealed file; notified when something may be claimable.
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self.deliveries = Deliveries(index, self._held, self._changed, self._settle)
        self.receipts = Receipts(index, files, self._held, self._changed)
        self._arrived = threading.Condition(lock)
        self._index_takes_rows = True
        self._row_writer = threading.Thread(target=self._write_rows, name="spool-rows", daemon=True)
        self._row_writer.start()

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
        keys : None before enrolment; `set_keys` later.
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
            rows = NewRows(index, route, rank)
            try:
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

    def set_keys(self, keys: DataKeyRing) -> None:
        """Seal for these recipients from the next instance on."""
        self._desk.keys = keys

    # Reception ------------------------------------------------------------------------------------------

    def receive(self, origin: Origin) -> Reception:
        """Begin an instance. Parallel receptions do not wait for each other until they commit.

        Raises
        ------
        NotEnrolledError, DiskFullError, StorageFailedError, SpoolClosedError
        """
        if self._closed:
            raise SpoolClosedError
        return self._desk.begin(origin)

    def prepare(self, origin: Origin) -> None:
        """Have a file open and a key derived for the next instance, while its scanner gets it ready. Raises nothing."""
        if not self._closed:
            self._desk.prepare(origin)

    def terms(self) -> Terms:
        """For processes that receive for this one."""
        keys = self._desk.keys
        return Terms(
            root=str(self._files.root),
            direct=self._files.takes_direct_writes,
            reserve_bytes=self.reserve_bytes,
            mark_bytes=max(self.reserve_bytes, self._low_water_bytes),
            aead=self._aead,
            coding=self._coding,
            line_is_slow=self.pace.line_is_slow(),
            recipients=keys.recipients if keys else (),
        )

    def take_names(self, count: int) -> list[ObjectId]:
        """For the same: empty files with durable names, at most `count`. StorageFailedError, DiskFullError."""
        if self._closed:
            raise SpoolClosedError
        try:
            return self._files.take_names(count)
        except OSError as error:
            raise storage_error(error, reserve_bytes=self.reserve_bytes) from error

    def give_back(self, names: list[ObjectId]) -> None:
        """Of those, what was not used."""
        with self._locked():
            self._files.give_back(names)

    def sweep(self, names: Collection[ObjectId]) -> None:
        """Delete, of those, what a process that is gone left unfinished; whatever has a row stays."""
        with self._held():
            unknown = [one for one in names if self._index.was_freed(one) is None]
            torn = sum(self._files.size_of(one) > 0 for one in unknown)
            for object_id in unknown:
                self._unlink_freed(object_id)
        if torn:
            _LOG.warning("half-received images of a process that ended are deleted", extra={"files": torn})

    def check_room(self) -> None:
        """DiskFullError when less than the reserve is free, and nothing retained is left to free for it."""
        self._touched_at_s = time.monotonic()
        disk = self._measure()
        if not disk.accepting:
            disk = self._make_room()
        if not disk.accepting:
            self._note_refusing(disk)
            free_files = disk.free_files if disk.free_files < disk.reserve_files else None
            raise DiskFullError(
                free_bytes=disk.free_bytes, reserve_bytes=disk.reserve_bytes, free_files=free_files
            )
        if self._refusing:
            self._note_refusing(disk)
        if disk.low_by_bytes or disk.low_by_files:
            self._on_low_water()

    def _make_room(self) -> Disk:
        """Free what is retained until the reserve is there again, and a little more: not at every instance.

        One thread does it for all that wait.
        """
        with self._making_room:
            disk = self._measure()
            while not disk.accepting:
                freed = free_all(
                    self,
                    Freeing(
                        want_bytes=max(0, disk.reserve_bytes * 9 // 8 - disk.free_bytes),
                        want_files=max(0, disk.reserve_files * 9 // 8 - disk.free_files),
                    ),
                )
                disk = self._measure()
                if not freed.objects:
                    break
            return disk

    def _note_refusing(self, disk: Disk) -> None:
        """Say once that it began, and once that it is over: a full disk must not fill the log."""
        with self._making_room:
            began, ended = not disk.accepting and not self._refusing, disk.accepting and self._refusing
            self._refusing = not disk.accepting
        if began:
            _LOG.error("the disk is full: scanners are told to send later", extra=vars(disk))
        elif ended:
            _LOG.warning("there is room again: images are taken in", extra=vars(disk))

    def duplicate_of(self, sop_instance_uid: str, sha256: str) -> ObjectId | None:
        """For `Reception`: an object on its way to central that holds these very bytes."""
        with self._locked():
            known = self._arrivals.find(sop_instance_uid, sha256)
            self._absent = None if known else (self._turn, sop_instance_uid, sha256)
            return known

    def register(self, label: Label, identity: InstanceIdentity) -> ObjectId:
        """For `Reception`: take a durable file among the arrivals, or point at the duplicate that got here first."""
        with self._locked():
            # Asked before the sync. Where nobody has had the lock since, the answer holds.
            asked = (self._turn - 1, identity.sop_instance_uid, label.sha256)
            known = (
                None
                if self._absent == asked
                else self._arrivals.find(identity.sop_instance_uid, label.sha256)
            )
            if known is None:
                self._arrivals.add(self._complete(label))
                if len(self._arrivals) in (1, BATCH):
                    self._arrived.notify()
            self._book.note_store(
                label.origin, instances=0 if known else 1, size_bytes=0 if known else label.size_bytes
            )
            self._received += 1
            self._touched_at_s = time.monotonic()
        try:
            self._on_stored(label)
        except Exception:
            # It is among the arrivals: were its file given up now, a resend would be the duplicate of nothing.
            _LOG.exception("nobody was told of a stored instance", extra={"object_id": label.object_id})
        return known or label.object_id

    def _write_rows(self) -> None:
        """On a thread of its own: bring arrivals into the index, then wake those who send."""
        with self._changed:
            while not self._closed:
                self._arrived.wait_for(lambda: self._arrivals or self._closed)
                self._arrived.wait_for(lambda: len(self._arrivals) >= BATCH or self._closed, LINGER_S)
                if not self._flush_arrivals():
                    self._arrived.wait_for(lambda: self._closed, _TRY_ROWS_AGAIN_S)

    def _flush_arrivals(self) -> bool:
        """Bring arrivals into the index and wake those who send; False if it takes none now.

        They wait on then: their files are durable.
        """
        try:
            if self._arrivals.flush():
                self._changed.notify_all()
        except TransientSpoolError as error:
            if self._index_takes_rows:
                _LOG.error("the spool's index takes no rows", extra={"reason": str(error)})
            self._index_takes_rows = False
        else:
            self._index_takes_rows = True
        return self._index_takes_rows

    def register_quarantined(self, label: Label) -> None:
        """For `Reception`: move a durable file to quarantine, commit its row, keep quarantine in bounds."""
        with self._held():
            self._files.move(label.object_id, Place.QUARANTINE)
            with self._index.transaction():
                self._rows.insert([NewRow(label, success_answered=False)])
                evicted = evict(self._index, max_bytes=self._quarantine_max_bytes)
            for gone in evicted:
                self._unlink_freed(gone)
                _LOG.warning("evicted from quarantine", extra={"object_id": gone})

    # Sending --------------------------------------------------------------------------------------------

    def claim(self, *, lease_s: float) -> Claimed | None:
        """Lease the one object that goes next (`edge.buffer.order`); None if nothing's time has come.

        A lease that runs out makes the object claimable again, so a sender that hangs stalls nothing.
        """
        return next(iter(self.claim_several(lease_s=lease_s, max_objects=1, max_bytes=0)), None)

    def claim_several(
        self,
        *,
        lease_s: float,
        max_objects: int,
        max_bytes: int,
        these: Collection[ObjectId] = (),
        opened_by: Collection[str] = (),
    ) -> list[Claimed]:
        """The same of objects that go together: one whatever its size, more as far as all fit `max_bytes` sealed.

        Parameters
        ----------
        these : exactly these, whether their time has come or not, or none of them.
        opened_by : key ids; only what was sealed for one of them beside the first central's. Empty: everything.
        """
        now_s = time.monotonic()
        with self._held():
            if these:
                return self._order.claim_these(these, now_s=now_s, lease_s=lease_s)
            return self._order.claim(
                now_s=now_s,
                lease_s=lease_s,
                max_objects=max_objects,
                max_bytes=max_bytes,
                opened_by=opened_by,
            )

    def prioritise(self, study_instance_uid: str, priority: Priority = Priority.FIRST) -> int:
        """A person's decision about a study, which wins over rules and orders, for what comes of it later, too.

        How many objects of it wait; where none does, nothing is kept. Survives a restart.
        """
        with self._held():
            return self._order.prioritise(study_instance_uid, priority)

    def rank_again(self, priority_of: Callable[[Waiting], Priority], studies: Collection[str]) -> int:
        """Orders of these studies came, or changed: rank anew what waits of them. How many objects that moved."""
        moved = 0
        named = list(studies)
        for at in range(0, len(named), _RANKED_AT_ONCE):
            with self._held():
                moved += self._order.rank_again(priority_of, named[at : at + _RANKED_AT_ONCE])
        return moved

    def owed_to(self, central: str) -> DeliveryQueue:
        """What a further central is owed, to be lent to its forwarder."""
        receipts = self.receipts_of_copy(central)
        return DeliveryQueue(
            central, self._index, self.deliveries, self._held, self._settle, self.open_object, receipts
        )

    def receipts_of_copy(self, central: str) -> CopyReceipts:
        """Those of a further central that gets a copy, and what becomes of objects it has lost."""
        return CopyReceipts(central, self._index, self._files, self._held, self._changed)

    def lost_studies(self) -> list[LostStudy]:
        """What a central signed for and lost and is not here: the first's, then that of each that gets a copy."""
        found = self.receipts.lost()
        for central in sorted(self._copies):
            found += self.receipts_of_copy(central).lost()
        return found

    def wait_for_work(self, timeout_s: float | None, opened_by: Collection[str] = ()) -> bool:
        """Block until `claim` would give something (True), the timeout passes or the spool closes (False)."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed, self._index.translated():
            while not self._closed:
                self._flush_arrivals()
                now_s = time.monotonic()
                due_s = self._order.earliest_due_s(opened_by)
                if due_s is not None and due_s <= now_s:
                    return True
                if deadline_s is not None and deadline_s <= now_s:
                    return False
                moments = [moment for moment in (due_s, deadline_s) if moment is not None]
                self._changed.wait(min(moments) - now_s if moments else None)
        return False

    def open_object(self, object_id: ObjectId) -> BinaryIO:
        """The sealed bytes, from the start. UnknownObjectError if they are not here."""
        with self._held():
            row = self._index.find(object_id)
            file = self._files.open_file(object_id) if row else None
        if row is None or file is None:
            raise UnknownObjectError(object_id)
        return io.BufferedReader(SealedBytes(file, row["stored_bytes"]), _READ_BYTES)

    def acknowledge(self, object_id: ObjectId, receipt: str) -> None:
        """Keep central's receipt, which the caller has verified, and free the file or retain it for a while.

        Raises
        ------
        UnknownObjectError, WrongStateError
        """
        self.acknowledge_all([(object_id, receipt)])

    def acknowledge_all(self, receipts: Sequence[tuple[ObjectId, str]]) -> None:
        """The same of several objects, with one sync: all of them, or none. Raises as `acknowledge`."""
        with self._held():
            first = 1 + self.receipts.newest_number()
            with self._index.transaction():
                for number, (object_id, receipt) in enumerate(receipts, first):
                    self._index.step_within(
                        object_id, ACKNOWLEDGE, receipt=receipt, receipt_number=number, last_error=None
                    )
            # The receipts are durable from here on; a crash leaves the rest of this to recovery.
            self._let_go([object_id for object_id, _ in receipts])
            for object_id, _ in receipts:
                for twin in replace_damaged_twins(self._index, object_id):
                    self._unlink_freed(twin)
                forget_lost_twins(self._index, object_id)
            if time.monotonic() - self._pruned_at_s >= _PRUNE_EVERY_S:
                self._pruned_at_s = time.monotonic()
                forget_receipts(self._index)

    def _let_go(self, object_ids: Collection[ObjectId]) -> None:
        """Central has them: each stays for whom it is owed to, or for the site, or goes."""
        freed = []
        with self._index.transaction(durable=False):
            for object_id in object_ids:
                if is_owed(self._index, object_id):
                    self._index.step_within(object_id, OWE)
                elif self.retain and self._stays(object_id):
                    self._index.step_within(object_id, RETAIN)
                else:
                    self._index.step_within(object_id, FREE, freed_at_utc=utc_text(datetime.now(UTC)))
                    freed.append(object_id)
        for object_id in freed:
            self._unlink_freed(object_id)

    def _settle(self, object_ids: Collection[ObjectId]) -> None:
        """A delivery of each has ended, durably; under the lock."""
        for object_id in object_ids:
            row = self._index.find(object_id)
            if row is not None and row["state"] == State.OWED and not is_owed(self._index, object_id):
                self._index.step(object_id, SETTLE, durable=False)
                self._let_go([object_id])

    def release(self, object_id: ObjectId, *, error: str, retry_in_s: float, untried: bool = False) -> None:
        """Give a claimed object back; it can be claimed again after `retry_in_s`.

        `untried`: nothing of it was sent, so that this was no attempt.
        """
        with self._held():
            with self._index.transaction(durable=False):
                self._index.step_within(
                    object_id, RELEASE, last_error=error, due_s=time.monotonic() + retry_in_s
                )
                if untried:
                    self._index.execute(_UNTRIED, (object_id,))
            self._changed.notify_all()

    def set_aside(self, object_id: ObjectId, *, reason: str) -> None:
        """Quarantine a claimed object central refuses for good. Its sender was told success: it is kept."""
        with self._held():
            self._index.step(object_id, SET_ASIDE, last_error=reason)
            self._files.move(object_id, Place.QUARANTINE)

    def requeue(self, object_id: ObjectId) -> None:
        """Put a quarantined object that was acknowledged to its sender back into the queue, due at once.

        One that was found damaged is read again first, in the caller's time.

        Raises
        ------
        UnknownObjectError : there is no such object, or its file is missing.
        WrongStateError : not in quarantine, never acknowledged, never identified, or damaged.
        """
        with self._held():
            row = self._index.find(object_id)
            if row is not None and not row["sha256"]:
                raise WrongStateError(object_id, step=REQUEUE.name, found="a file the index does not know")
            self.open_object(object_id).close()
        if row is not None and row["damaged"]:
            self._check_sound(sealed_row(row))
        with self._held():
            self._index.step(object_id, REQUEUE, due_s=0.0, damaged=False)
            self._files.move(object_id, Place.OBJECTS)
            self._changed.notify_all()

    def _check_sound(self, row: SealedRow) -> None:
        file = self.open_file(row.object_id)
        if file is None:
            raise UnknownObjectError(row.object_id)
        with file:
            damage = find_damage(file, row)
        if damage is not None:
            raise WrongStateError(row.object_id, step=REQUEUE.name, found=f"damaged: {damage}")

    # Room and upkeep -------------------------------------------------------------------------------------

    def _stays(self, object_id: ObjectId) -> bool:
        row = self._index.find(object_id)
        return row is not None and stays(utc_from_text(row["received_at_utc"]), self._measure(), self.retain)

    def free_retained(self, freeing: Freeing) -> Freed:
        """For `edge.buffer.retention`: free one batch of what central has and the site kept."""
        with self._held():
            chosen = choose(self._index, freeing)
            if chosen:
                free(self._index, chosen)
            for object_id in chosen:
                self._unlink_freed(object_id)
        return Freed(len(chosen), sum(chosen.values()))

    def note_room(self) -> None:
        """Let the forecast learn; to be called every few minutes."""
        disk = self._measure()
        with self._held():
            self._room.note(time.monotonic(), self._room_bytes(disk))

    def _room_bytes(self, disk: Disk) -> int:
        """What may still be filled: free above the reserve, or free at once when it is wanted."""
        return disk.free_bytes - disk.reserve_bytes + retained_bytes(self._index)

    # Scrubbing -------------------------------------------------------------------------------------------

    @property
    def quiet_s(self) -> float:
        """How long no instance has begun, grown by much, or become durable."""
        return time.monotonic() - self._touched_at_s

    def sealed_after(self, sequence: int, *, limit: int) -> list[SealedRow]:
        """For `edge.buffer.scrub`: objects from behind `sequence`, in the order they came."""
        with self._held():
            return sealed_after(self._index, sequence, limit=limit)

    def last_sequence(self) -> int:
        """The newest object's place in the order."""
        with self._held():
            return self._index.last_sequence()

    def open_file(self, object_id: ObjectId) -> BinaryIO | None:
        """The whole file, label and all; None if it is not here."""
        with self._held():
            return self._files.open_file(object_id)

    def condemn(self, object_id: ObjectId, reason: str) -> State | None:
        """The disk has damaged or lost an object's file: out of the queue with it; its new state.

        None where nothing was to be done: it was freed meanwhile, or is being sent, and then central finds out.
        What central has is freed; anything else is kept for a person.
        """
        with self._held():
            row = self._index.find(object_id)
            state = State(row["state"]) if row else State.FREED
            if state not in (*FREED_IF_LOST, *CONDEMN.from_states):
                return None
            step = condemn(self._index, object_id, state, reason)
            if step.to is State.FREED:
                self._unlink_freed(object_id)
            elif self._files.place_of(object_id) is not None:
                self._files.move(object_id, Place.QUARANTINE)
            return step.to

    # What is here ---------------------------------------------------------------------------------------

    def depth(self) -> Depth:
        """Cheap: reads live rows through one index."""
        with self._held():
            return Depth(
                by_state=tallies(self._index),
                received_since_open=self._received,
                oldest_unsent_at_utc=oldest_unsent_at_utc(self._index),
                last_received_at_utc=self._book.last_store_at_utc(),
            )

    def list_objects(self, *, states: Collection[State], limit: int) -> list[ObjectRow]:
        """Objects in any of `states`, oldest first."""
        with self._held():
            return object_rows(self._index, states=states, limit=limit)

    def received_since(self, moment: datetime | None) -> Iterator[ReceivedRow]:
        """What is still here of what came in since then (None: ever), the newest 10,000 of it, oldest first.

        A page at a time: a box that starts with a long queue must not hold it in memory.
        """
        since_utc = "" if moment is None else utc_text(moment)
        with self._held():
            after = newest_received_behind(self._index, since_utc, _RESTORED_OBJECTS)
        while True:
            with self._held():
                page = received_since(self._index, since_utc, after=after, limit=_RESTORED_AT_ONCE)
            yield from page
            if len(page) < _RESTORED_AT_ONCE:
                return
            after = page[-1].sequence

    def standing(self, sop_instance_uids: Collection[str]) -> Mapping[str, Standing]:
        """How safe these instances are; what is not in the answer is not here."""
        with self._held():
            return standing(self._index, sop_instance_uids, self._copies)

    def present(self, *, after: int, limit: int) -> list[Present]:
        """Identified objects that are still here, behind sequence number `after`, in the order they came."""
        with self._held():
            return present(self._index, after=after, limit=limit)

    def scanners_seen(self) -> list[ScannerSeen]:
        """Everyone who called this box, latest first."""
        with self._held():
            return self._book.all()

    def note_rejection(self, calling_ae_title: str, peer_address: str, reason: str) -> None:
        """Remember a refusal for the technician. `calling_ae_title` is empty where it was never learnt."""
        with self._changed:
            self._book.note_rejection(calling_ae_title, peer_address, reason)

    def disk(self) -> Disk:
        """Room on the spool's file system, and how long it will last."""
        disk = self._measure()
        if not disk.accepting:
            return replace(disk, hours_to_full=0.0)
        with self._held():
            room_bytes = self._room_bytes(disk)
        return replace(disk, hours_to_full=self._room.hours_to_full(room_bytes))

    def _measure(self) -> Disk:
        room = self._files.room()
        return Disk(
            total_bytes=room.total_bytes,
            free_bytes=room.free_bytes,
            reserve_bytes=self.reserve_bytes,
            low_water_bytes=self._low_water_bytes,
            free_files=room.free_files if room.total_files else 0,
            reserve_files=_reserve_files(room.total_files),
        )

    def close(self) -> None:
        """Wake whoever waits and let the directory go. Receptions still open fail when they commit."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            self._arrived.notify_all()
        self._row_writer.join()
        with self._changed, ExitStack() as ending, self._index.translated():
            ending.callback(self._files.close)
            ending.callback(self._index.close)
            ending.callback(self._desk.close)
            self._flush_arrivals()
            self._book.flush()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The lock, on an open spool whose index knows all that arrived; failures come out in this room's terms."""
        with self._locked():
            if self._arrivals:
                self._flush_arrivals()
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock alone: what arrived may not be in the index yet."""
        with self._changed:
            if self._closed:
                raise SpoolClosedError
            self._turn += 1
            try:
                with self._index.translated():
                    yield
            except OSError as error:
                raise storage_error(error, reserve_bytes=self.reserve_bytes) from error

    def _unlink_freed(self, object_id: ObjectId) -> None:
        """Give the room back. The row says freed already, so a failure here is recovery's to repair."""
        try:
            self._files.unlink(object_id)
        except OSError as error:
            _LOG.warning(
                "could not delete a freed file", extra={"object_id": object_id, "reason": error.strerror}
            )


def _reserve_files(total_files: int) -> int:
    """How many files more must fit; 0 on a file system that has no bound for them."""
    least, most = _RESERVE_FILES
    return max(least, min(most, total_files // 100)) if total_files else 0
