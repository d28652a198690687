"""What is wrong with objects, by name: found by the scrub, by a command, or by a look; ended by whole bytes.

Always true: an object that is listed as damaged or missing is not given out, whatever the disk says of it the next
moment; it is given out again when it was read whole, or when the same content came once more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import peewee

from central.archive.tables import Instance, ObjectFault, SealedContent, Series, Study
from central.audit.events import Action, AuditEvent
from central.database import Database, put
from central.prepared import Prepared, given


class FaultKind(StrEnum):
    DAMAGED = "damaged"  # what is kept under the name is something else, or cannot be read
    MISSING = "missing"  # the index has a row and the store has no object
    UNOPENABLE = "unopenable"  # it is whole, and its keys in the index do not open it
    UNINDEXED = "unindexed"  # the store has an object and the index has no row


_LISTED: Final = Prepared(ObjectFault.select(ObjectFault.sha256).where(ObjectFault.sha256 == given("name")))
UNREADABLE: Final = (FaultKind.DAMAGED, FaultKind.MISSING, FaultKind.UNOPENABLE)


@dataclass(frozen=True)
class Fault:
    """`sha256` is the object's name. The other texts are "" where the index does not know the object."""

    sha256: str
    kind: FaultKind
    study_instance_uid: str = ""
    sop_instance_uid: str = ""
    gateway_id: str = ""
    received_at_utc: str = ""

    def sentence(self) -> str:
        """What is wrong, and how it is mended; no text of the data set but UIDs."""
        if self.kind is FaultKind.UNINDEXED:
            return f"unindexed {self.sha256}: the store has it and no row names it"
        return (
            f"{self.kind} {self.sha256}: instance {self.sop_instance_uid} of study {self.study_instance_uid}, "
            f"which came from {self.gateway_id} at {self.received_at_utc}; it is whole again once the same image is "
            "sent once more, or the object is put back from a backup and verified"
        )

    def event(self) -> AuditEvent:
        """As it goes on record."""
        return AuditEvent(
            "central",
            "system",
            Action.OBJECT_FAULT,
            "success",
            "local",
            study_instance_uid=self.study_instance_uid or None,
            sop_instance_uid=self.sop_instance_uid or None,
            detail=self.sentence(),
        )


class Faults:
    """The list. Safe to call from many threads and processes."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def note(self, sha256: str, kind: FaultKind) -> bool:
        """List an object. False if it is listed so already."""
        with self._db.writing():
            known = ObjectFault.select(ObjectFault.kind).where(ObjectFault.sha256 == sha256)
            if known.scalar(self._db) == kind:
                return False
            row = {"sha256": sha256, "kind": kind.value, "found_at_s": time.time(), "told": False}
            put(self._db, ObjectFault, row)
        return True

    def end(self, names: Sequence[str]) -> None:
        """Take objects off the list."""
        if any(_LISTED.first(self._db, name=name) for name in names):  # seldom: nothing is written else
            ObjectFault.delete().where(ObjectFault.sha256.in_(list(names))).execute(self._db)

    def between(self, after: str, through: str) -> list[str]:
        """The listed names behind `after`, up to `through`."""
        within = (ObjectFault.sha256 > after) & (ObjectFault.sha256 <= through)
        return [row.sha256 for row in ObjectFault.select(ObjectFault.sha256).where(within).execute(self._db)]

    def is_unreadable(self, sha256: str) -> bool:
        """Whether an object is listed as one that must not be given out."""
        of = (ObjectFault.sha256 == sha256) & ObjectFault.kind.in_([kind.value for kind in UNREADABLE])
        return bool(list(ObjectFault.select(ObjectFault.sha256).where(of).execute(self._db)))

    def instances_among(self, sop_instance_uids: Sequence[str]) -> set[str]:
        """Those of which an object cannot be read: nobody should vouch for them."""
        query = self._joined(Instance.sop_instance_uid).where(
            Instance.sop_instance_uid.in_(list(sop_instance_uids)),
            ObjectFault.kind.in_([kind.value for kind in UNREADABLE]),
        )
        return {uid for (uid,) in query.tuples().execute(self._db)}

    def count(self) -> int:
        return int(ObjectFault.select(peewee.fn.COUNT(ObjectFault.sha256)).scalar(self._db))

    def untold(self, limit: int) -> list[Fault]:
        """What is not on the audit record yet."""
        return self._faults(ObjectFault.told == False, limit)  # noqa: E712  # SQL

    def told(self, faults: Sequence[Fault]) -> None:
        """These are on record now."""
        named = [fault.sha256 for fault in faults]
        ObjectFault.update(told=True).where(ObjectFault.sha256.in_(named)).execute(self._db)

    def listed(self, after: str = "", limit: int = 256) -> list[Fault]:
        """By name, from behind `after` on."""
        return self._faults(ObjectFault.sha256 > after, limit)

    def _faults(self, condition: peewee.Expression, limit: int) -> list[Fault]:
        query = (
            self._joined(
                ObjectFault.sha256,
                ObjectFault.kind,
                Instance.sop_instance_uid,
                Instance.gateway_id,
                Instance.received_at_utc,
                Study.study_instance_uid,
            )
            .where(condition)
            .order_by(ObjectFault.sha256)
            .limit(limit)
        )
        return [
            Fault(
                **{name: value or "" for name, value in row.items() if name != "kind"},
                kind=FaultKind(row["kind"]),
            )
            for row in query.dicts().execute(self._db)
        ]

    def _joined(self, *columns: Any) -> Any:
        """Faults with the instance whose object it is, where there is one."""
        instance = Instance.sha256 == peewee.fn.COALESCE(SealedContent.sha256, ObjectFault.sha256)
        return (
            ObjectFault.select(*columns)
            .join(SealedContent, peewee.JOIN.LEFT_OUTER, on=(SealedContent.address == ObjectFault.sha256))
            .join_from(ObjectFault, Instance, peewee.JOIN.LEFT_OUTER, on=instance)
            .join(Series, peewee.JOIN.LEFT_OUTER, on=(Instance.series == Series.id))
            .join(Study, peewee.JOIN.LEFT_OUTER, on=(Series.study == Study.id))
        )
