"""A page of studies by sets: what may be found is intersected, and compared by SQL from the newest on (decision 67).

Why it exists: keys that many studies have each, and few or only old ones together, were found by looking through the
archive. Here the work is bounded by the number of keys, by what has come since the last folding, and by the page.

Always true: the conditions that are given, scope included, are asked of every study that is answered. What is not
folded yet is compared one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import islice
from operator import and_
from typing import Any, Final

import peewee

from central.archive.candidates import AnyOf, from_newest, narrowed
from central.archive.postings import FOLDED_AT_ONCE, Sets, ids_of, of_ids, size, unfolded, union, without
from central.archive.tables import Study
from central.database import Among, Database, rows_of

MOST_UNFOLDED: Final = 4 * FOLDED_AT_ONCE
FEW: Final = 1000
"""So many candidates are compared at once, without an order."""
_MOST_IN_A_DAY: Final = 20_000
_FIRST: Final = 128
_Place = tuple[str, str, int]


def newest_by_sets(
    db: Database,
    reach: Sequence[peewee.Expression],
    within: AnyOf | None,
    conditions: Sequence[Any],
    keys: Sequence[AnyOf],
    wanted: int,
) -> list[int] | None:
    """Ids of the `wanted` newest studies that `conditions` hold of, newest first; None: sets are of no use here.

    Parameters
    ----------
    within, reach : where the studies are that whoever asks reaches: in a set, or found by SQL as few; all if neither.
    keys : what a study has that is found.
    """
    # Before the sets are read: what is folded meanwhile is in both.
    waiting = unfolded(db, MOST_UNFOLDED + 1)
    if len(waiting) > MOST_UNFOLDED:
        return None
    found: Sets | None = None
    if within is not None or reach:
        few = of_ids(_ids(db, reach)) if reach else {}
        found = union([within.members(db) if within is not None else {}, few])
    candidates = without(narrowed(db, found, keys), of_ids(waiting))
    places = _holding(db, waiting, conditions)
    if size(candidates) <= FEW:
        places += _holding(db, list(ids_of(candidates)), conditions)
        return _newest(places, wanted)
    return _from_newest(db, candidates, conditions, places, wanted)


def _from_newest(
    db: Database, candidates: Sets, conditions: Sequence[Any], places: list[_Place], wanted: int
) -> list[int] | None:
    """As `newest_by_sets`. What holds among `candidates` is looked for in growing groups, until there is enough."""
    groups = from_newest(db, candidates, wanted)
    held, at_once = 0, max(_FIRST, wanted + wanted // 8)
    while True:
        ids: list[int] = []
        for group in groups:
            ids += group
            if len(group) > _MOST_IN_A_DAY:
                return None
            if len(ids) >= at_once:
                break
        if not ids:
            return _newest(places, wanted)
        some = _holding(db, ids, conditions)
        places += some
        held += len(some)
        if held >= wanted:
            return _newest(places, wanted)
        at_once = min(2 * at_once, max(FEW, at_once))


def _newest(places: list[_Place], wanted: int) -> list[int]:
    return [at for _, _, at in islice(sorted(places, reverse=True), wanted)]


def _holding(db: Database, ids: Sequence[int], conditions: Sequence[Any]) -> list[_Place]:
    """Where in the order those of `ids` stand that `conditions` hold of."""
    if not ids:
        return []
    query = Study.select(Study.study_date, Study.study_time, Study.id)
    found = rows_of(db, query.where(reduce(and_, conditions, Among(Study.id, ids))))
    return [(date, time, at) for date, time, at in found]


def _ids(db: Database, reach: Iterable[peewee.Expression]) -> list[int]:
    return [at for way in reach for (at,) in rows_of(db, Study.select(Study.id).where(way))]
