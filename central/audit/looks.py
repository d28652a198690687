"""Records put together as looks: who opens a study leaves a record for each series, and was there once.

Always true: every record is in exactly one look; a look joins records of one actor, one action and one study, each
within `PAUSE_S` of the next, which is longer than a record may stand for (`central.audit.spans`). Pure: no database.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from central.audit.events import Action, AuditRow

PAUSE_S: Final = 900.0
LOOKED: Final = (Action.VIEW, Action.EXPORT, Action.BREAK_GLASS)


@dataclass(frozen=True)
class Look:
    """`records` of them, from `began_utc` to `ended_utc`."""

    actor: str
    actor_role: str
    action: Action
    study_instance_uid: str
    began_utc: datetime
    ended_utc: datetime
    records: int


def looks(rows: Iterable[AuditRow]) -> list[Look]:
    """The looks in `rows`, which are of studies and begin with the newest; the one that ended last comes first."""
    found: list[Look] = []
    under_way: dict[tuple[str, str, Action, str], int] = {}
    for row in rows:
        event = row.event
        assert event.study_instance_uid is not None, "a look is at a study"
        key = (event.actor, event.actor_role, event.action, event.study_instance_uid)
        at = under_way.get(key)
        if at is not None and (found[at].began_utc - row.at_utc).total_seconds() <= PAUSE_S:
            found[at] = replace(found[at], began_utc=row.at_utc, records=found[at].records + 1)
            continue
        under_way[key] = len(found)
        found.append(Look(*key, began_utc=row.at_utc, ended_utc=row.at_utc, records=1))
    return found
