"""A page of studies by sets: what may be found is intersected, and compared by SQL from the newest on (decision 67).

Why it exists: keys that many studies have each, and few or only old ones together, were found by looking through the
archive. Here the work is bounded by the number of keys, by what has come since the last folding, and by the page.

Always true: the conditions that are given, scope included, are asked of every study that is answered. What is not
folded yet is compared one by one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Any, Final, NamedTuple

import peewee

from central.archive.candidates import AnyOf, from_newest, is_within, narrowed
from central.archive.postings import FOLDED_AT_ONCE, unfolded
from central.archive.sets import Sets, ids_of, of_ids, size, union, without
from central.archive.tables import Study
from central.database import Among, Database, rows_of

MOST_UNFOLDED: Final = 4 * FOLDED_AT_ONCE
FEW: Final = 1000
"""So many candidates are compared at once, without an order."""
_MOST_IN_A_DAY: Final = 20_000
_FIRST: Final = 128
_AT_MOST: Final = 4000  # candidates compared at once where those before them were of no use
_Place = tuple[str, str, int]


class Page(NamedTuple):
    """So many studies, after so many others; all within `dates`, the key of days, or "" if there is none."""

    offset: int
    limit: int
    dates: str


@dataclass
class Passing:
    """Passes over what is before a deep page without looking at it; where sets say all, but for `taken_away`.

    Attributes
    ----------
    taken_away : what leads to all that conditions do not hold of, though it is in every set.
    days : of the studies that are found already, the oldest first.
    """

    taken_away: Sequence[peewee.Expression]
    page: Page
    days: Sequence[str] = ()
    passed: int = 0
    _before: int = 0

    def __call__(self, date: str, count: int) -> bool:
        """Whether these are before the page, whatever becomes of those that were not passed over."""
        before = self._before + count + len(self.days) - bisect_left(self.days, date)
        if not is_within(self.page.dates, date) or before > self.page.offset:
            return False
        self._before += count
        self.passed += count
        return True

    def look_at(self, count: int) -> None:
        """So many are looked at, and may be before the page, all of them."""
        self._before += count


def page_by_sets(
    db: Database,
    reach: Sequence[peewee.Expression],
    within: Sequence[AnyOf],
    conditions: Sequence[Any],
    keys: Sequence[AnyOf],
    page: Page,
    passing: Passing | None,
) -> list[int] | None:
    """Ids of a page of the studies that `conditions` hold of, newest first; None: sets are of no use here.

    Parameters
    ----------
    within, reach : where the studies are that whoever asks reaches: in all of these sets, or found by SQL as few.
    keys : what a study has that is found.
    passing : None where sets do not say all: then everything before the page is compared.
    """
    # Before the sets are read: what is folded meanwhile is in both.
    waiting = unfolded(db, MOST_UNFOLDED + 1)
    if len(waiting) > MOST_UNFOLDED:
        return None
    candidates = without(_candidates(db, reach, within, keys, exactly=passing is not None), of_ids(waiting))
    if size(candidates) <= FEW:
        return _newest(_holding(db, [*waiting, *ids_of(candidates)], conditions), page.offset, page.limit)
    places = _holding(db, waiting, conditions)
    if passing is not None:
        candidates = without(candidates, of_ids(_ids(db, passing.taken_away)))
        passing.days = sorted(day for day, _, _ in places)
    return _from_newest(db, candidates, conditions, places, page, passing)


def _candidates(
    db: Database,
    reach: Sequence[peewee.Expression],
    within: Sequence[AnyOf],
    keys: Sequence[AnyOf],
    *,
    exactly: bool,
) -> Sets:
    """What has all of `keys`, of what is reached. Where the keys leave few, and it need not be `exactly` that, whose
    they are is left to the conditions: the sets of institutions are the largest there are."""
    if reach or exactly or not keys:
        found = union([narrowed(db, None, within), of_ids(_ids(db, reach))])
        return narrowed(db, found, keys)
    found = narrowed(db, None, keys)
    return found if size(found) <= FEW else narrowed(db, found, within)


def _from_newest(
    db: Database,
    candidates: Sets,
    conditions: Sequence[Any],
    places: list[_Place],
    page: Page,
    passing: Passing | None,
) -> list[int] | None:
    """As `page_by_sets`. What holds among `candidates` is looked for in growing groups, until there is enough."""
    wanted = page.offset + page.limit if passing is None else page.limit
    held, at_once = 0, max(_FIRST, wanted + wanted // 8)
    groups = from_newest(
        db, candidates, lambda: at_once, page.dates, passing or (lambda _date, _count: False)
    )
    while True:
        ids: list[int] = []
        for group in groups:
            ids += group
            if passing is not None:
                passing.look_at(len(group))
            if len(group) > _MOST_IN_A_DAY:
                return None
            if len(ids) >= at_once:
                break
        some = _holding(db, ids, conditions)
        places += some
        held += len(some)
        before = page.offset - (passing.passed if passing is not None else 0)
        if not ids or held >= before + page.limit:
            return _newest(places, before, page.limit)
        at_once = min(2 * at_once, max(_AT_MOST, at_once))


def _newest(places: list[_Place], before: int, limit: int) -> list[int]:
    return [at for _, _, at in sorted(places, reverse=True)[before : before + limit]]


def _holding(db: Database, ids: Sequence[int], conditions: Sequence[Any]) -> list[_Place]:
    """Where in the order those of `ids` stand that `conditions` hold of."""
    if not ids:
        return []
    query = Study.select(Study.study_date, Study.study_time, Study.id)
    return rows_of(db, query.where(reduce(and_, conditions, Among(Study.id, ids))))


def _ids(db: Database, reach: Iterable[peewee.Expression]) -> list[int]:
    return [at for way in reach for (at,) in rows_of(db, Study.select(Study.id).where(way))]
