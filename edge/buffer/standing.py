"""How safe an instance is: what Storage Commitment promises a scanner, read from the spool's index.

An instance may have several objects (the same SOP Instance UID sent again with other content): it is at central
only when every one of them is. What central has receipted and the box has freed still counts as both. What was
answered with a failure is in quarantine without an identity and is not found here. An instance of which the disk
has damaged something that is nowhere else is not here either: its scanner has to send it again. The same goes for
what central, or one that gets a copy, signed for and lost after the box had freed it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from edge.buffer.index import SpoolIndex

_UIDS_A_QUESTION = 500  # SQLite's least limit of bound values is 999
_FIND = """
    SELECT sop_instance_uid, sop_class_uid, receipt IS NOT NULL, sha256, damaged,
        state = 'lost' OR EXISTS (
            SELECT 1 FROM deliveries AS d WHERE d.object_id = objects.object_id
                AND d.state = 'lost' AND d.destination IN (SELECT value FROM json_each(?1))),
        state = 'owed' AND EXISTS (
            SELECT 1 FROM deliveries AS d WHERE d.object_id = objects.object_id
                AND d.state IN ('waiting', 'set-aside') AND d.destination IN (SELECT value FROM json_each(?1)))
    FROM objects
    WHERE success_answered AND freed_at_utc IS {} AND sop_instance_uid IN ({})
"""


@dataclass(frozen=True)
class Standing:
    """One SOP instance the box has, or has had.

    Attributes
    ----------
    sop_class_uids : one, unless senders disagreed.
    at_central : central, and each that gets a copy, has signed for everything that came under this UID; else it is
        durable here.
    """

    sop_class_uids: frozenset[str]
    at_central: bool


def standing(
    index: SpoolIndex, sop_instance_uids: Collection[str], copies: Collection[str] = ()
) -> Mapping[str, Standing]:
    """Standing by SOP Instance UID; what is not in it is not here. Callers hold the spool's lock.

    Parameters
    ----------
    copies : names of the centrals beside the first that get a copy of everything.
    """
    named = json.dumps(list(copies))
    uids = list(sop_instance_uids)
    classes: dict[str, set[str]] = {}
    unreceipted: set[str] = set()
    sound: set[tuple[str, str]] = set()
    damaged: set[tuple[str, str]] = set()
    for at in range(0, len(uids), _UIDS_A_QUESTION):
        asked = uids[at : at + _UIDS_A_QUESTION]
        marks = ",".join("?" * len(asked))
        for freed in ("NULL", "NOT NULL"):
            rows = index.execute(_FIND.format(freed, marks), (named, *asked))
            for uid, sop_class_uid, receipted, sha256, is_damaged, is_lost, is_missing in rows:
                if is_lost or (is_damaged and not receipted):
                    damaged.add((uid, sha256))
                    continue
                sound.add((uid, sha256))
                classes.setdefault(uid, set()).add(sop_class_uid)
                if not receipted or is_missing:
                    unreceipted.add(uid)
    for uid, _ in damaged - sound:
        classes.pop(uid, None)
    return {uid: Standing(frozenset(found), uid not in unreceipted) for uid, found in classes.items()}
