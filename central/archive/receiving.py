"""Objects on their way in: written, read, made durable, and findable from then on.

Why it exists: every way in (ingest, C-STORE, STOW-RS, imports) ends here, so that each keeps the same promises.

Always true: what is findable is durable; the index holds of an object what the object says of itself. What a crash
leaves: a durable file without a row (the resend finds it again), or everything.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import datetime
from typing import Final

import peewee

from central.access.policy import department_key
from central.archive.attributes import Attributes
from central.archive.comparison import Comparison
from central.archive.erasure import Erasures, Incoming
from central.archive.examining import Examined, Indexable, examined
from central.archive.indexing import ObjectOrigin, add_to_index, expect_order
from central.archive.object_names import is_indexed, name_of
from central.archive.objects import ObjectSink, ObjectStore, StoredObject
from central.archive.placing import Placing
from central.archive.postings import fold_some
from central.archive.removal import Removal
from central.archive.sealing_sink import new_sink
from central.archive.tables import Instance, Series, Study
from central.archive.together import Together
from central.database import Database, Unindexed
from contract.receipt import Outcome

_TOGETHER: Final = 32  # objects in one transaction: bounds how long the next ones wait for it
_UIDS_AT_ONCE: Final = 500
_BETWEEN_FOLDS: Final = 256  # objects, after which it is looked whether there are studies to be folded
_SYNCS: Final = 16  # at once, beside who reads; a disk takes no more
_log = logging.getLogger(__name__)


class Receiving:
    """The archive as the ways in see it. Safe to call from many threads.

    Parameters
    ----------
    comparison : gives what compares an object of the store with its row.
    encrypts : what comes from now on is encrypted at rest.
    """

    def __init__(
        self,
        db: Database,
        objects: ObjectStore,
        placing: Placing,
        erasures: Erasures,
        removal: Removal,
        comparison: Callable[[], Comparison],
        *,
        encrypts: bool,
    ) -> None:
        self._db = db
        self._objects = objects
        self._placing = placing
        self._erasures = erasures
        self._removal = removal
        self._comparison = comparison
        self._encrypts = encrypts
        # SQLite has one writer; waiting here is fair and costs nothing, its busy handler sleeps and polls.
        self._write_lock = threading.Lock()
        self._not_folded = 0
        self._together = Together(self._index_all, _TOGETHER)
        self._syncs = ThreadPoolExecutor(_SYNCS, thread_name_prefix="object-sync")

    def new_object(self) -> ObjectSink:
        """Where the bytes of one Part 10 file go; see `ObjectSink`."""
        return new_sink(self._objects, encrypts=self._encrypts)

    def read(self, stored: StoredObject, origin: ObjectOrigin) -> Indexable:
        """What the index will hold of a durable file. Touches no database: may run on many threads at once.

        Raises
        ------
        NotDicomError : nothing names its SOP instance. The file stays; `forget` removes it.
        """
        said = examined(stored.path)
        return Indexable(stored, origin, said.attributes, said.metadata)

    def examine(self, sink: ObjectSink) -> Examined:
        """What an object says of itself before it is committed: one that is refused now was never in the archive.

        Raises
        ------
        NotDicomError : nothing names its SOP instance.
        StorageFullError : the disk is full.
        """
        return examined(sink.readable())

    def keep(
        self,
        sink: ObjectSink,
        origin: ObjectOrigin,
        admit: Callable[[Attributes], None] = lambda _attributes: None,
    ) -> Indexable:
        """Make an object durable, and read at the same time what the index will hold of it.

        Parameters
        ----------
        admit : called before it has its place in the store; what it raises keeps it out. Whoever wants one out later
            might take the same content from somebody else, who has just put it there.

        Raises
        ------
        NotDicomError : nothing names its SOP instance; it was never in the archive.
        StorageFullError, StoreUnavailableError, OSError : it is not durable.
        """
        path = sink.readable()
        durable = self._syncs.submit(sink.sync)
        try:
            said = examined(path)
            admit(said.attributes)
        finally:
            wait([durable])  # the file is in use until then
        durable.result()
        return Indexable(sink.commit(), origin, said.attributes, said.metadata)

    def index_together(self, objects: Sequence[Indexable]) -> list[Outcome | Exception]:
        """Make durable files findable, in one transaction with those of whoever comes at the same time.

        Returns
        -------
        For each what became of it, or why it is not findable: a fault of the database fails all that shared the
        transaction, any other fault the one object that it is of.
        """
        refused: dict[int, Exception] = {}
        for at, one in enumerate(objects):
            try:
                self._look_at_held(one.stored)
            except Exception as error:  # one object's fault is its own
                refused[at] = error
        written = iter(self._together.write([one for at, one in enumerate(objects) if at not in refused]))
        return [refused[at] if at in refused else next(written) for at in range(len(objects))]

    def index_all(
        self,
        objects: Sequence[Indexable],
        in_transaction: Callable[[Sequence[Outcome]], None] | None = None,
    ) -> list[Outcome]:
        """Make durable files findable, all of them in one transaction or none.

        Parameters
        ----------
        in_transaction : called before the commit, for what must become true together with it.

        Raises
        ------
        StudyErasedError : one is of a study that was erased; its file stays, `forget` removes it.
        StorageError : one cannot be taken just now: its object may be on its way out of the store, or what is held of
            it cannot be read to be compared.
        """
        for one in objects:
            self._look_at_held(one.stored)
        return self._index_all(objects, in_transaction)

    def _look_at_held(self, stored: StoredObject) -> None:
        """Compare what is held of a content that comes once more under another name, as encrypted ones do.

        Who sends it takes an answer for our word that it is here, and gives up its own: so damage that nobody has seen
        is found now, while what mends it is at hand. It costs one reading, before anybody else has to wait for it.
        """
        held = name_of(self._db, stored.sha256)
        if held is None or held == stored.name:
            return
        if self._comparison().look(held):
            _log.error("event=object-fault found by a resend, which mends it: %s", held)

    def _index_all(
        self,
        objects: Sequence[Indexable],
        in_transaction: Callable[[Sequence[Outcome]], None] | None = None,
    ) -> list[Outcome]:
        with self._write_lock, self._db.writing():
            self._not_folded += len(objects)
            if self._not_folded >= _BETWEEN_FOLDS:
                self._not_folded = 0
                fold_some(self._db)
            self._erasures.refuse_erased(
                [
                    Incoming(one.attributes.study_instance_uid, one.origin.institution, one.stored)
                    for one in objects
                ]
            )
            outcomes, not_needed = [], []
            for one in objects:
                former = name_of(self._db, one.stored.sha256)  # before this one has its row
                outcomes.append(add_to_index(self._db, one.attributes, one.metadata, one.stored, one.origin))
                if not self._placing.place(one.stored, one.attributes.study_instance_uid, former):
                    not_needed.append(one.stored)
            if in_transaction is not None:
                in_transaction(outcomes)
        self._removal.hurry([stored.name for stored in not_needed if stored.sealed is not None])
        return outcomes

    def forget(self, stored: StoredObject) -> None:
        """Remove a file that was not indexed, be it of another process. One that the index knows is left alone."""
        with self._write_lock, self._db.writing():  # so that no row comes in between
            if not is_indexed(self._db, stored.name):
                self._objects.remove(stored.name)

    def held(self, sop_instance_uids: Sequence[str], institution: str) -> dict[str, int]:
        """Those of the SOP instances that `institution` has, with their sizes: so that a way in knows what it lacks."""
        found: dict[str, int] = {}
        theirs = Unindexed(Study.institution) == institution
        for at in range(0, len(sop_instance_uids), _UIDS_AT_ONCE):
            some = Instance.sop_instance_uid.in_(sop_instance_uids[at : at + _UIDS_AT_ONCE])
            query = Instance.select(Instance.sop_instance_uid, Instance.size_bytes)
            query = query.join(Series).join(Study).where(some, theirs)
            found.update(
                (row["sop_instance_uid"], row["size_bytes"]) for row in query.dicts().execute(self._db)
            )
        return found

    def brought_by(self, gateway_id: str, since: datetime) -> int:
        """How many bytes of objects came from a gateway since then."""
        of_gateway = (Instance.gateway_id == gateway_id) & (Instance.received_at_utc >= since.isoformat())
        total = Instance.select(peewee.fn.COALESCE(peewee.fn.SUM(Instance.size_bytes), 0)).where(of_gateway)
        return int(total.scalar(self._db))

    def expect_order(self, study_instance_uid: str, institution: str, requesting_service: str) -> None:
        """Note which department ordered a study, whether or not images of it have come."""
        with self._write_lock:
            expect_order(self._db, study_instance_uid, institution, department_key(requesting_service))
