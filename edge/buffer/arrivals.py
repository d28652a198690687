"""Rows of instances that just became durable, on their way into the index: many in one transaction.

The label in the file is the truth and success is answered on its strength, so the row may follow. It follows within
a twentieth of a second, and before anybody asks the spool anything. A transaction for each instance would be the
largest part of what a small image costs. A crash, and not only a power cut, takes rows that wait here; recovery
makes them again from the labels, as it does with those that a power cut took.
"""

from __future__ import annotations

import logging
import threading
from typing import Final

from contract.identifiers import ObjectId
from edge.buffer.errors import TransientSpoolError
from edge.buffer.index import SpoolIndex
from edge.buffer.label import Label
from edge.buffer.new_rows import NewRow, NewRows
from edge.buffer.states import SAFE_HERE

_BATCH: Final = 256
"""So many are written without waiting for more."""

_LINGER_S: Final = 0.05
"""How long a row waits for others to come with it."""

_TRY_AGAIN_S: Final = 1.0
_MAX_WAITING: Final = (
    1024  # an index that takes nothing must not grow the memory: then scanners are told to wait
)
_FIND: Final = """
    SELECT object_id FROM objects
    WHERE freed_at_utc IS NULL AND sop_instance_uid = ? AND sha256 = ? AND state IN (?, ?, ?, ?, ?) LIMIT 1
"""
_LOG = logging.getLogger(__name__)


class Arrivals:
    """Callers hold the spool's lock, but for `start` and `stop`: those begin and end the thread that writes.

    Parameters
    ----------
    lock : the spool's.
    changed : that lock's condition, notified when rows came into the index: something may be claimable.
    """

    def __init__(
        self, index: SpoolIndex, rows: NewRows, lock: threading.RLock, changed: threading.Condition
    ) -> None:
        self._index = index
        self._rows = rows
        self._changed = changed
        self._labels: list[Label] = []
        self._known: dict[tuple[str, str], ObjectId] = {}
        self._index_takes_rows = True
        self._stopping = False
        self._arrived = threading.Condition(lock)
        self._writer = threading.Thread(target=self._write, name="spool-rows", daemon=True)

    def __len__(self) -> int:
        return len(self._labels)

    def start(self) -> None:
        self._writer.start()

    def stop(self) -> None:
        """What still waits is `bring_in`'s."""
        with self._arrived:
            self._stopping = True
            self._arrived.notify_all()
        self._writer.join()

    def add(self, label: Label) -> None:
        """Take the label of an identified instance.

        Raises
        ------
        TransientSpoolError : too many wait, because the index does not take them.
        """
        if len(self._labels) >= _MAX_WAITING:
            self._flush()
        assert label.identity is not None
        self._labels.append(label)
        self._known[label.identity.sop_instance_uid, label.sha256] = label.object_id
        if len(self._labels) in (1, _BATCH):
            self._arrived.notify()

    def find(self, sop_instance_uid: str, sha256: str) -> ObjectId | None:
        """An object that holds these very bytes and is on its way to central already, with a row or without."""
        waits = self._known.get((sop_instance_uid, sha256))
        if waits is not None:
            return waits
        found = self._index.first(_FIND, (sop_instance_uid, sha256, *SAFE_HERE))
        return None if found is None else ObjectId(found[0])

    def bring_in(self) -> bool:
        """Write what waits and wake those who send; False if the index takes none now.

        They wait on then: their files are durable.
        """
        try:
            if self._flush():
                self._changed.notify_all()
        except TransientSpoolError as error:
            if self._index_takes_rows:
                _LOG.error("the spool's index takes no rows", extra={"reason": str(error)})
            self._index_takes_rows = False
        else:
            self._index_takes_rows = True
        return self._index_takes_rows

    def _flush(self) -> int:
        """Write what waits, all or nothing; how many that was. TransientSpoolError: it still waits."""
        written = len(self._labels)
        if not written:
            return 0
        with self._index.transaction(durable=False):
            self._rows.insert([NewRow(label) for label in self._labels])
        self._labels.clear()
        self._known.clear()
        return written

    def _write(self) -> None:
        """On a thread of its own."""
        with self._arrived:
            while not self._stopping:
                self._arrived.wait_for(lambda: self._labels or self._stopping)
                self._arrived.wait_for(lambda: len(self._labels) >= _BATCH or self._stopping, _LINGER_S)
                if not self.bring_in():
                    self._arrived.wait_for(lambda: self._stopping, _TRY_AGAIN_S)
