"""Which objects a peer fails over again and again while it takes others: then it is the object, whatever the peer says.

A peer that fails over everything has nothing held against an object, however long that lasts. In memory: a restart
counts anew.
"""

from __future__ import annotations

import threading
from typing import Final

from contract.identifiers import ObjectId

OUTRUN: Final = 8
"""So many failures count, each with another object's success since the failure before it."""


class Stumbles:
    """Of one peer. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._others_pass = False  # something passed since the last failure
        self._outrun: dict[ObjectId, int] = {}  # how often an object failed while others passed

    def passed(self, object_id: ObjectId) -> None:
        """The peer took it."""
        with self._lock:
            self._outrun.pop(object_id, None)
            self._others_pass = True

    def failed(self, object_id: ObjectId) -> bool:
        """The peer failed over it; whether others got through between `OUTRUN` such ends. Counts anew from then on."""
        with self._lock:
            outrun = self._outrun.pop(object_id, 0) + self._others_pass
            self._others_pass = False
            if outrun >= OUTRUN:
                return True
            if outrun:
                self._outrun[object_id] = outrun
            return False
