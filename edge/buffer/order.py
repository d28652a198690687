"""In which order waiting objects leave: by priority, short studies before long ones, and never without the oldest.

| turn          | first comes                                                               | then, with room left   |
|---------------|---------------------------------------------------------------------------|------------------------|
| three of four | what a person put first; stat; high; the shortest study; the shortest low | the rest, oldest first |
| one of four   | the oldest of all                                                         | the rest, oldest first |

Of what a person put first, and of stat, the newest leaves first: after days without central somebody may be waiting
for that one. Of one priority otherwise it is the oldest. Always true: an object is claimed by one statement guarded by
its state; the oldest waits for at most three other turns, whatever comes in, so one before which n older ones wait
leaves within 4(n + 1) turns. Priority is in the row and survives a restart; turns and leases end with the process. A
study's length is what of it still waits, looked up anew once a second: the newest arrival changes little.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from contract.identifiers import ObjectId
from contract.priority import Priority
from edge.buffer.index import SpoolIndex
from edge.buffer.records import Claimed
from edge.buffer.tables import utc_from_text, utc_text

EVERY_FOURTH: Final = 4
"""The turn that is the oldest's, whatever is urgent: nobody starves."""

_LENGTHS_KEPT_S: Final = 1.0
_ALONE_AFTER: Final = 8
"""An object that was tried so often goes by itself: whatever is wrong with it is not to hold others up."""

CLAIMED_COLUMNS: Final = (
    "object_id",
    "sha256",
    "size_bytes",
    "stored_bytes",
    "sop_class_uid",
    "sop_instance_uid",
    "study_instance_uid",
    "series_instance_uid",
    "transfer_syntax_uid",
    "modality",
    "calling_ae_title",
    "called_ae_title",
    "peer_address",
    "received_at_utc",
    "attempts",
)
"""What `claimed_of` reads, in this order."""
_COLUMNS: Final = ", ".join(CLAIMED_COLUMNS)
# A condition: the object was sealed for one of the keys of a JSON list.
_OPENED_BY: Final = "EXISTS (SELECT 1 FROM json_each({}) AS k WHERE instr(sealed_for, k.value))"
# `:keys` null: whoever asks opens everything.
_DUE: Final = f"""
    freed_at_utc IS NULL AND state IN ('ready', 'sending') AND due_s <= :now
    AND (:keys IS NULL OR {_OPENED_BY.format(":keys")})
"""
_OLDEST: Final = f"""
    SELECT {_COLUMNS} FROM objects INDEXED BY live_by_sequence WHERE {_DUE} ORDER BY sequence LIMIT :limit
"""  # noqa: S608  # put together from the constants above alone
_URGENT: Final = f"""
    SELECT {_COLUMNS} FROM objects INDEXED BY live_by_priority_2
    WHERE {_DUE} AND priority > 0 AND priority = :priority ORDER BY sequence LIMIT :limit
"""  # noqa: S608  # put together from the constants above alone
_NEWEST_URGENT: Final = _URGENT.replace("ORDER BY sequence", "ORDER BY sequence DESC")
_OF_STUDY: Final = f"""
    SELECT {_COLUMNS} FROM objects INDEXED BY live_by_study_2
    WHERE {_DUE} AND study_instance_uid = :study ORDER BY sequence LIMIT :limit
"""  # noqa: S608  # put together from the constants above alone
_LENGTHS: Final = """
    SELECT -MAX(priority), SUM(stored_bytes), MIN(sequence), study_instance_uid FROM objects INDEXED BY live_by_study_2
    WHERE freed_at_utc IS NULL AND state = 'ready' AND due_s <= ? GROUP BY study_instance_uid
"""
_EARLIEST: Final = """
    SELECT MIN(due_s) FROM objects INDEXED BY live_by_state WHERE freed_at_utc IS NULL AND state IN ('ready', 'sending')
"""
_EARLIEST_OPENED_BY: Final = f"{_EARLIEST} AND {_OPENED_BY.format('?')}"
_CLAIM: Final = f"""
    UPDATE objects SET state = 'sending', due_s = :until, attempts = attempts + 1
    WHERE object_id = :object_id AND {_DUE}
"""  # noqa: S608  # put together from the constants above alone
_NAMED: Final = f"""
    SELECT {_COLUMNS} FROM objects WHERE object_id = ? AND state = 'ready' AND freed_at_utc IS NULL
"""  # noqa: S608  # put together from the constants above alone
_WAITING: Final = "study_instance_uid = ? AND freed_at_utc IS NULL AND state IN ('ready', 'sending', 'owed')"
_PRIORITISE: Final = f"UPDATE objects SET priority = ? WHERE {_WAITING}"  # noqa: S608  # the constant above alone
_DECIDE: Final = """
    INSERT INTO study_priorities (study_instance_uid, priority, set_at_utc) VALUES (?, ?, ?)
    ON CONFLICT (study_instance_uid) DO UPDATE SET priority = excluded.priority, set_at_utc = excluded.set_at_utc
"""
_DECIDED: Final = "SELECT 1 FROM study_priorities WHERE study_instance_uid = ?"
_OF_WAITING_STUDY: Final = f"""
    SELECT object_id, priority, study_instance_uid, COALESCE(modality, ''), calling_ae_title, called_ae_title,
        peer_address, COALESCE(station, ''), COALESCE(department, '')
    FROM objects INDEXED BY live_by_study_2 WHERE {_WAITING}
"""  # noqa: S608  # put together from the constant above alone
_RANK: Final = "UPDATE objects SET priority = ? WHERE object_id = ?"


@dataclass(frozen=True)
class Waiting:
    """What is known of an object that waits, to rank it by."""

    study_instance_uid: str
    modality: str
    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    station_name: str
    department: str


class ClaimOrder:
    """Over the spool's index; callers hold the spool's lock."""

    def __init__(self, index: SpoolIndex) -> None:
        self._index = index
        self._turn = 0
        self._keys: str | None = None
        self._shortest: str | None = None
        self._looked_at_s = -math.inf

    def claim(
        self,
        *,
        now_s: float,
        lease_s: float,
        max_objects: int,
        max_bytes: int,
        opened_by: Collection[str] = (),
    ) -> list[Claimed]:
        """Lease what goes next: one object whatever its size, and more only as far as all fit `max_bytes`.

        Parameters
        ----------
        opened_by : only what was sealed for one of these keys as well; empty: everything.
        """
        self._keys = json.dumps(list(opened_by)) if opened_by else None
        with self._index.transaction(durable=False):  # a lease ends with the process
            chosen = self._choose(now_s, max_objects, max_bytes)
            return [self._take(row, now_s, lease_s) for row in chosen]

    def earliest_due_s(self, opened_by: Collection[str] = ()) -> float | None:
        """When the next object can be claimed, on the monotonic clock; None if nothing waits.

        Parameters
        ----------
        opened_by : as for `claim`.
        """
        question, values = (
            (_EARLIEST_OPENED_BY, (json.dumps(list(opened_by)),)) if opened_by else (_EARLIEST, ())
        )
        due_s: float | None = self._index.execute(question, values).fetchone()[0]
        return due_s

    def claim_these(self, object_ids: Collection[ObjectId], *, now_s: float, lease_s: float) -> list[Claimed]:
        """Lease all of these, due or not, or none: what was interrupted goes on as it was."""
        with self._index.transaction(durable=False):
            found = [self._index.execute(_NAMED, (object_id,)).fetchone() for object_id in object_ids]
            if not all(found):
                return []
            return [self._take(row, math.inf, lease_s, from_s=now_s) for row in found]

    def prioritise(self, study_instance_uid: str, priority: Priority) -> int:
        """A person's decision; how many objects of the study wait. Where none does, nothing is kept."""
        with self._index.transaction():
            waiting: int = self._index.execute(_PRIORITISE, (int(priority), study_instance_uid)).rowcount
            if waiting:
                now = utc_text(datetime.now(UTC))
                self._index.execute(_DECIDE, (study_instance_uid, int(priority), now))
        self._looked_at_s = -math.inf
        return waiting

    def rank_again(self, priority_of: Callable[[Waiting], Priority], studies: Collection[str]) -> int:
        """Rank what waits of these studies anew, but where a person has decided; how many objects that moved."""
        moved = 0
        for study in studies:
            if self._index.execute(_DECIDED, (study,)).fetchone():
                continue
            changes = [
                (int(wanted), object_id)
                for object_id, priority, *known in self._index.execute(_OF_WAITING_STUDY, (study,)).fetchall()
                if (wanted := priority_of(Waiting(*known))) != priority
            ]
            if changes:
                with self._index.transaction(durable=False):  # the worklist says it again after a restart
                    for change in changes:
                        self._index.execute(_RANK, change)
            moved += len(changes)
        if moved:
            self._looked_at_s = -math.inf
        return moved

    def _choose(self, now_s: float, max_objects: int, max_bytes: int) -> list[tuple[Any, ...]]:
        self._turn += 1
        candidates = list(self._first(now_s, max_objects)) if self._turn % EVERY_FOURTH else []
        chosen = fill([], candidates, max_objects, max_bytes)
        if chosen and (len(chosen) == max_objects or _size(chosen) >= max_bytes or _is_stubborn(chosen[0])):
            return chosen
        rest = self._find(_OLDEST, now=now_s, limit=max_objects + len(chosen))
        return fill(chosen, rest, max_objects, max_bytes)

    def _first(self, now_s: float, limit: int) -> Iterable[tuple[Any, ...]]:
        urgent: list[tuple[Any, ...]] = []
        for priority in (Priority.FIRST, Priority.STAT, Priority.HIGH):
            question = _URGENT if priority is Priority.HIGH else _NEWEST_URGENT
            urgent += self._find(question, now=now_s, priority=int(priority), limit=limit - len(urgent))
            if len(urgent) >= limit:
                break
        if urgent:
            return urgent
        of_study: list[tuple[Any, ...]] = []
        if self._shortest is not None and now_s - self._looked_at_s < _LENGTHS_KEPT_S:
            of_study = self._find(_OF_STUDY, now=now_s, study=self._shortest, limit=limit)
        if not of_study:
            shortest = min(self._index.execute(_LENGTHS, (now_s,)), default=None)
            self._shortest, self._looked_at_s = (shortest[3] if shortest else None), now_s
            of_study = self._find(_OF_STUDY, now=now_s, study=self._shortest, limit=limit)
        return of_study

    def _find(self, statement: str, **values: object) -> list[tuple[Any, ...]]:
        return self._index.execute(statement, {**values, "keys": self._keys}).fetchall()

    def _take(
        self, row: tuple[Any, ...], now_s: float, lease_s: float, *, from_s: float | None = None
    ) -> Claimed:
        until_s = (now_s if from_s is None else from_s) + lease_s
        values = {"object_id": row[0], "now": now_s, "until": until_s, "keys": None}
        changed = self._index.execute(_CLAIM, values).rowcount
        assert changed == 1, "found in this very transaction"
        return claimed_of(row)


def claimed_of(row: tuple[Any, ...]) -> Claimed:
    """From `CLAIMED_COLUMNS` as they were before this attempt."""
    values = dict(zip(CLAIMED_COLUMNS, row, strict=True))
    received_at_utc = utc_from_text(values.pop("received_at_utc"))
    return Claimed(received_at_utc=received_at_utc, attempts=values.pop("attempts") + 1, **values)


def fill(
    chosen: list[tuple[Any, ...]], candidates: Iterable[tuple[Any, ...]], max_objects: int, max_bytes: int
) -> list[tuple[Any, ...]]:
    """`chosen` and what of `candidates` still goes with it; the first of all goes whatever its size."""
    filled = list(chosen)
    known = {row[0] for row in filled}
    size = _size(filled)
    for row in candidates:
        if len(filled) == max_objects:
            break
        if row[0] in known:
            continue
        if not filled:
            filled, size = [row], row[3]
            if _is_stubborn(row) or size >= max_bytes:
                break
        elif size + row[3] <= max_bytes and not _is_stubborn(row):
            filled.append(row)
            size += row[3]
    return filled


def _size(rows: Iterable[tuple[Any, ...]]) -> int:
    return sum(row[3] for row in rows)


def _is_stubborn(row: tuple[Any, ...]) -> bool:
    return bool(row[14] >= _ALONE_AFTER)
