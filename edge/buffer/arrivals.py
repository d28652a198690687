"""Rows of instances that just became durable, on their way into the index: many in one transaction.

The label in the file is the truth and success is answered on its strength, so the row may follow. It follows within
a twentieth of a second, and before anybody asks the spool anything. A transaction for each instance would be the
largest part of what a small image costs. A crash, and not only a power cut, takes rows that wait here; recovery
makes them again from the labels, as it does with those that a power cut took.
"""

from __future__ import annotations

from typing import Final

from contract.identifiers import ObjectId
from edge.buffer.index import SpoolIndex
from edge.buffer.label import Label

BATCH: Final = 256
"""So many are written without waiting for more."""

LINGER_S: Final = 0.05
"""How long a row waits for others to come with it."""

_MAX_WAITING: Final = (
    1024  # an index that takes nothing must not grow the memory: then scanners are told to wait
)


class Arrivals:
    """Callers hold the spool's lock."""

    def __init__(self, index: SpoolIndex) -> None:
        self._index = index
        self._labels: list[Label] = []
        self._known: dict[tuple[str, str], ObjectId] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, label: Label) -> None:
        """Take the label of an identified instance.

        Raises
        ------
        TransientSpoolError : too many wait, because the index does not take them.
        """
        if len(self._labels) >= _MAX_WAITING:
            self.flush()
        assert label.identity is not None
        self._labels.append(label)
        self._known[label.identity.sop_instance_uid, label.sha256] = label.object_id

    def find(self, sop_instance_uid: str, sha256: str) -> ObjectId | None:
        """One that waits here and holds these very bytes."""
        return self._known.get((sop_instance_uid, sha256))

    def flush(self) -> int:
        """Write what waits, all or nothing; how many that was. TransientSpoolError: it still waits."""
        written = len(self._labels)
        if not written:
            return 0
        with self._index.transaction(durable=False):
            self._index.insert_answered(self._labels)
        self._labels.clear()
        self._known.clear()
        return written
