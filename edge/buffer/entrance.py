"""Where instances come in: what associations of this process, and processes that receive for it, ask of the spool.

Always true: an instance is taken among the arrivals only when its file is durable, label and all, and from then on its
bytes are the duplicate of whatever comes later; success is answered after that. A duplicate is absorbed, and answered
only once what it was to go to is owed the object that has its bytes. A crash before it leaves names without
bytes and torn files, which are swept; a crash behind it leaves a label, from which recovery makes the row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from contract.identifiers import ObjectId
from contract.sealed_object import Aead
from contract.sealing import DataKeyRing
from edge.buffer.arrivals import Arrivals
from edge.buffer.coding_pace import Coding, CodingPace
from edge.buffer.desk import Desk
from edge.buffer.errors import SpoolClosedError, storage_error
from edge.buffer.files import SpoolFiles
from edge.buffer.index import SpoolIndex
from edge.buffer.label import Label
from edge.buffer.lock import SpoolLock
from edge.buffer.new_rows import NewRows
from edge.buffer.quarantine import Quarantine
from edge.buffer.reception import Reception
from edge.buffer.records import InstanceIdentity, Origin
from edge.buffer.remote_spool import Terms
from edge.buffer.room import DiskRoom
from edge.buffer.scanners import ScannerBook

_LOG = logging.getLogger(__name__)


class Entrance:
    """An `Intake`, a `Registrar` and a `SpoolOwner`. Safe from any thread.

    Parameters
    ----------
    keys : None before enrolment; `set_keys` later.
    coding : what decides whether pixels are coded as images.
    on_stored : called after each instance that became durable, on the thread that received it; must not block.
    complete : adds what is known of an instance that became durable, before its row is made; the same.

    Attributes
    ----------
    pace : decides how tightly an instance is coded; whoever knows the line tells it whether that is slow.
    """

    def __init__(
        self,
        lock: SpoolLock,
        index: SpoolIndex,
        files: SpoolFiles,
        rows: NewRows,
        arrivals: Arrivals,
        scanners: ScannerBook,
        room: DiskRoom,
        quarantine: Quarantine,
        *,
        keys: DataKeyRing | None,
        aead: Aead,
        coding: Coding,
        on_stored: Callable[[Label], None],
        complete: Callable[[Label], Label],
    ) -> None:
        self._lock = lock
        self._index = index
        self._files = files
        self._rows = rows
        self._arrivals = arrivals
        self._scanners = scanners
        self._room = room
        self._aead = aead
        self._coding = coding
        self._on_stored = on_stored
        self._complete = complete
        self.note_rejection = scanners.note_rejection
        self.register_quarantined = quarantine.take
        self.pace = CodingPace(coding)
        self._desk = Desk(self, files.new_file, self.pace, aead, keys)
        # Turn, SOP instance and hash that were not here then.
        self._absent: tuple[int, str, str] | None = None
        self._touched_at_s = float("-inf")

    def set_keys(self, keys: DataKeyRing) -> None:
        """Seal for these recipients from the next instance on."""
        self._desk.keys = keys

    def receive(self, origin: Origin) -> Reception:
        """Begin an instance. Parallel receptions do not wait for each other until they commit.

        Raises
        ------
        NotEnrolledError, DiskFullError, StorageFailedError, SpoolClosedError
        """
        if self._lock.is_closed:
            raise SpoolClosedError
        return self._desk.begin(origin)

    def prepare(self, origin: Origin) -> None:
        """Have a file open and a key derived for the next instance, while its scanner gets it ready. Raises nothing."""
        if not self._lock.is_closed:
            self._desk.prepare(origin)

    # For receptions ---------------------------------------------------------------------------------------

    @property
    def reserve_bytes(self) -> int:
        return self._room.reserve_bytes

    def check_room(self) -> None:
        """DiskFullError when less than the reserve is free, and nothing retained is left to free for it."""
        self._touched_at_s = time.monotonic()
        self._room.check()

    def absorb(self, label: Label, identity: InstanceIdentity) -> ObjectId | None:
        """An object on its way to central that holds these very bytes, and goes where they were to go from now on."""
        with self._lock.without_arrivals():
            known = self._arrivals.find(identity.sop_instance_uid, label.sha256)
            self._absent = None if known else (self._lock.turn, identity.sop_instance_uid, label.sha256)
            if known is not None:
                self._owe_too(known, label)
            return known

    def _owe_too(self, known: ObjectId, label: Label) -> None:
        destinations = self._rows.route_of_resend(self._complete(label))
        if destinations:
            with self._lock.held():  # its row may not be in the index yet
                if self._rows.owe_too(known, destinations, label.stored_bytes):
                    self._lock.changed.notify_all()

    def register(self, label: Label, identity: InstanceIdentity) -> ObjectId:
        """Take a durable file among the arrivals, or point at the duplicate that got here first."""
        with self._lock.without_arrivals():
            # Asked before the sync. Where nobody has had the lock since, the answer holds.
            asked = (self._lock.turn - 1, identity.sop_instance_uid, label.sha256)
            known = None
            if self._absent != asked:
                known = self._arrivals.find(identity.sop_instance_uid, label.sha256)
            if known is None:
                self._arrivals.add(self._complete(label))
            else:
                self._owe_too(known, label)
            self._scanners.note_store(
                label.origin, instances=0 if known else 1, size_bytes=0 if known else label.size_bytes
            )
            self._touched_at_s = time.monotonic()
        try:
            self._on_stored(label)
        except Exception:
            # It is among the arrivals: were its file given up now, a resend would be the duplicate of nothing.
            _LOG.exception("nobody was told of a stored instance", extra={"object_id": label.object_id})
        return known or label.object_id

    def quiet_s(self) -> float:
        """How long no instance has begun, grown by much, or become durable."""
        return time.monotonic() - self._touched_at_s

    # For processes that receive for this one --------------------------------------------------------------

    def terms(self) -> Terms:
        """How instances are to be kept now."""
        keys = self._desk.keys
        return Terms(
            root=str(self._files.root),
            direct=self._files.takes_direct_writes,
            reserve_bytes=self._room.reserve_bytes,
            mark_bytes=max(self._room.reserve_bytes, self._room.low_water_bytes),
            aead=self._aead,
            coding=self._coding,
            line_is_slow=self.pace.line_is_slow(),
            recipients=keys.recipients if keys else (),
        )

    def take_names(self, count: int) -> list[ObjectId]:
        """Empty files with durable names, at most `count`. StorageFailedError, DiskFullError, SpoolClosedError."""
        if self._lock.is_closed:
            raise SpoolClosedError
        try:
            return self._files.take_names(count)
        except OSError as error:
            raise storage_error(error, reserve_bytes=self._room.reserve_bytes) from error

    def give_back(self, names: list[ObjectId]) -> None:
        """Of those, what was not used."""
        with self._lock.without_arrivals():
            self._files.give_back(names)

    def sweep(self, names: Collection[ObjectId]) -> None:
        """Delete, of those, what a process that is gone left unfinished; whatever has a row stays."""
        with self._lock.held():
            unknown = [one for one in names if self._index.was_freed(one) is None]
            torn = sum(self._files.size_of(one) > 0 for one in unknown)
            for object_id in unknown:
                self._files.unlink_freed(object_id)
        if torn:
            _LOG.warning("half-received images of a process that ended are deleted", extra={"files": torn})

    def close(self) -> None:
        """Let go what was made ready."""
        self._desk.close()
