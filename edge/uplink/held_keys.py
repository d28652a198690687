"""Which keys open what lies on this box: read from the headers of the sealed objects themselves."""

from __future__ import annotations

from typing import Final

from contract.sealed_object import SealedObjectError, read_header
from edge.buffer.errors import SpoolError
from edge.buffer.holdings import Holdings
from edge.buffer.states import State

_HELD: Final = (State.READY, State.SENDING, State.QUARANTINED, State.OWED, State.RETAINED)
"""What central has, too: it may be set back to a backup and need it once more."""
MOST_LOOKED_AT: Final = 20_000


def keys_in_spool(holdings: Holdings) -> set[str] | None:
    """Key ids of every object in the spool; None if there are more than `MOST_LOOKED_AT`, or they cannot be read.

    None means "any key may be needed": a key is given up only when it is certain that nothing needs it.
    """
    try:
        rows = holdings.list_objects(states=_HELD, limit=MOST_LOOKED_AT + 1)
        if len(rows) > MOST_LOOKED_AT:
            return None
        found: set[str] = set()
        for row in rows:
            try:
                with holdings.open_object(row.object_id) as source:
                    found |= {key_id.hex() for key_id, _ in read_header(source).wrapped_keys}
            except SealedObjectError:
                continue  # a torn file in quarantine: no key opens it
    except (SpoolError, OSError):
        return None
    return found
