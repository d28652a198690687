"""The durable spool: takes instances from scanners, lends them to the sender, frees them against a receipt.

Always true: an instance whose `Reception.commit` returned is on the disk, sealed, with a committed row; it
leaves the disk only through `acknowledge`, which takes central's verified receipt. One process owns a spool
directory; within it every method is safe from any thread. A crash leaves what `edge.buffer.recovery` repairs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from contract.identifiers import ObjectId, new_object_id
from contract.sealed_object import Aead, Content, SealedObjectWriter
from contract.sealing import DataKeyRing
from edge.buffer.coding import ZSTD_LEVEL, choose_aead, choose_codec
from edge.buffer.errors import (
    DiskFullError,
    NotEnrolledError,
    SpoolClosedError,
    UnknownObjectError,
    WrongStateError,
    storage_error,
)
from edge.buffer.files import Place, SpoolFiles
from edge.buffer.index import SpoolIndex
from edge.buffer.reception import Reception
from edge.buffer.records import (
    Claimed,
    Depth,
    Disk,
    InstanceIdentity,
    ObjectRow,
    Origin,
    RecoveryReport,
    ScannerSeen,
)
from edge.buffer.recovery import open_index, recover
from edge.buffer.scanners import ScannerBook
from edge.buffer.states import ACKNOWLEDGE, FREE, RELEASE, REQUEUE, SET_ASIDE, State
from edge.buffer.tables import utc_text

RECEIPTS_KEPT = timedelta(days=30)
"""As long as a radiology department takes to ask where a study went; 1,000,000 receipts are about 1 GB."""

_PRUNE_EVERY_S = 3600.0
_LOG = logging.getLogger(__name__)


class Spool:
    """See the module. Made by `open`."""

    def __init__(
        self,
        files: SpoolFiles,
        index: SpoolIndex,
        recovery: RecoveryReport,
        *,
        reserve_bytes: int,
        quarantine_max_bytes: int,
        keys: DataKeyRing | None,
        aead: Aead,
        on_stored: Callable[[], None],
    ) -> None:
        self.recovery = recovery
        self.reserve_bytes = reserve_bytes
        self._files = files
        self._index = index
        self._book = ScannerBook(index)
        self._quarantine_max_bytes = quarantine_max_bytes
        self._keys = keys
        self._aead = aead
        self._on_stored = on_stored
        self._closed = False
        self._received = 0
        self._pruned_at_s = time.monotonic()
        # Guards index, book and every move of a sealed file; notified when something may be claimable.
        self._changed = threading.Condition(threading.RLock())

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        reserve_bytes: int,
        quarantine_max_bytes: int,
        keys: DataKeyRing | None,
        aead: Aead | None = None,
        on_stored: Callable[[], None] = lambda: None,
    ) -> Spool:
        """Take the directory over and repair what the last life left; `recovery` says what that was.

        Parameters
        ----------
        root : made with mode 0700 if it is not there.
        reserve_bytes : room that must stay free on the file system; below it nothing is taken in.
        quarantine_max_bytes : bound on what is kept of instances no sender was told success for.
        keys : None before enrolment; `set_keys` later.
        aead : None to choose by the processor.
        on_stored : called after each instance that became durable, on the thread that received it; must not block.

        Raises
        ------
        SpoolInUseError, IndexUnreadableError, StorageFailedError
        OSError : the directory cannot be made or written.
        """
        files = SpoolFiles(root)
        try:
            path = root / "index.sqlite3"
            was_there = path.exists()
            index, rebuilt = open_index(path, reserve_bytes=reserve_bytes)
            try:
                report = recover(files, index, index_is_new=rebuilt or not was_there, index_rebuilt=rebuilt)
                index.prune_freed(older_than=RECEIPTS_KEPT)
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
            report,
            reserve_bytes=reserve_bytes,
            quarantine_max_bytes=quarantine_max_bytes,
            keys=keys,
            aead=aead or choose_aead(),
            on_stored=on_stored,
        )

    def set_keys(self, keys: DataKeyRing) -> None:
        """Seal for these recipients from the next instance on."""
        self._keys = keys

    # Reception ------------------------------------------------------------------------------------------

    def receive(self, origin: Origin) -> Reception:
        """Begin an instance. Parallel receptions do not wait for each other until they commit.

        Raises
        ------
        NotEnrolledError, DiskFullError, StorageFailedError, SpoolClosedError
        """
        keys = self._keys
        if keys is None:
            raise NotEnrolledError
        if self._closed:
            raise SpoolClosedError
        self.check_room()
        object_id = new_object_id()
        data_key = keys.current()
        codec = choose_codec(origin.transfer_syntax_uid)
        return Reception(
            object_id,
            origin,
            self._files,
            self,
            lambda file: SealedObjectWriter(file, object_id, data_key, self._aead, codec, ZSTD_LEVEL),
        )

    def check_room(self) -> None:
        """DiskFullError when less than the reserve is free."""
        disk = self.disk()
        if not disk.accepting:
            raise DiskFullError(free_bytes=disk.free_bytes, reserve_bytes=disk.reserve_bytes)

    def duplicate_of(self, sop_instance_uid: str, sha256: str) -> ObjectId | None:
        """For `Reception`: an object on its way to central that holds these very bytes."""
        with self._held():
            return self._index.duplicate_of(sop_instance_uid, sha256)

    def register(
        self,
        object_id: ObjectId,
        origin: Origin,
        identity: InstanceIdentity,
        content: Content,
        stored_bytes: int,
    ) -> ObjectId:
        """For `Reception`: commit the row of a durable file, or point at the duplicate that got here first."""
        with self._held():
            with self._index.transaction():
                known = self._index.duplicate_of(identity.sop_instance_uid, content.sha256)
                if known is None:
                    self._index.insert(
                        object_id,
                        state=State.READY,
                        success_answered=True,
                        origin=origin,
                        identity=identity,
                        sha256=content.sha256,
                        size_bytes=content.size_bytes,
                        stored_bytes=stored_bytes,
                    )
                self._book.note_store(
                    origin,
                    instances=0 if known else 1,
                    size_bytes=0 if known else content.size_bytes,
                )
            self._received += 1
            self._changed.notify_all()
        self._on_stored()
        return known or object_id

    def register_quarantined(
        self, object_id: ObjectId, origin: Origin, content: Content, stored_bytes: int, reason: str
    ) -> None:
        """For `Reception`: commit the row of a durable file in quarantine, then keep quarantine in bounds."""
        with self._held():
            with self._index.transaction():
                self._index.insert(
                    object_id,
                    state=State.QUARANTINED,
                    success_answered=False,
                    origin=origin,
                    identity=None,
                    sha256=content.sha256,
                    size_bytes=content.size_bytes,
                    stored_bytes=stored_bytes,
                    last_error=reason,
                )
                evicted = self._index.evict(max_bytes=self._quarantine_max_bytes)
            for gone in evicted:
                self._unlink_freed(gone)
                _LOG.warning("evicted from quarantine", extra={"object_id": gone})

    # Sending --------------------------------------------------------------------------------------------

    def claim(self, *, lease_s: float) -> Claimed | None:
        """Lease the oldest object whose time has come; None if there is none.

        A lease that runs out makes the object claimable again, so a sender that hangs stalls nothing.
        """
        with self._held():
            return self._index.claim_next(now_s=time.monotonic(), lease_s=lease_s)

    def wait_for_work(self, timeout_s: float | None) -> bool:
        """Block until `claim` would give something (True), the timeout passes or the spool closes (False)."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed, self._index.translated():
            while not self._closed:
                now_s = time.monotonic()
                due_s = self._index.earliest_due_s()
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
            file = self._files.open_sealed(object_id)
        if file is None:
            raise UnknownObjectError(object_id)
        return file

    def acknowledge(self, object_id: ObjectId, receipt: str) -> None:
        """Keep central's receipt, which the caller has verified, and free the file.

        Raises
        ------
        UnknownObjectError, WrongStateError
        """
        with self._held():
            self._index.step(object_id, ACKNOWLEDGE, receipt=receipt, last_error=None)
            # The receipt is durable from here on; a crash leaves the rest of this to recovery.
            self._index.step(object_id, FREE, freed_at_utc=utc_text(datetime.now(UTC)))
            self._unlink_freed(object_id)
            if time.monotonic() - self._pruned_at_s >= _PRUNE_EVERY_S:
                self._pruned_at_s = time.monotonic()
                self._index.prune_freed(older_than=RECEIPTS_KEPT)

    def release(self, object_id: ObjectId, *, error: str, retry_in_s: float) -> None:
        """Give a claimed object back; it can be claimed again after `retry_in_s`."""
        with self._held():
            self._index.step(object_id, RELEASE, last_error=error, due_s=time.monotonic() + retry_in_s)
            self._changed.notify_all()

    def set_aside(self, object_id: ObjectId, *, reason: str) -> None:
        """Quarantine a claimed object central refuses for good. Its sender was told success: it is kept."""
        with self._held():
            self._index.step(object_id, SET_ASIDE, last_error=reason)
            self._files.move(object_id, Place.QUARANTINE)

    def requeue(self, object_id: ObjectId) -> None:
        """Put a quarantined object that was acknowledged to its sender back into the queue, due at once.

        Raises
        ------
        UnknownObjectError : there is no such object, or its file is missing.
        WrongStateError : not in quarantine, never acknowledged, or never identified.
        """
        with self._held():
            row = self._index.find(object_id)
            if row is not None and row["sha256"] is None:
                raise WrongStateError(object_id, step=REQUEUE.name, found="a file the index does not know")
            self.open_object(object_id).close()
            self._index.step(object_id, REQUEUE, due_s=0.0)
            self._files.move(object_id, Place.OBJECTS)
            self._changed.notify_all()

    # What is here ---------------------------------------------------------------------------------------

    def depth(self) -> Depth:
        """Cheap: reads live rows through one index."""
        with self._held():
            return Depth(
                by_state=self._index.tallies(),
                received_since_open=self._received,
                oldest_unsent_at_utc=self._index.oldest_unsent_at_utc(),
                last_received_at_utc=self._book.last_store_at_utc(),
            )

    def list_objects(self, *, states: Collection[State], limit: int) -> list[ObjectRow]:
        """Objects in any of `states`, oldest first."""
        with self._held():
            return self._index.rows(states=states, limit=limit)

    def scanners_seen(self) -> list[ScannerSeen]:
        """Everyone who called this box, latest first."""
        with self._held():
            return self._book.all()

    def note_rejection(self, calling_ae_title: str, peer_address: str, reason: str) -> None:
        """Remember a refusal for the technician. `calling_ae_title` is empty where it was never learnt."""
        with self._changed:
            self._book.note_rejection(calling_ae_title, peer_address, reason)

    def disk(self) -> Disk:
        """Room on the spool's file system."""
        total_bytes, free_bytes = self._files.room()
        return Disk(total_bytes=total_bytes, free_bytes=free_bytes, reserve_bytes=self.reserve_bytes)

    def close(self) -> None:
        """Wake whoever waits and let the directory go. Receptions still open fail when they commit."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            try:
                self._book.flush()
            finally:
                self._index.close()
                self._files.close()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The lock, on an open spool; failures of disk and index come out in this room's terms."""
        with self._changed:
            if self._closed:
                raise SpoolClosedError
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
