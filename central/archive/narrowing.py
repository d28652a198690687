"""The matching keys of a study, and which of them leads to few studies.

Why it exists: SQLite cannot know how many studies a key leads to. So it is asked, by the key's own index and no
further than `FEW`, and then told by which index to enter. PostgreSQL has statistics, which know what is frequent and
guess what is not: it is asked as well where an index can tell, and is given the few that there are by their ids.

Always true: which way is taken changes how long a search takes, never what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, Final

import peewee

from central.archive.query import (
    Condition,
    Fold,
    StudyQuery,
    code_list,
    fold,
    fold_physician,
    group_pattern,
    has_wildcard,
    matches_date,
    matches_name_word,
    matches_person_name,
    matches_text,
    matches_time,
    matches_uids,
    words_of,
)
from central.archive.tables import Series, Study
from central.archive.text_index import has_trigram, words_with
from central.database import Among, Contains, Database, Sqlite, Unindexed, rows_of

FEW: Final = 4000
"""What is found at most so often is fetched whole and sorted; of what is found more often, the newest are looked for
among all, and soon found."""
_FEW_IDS: Final = 1000
"""As `FEW`, on PostgreSQL, which fetches a row to know its id."""
_WITH_INDEX: Final = (
    "accession_number",
    "patient_id",
    "study_id",
    "issuer_of_patient_id",
    "patient_name_key",
    "referring_physician_key",
)
"""Columns whose own index finds what a text begins with."""


@dataclass(frozen=True)
class Key:
    """One matching key as SQL.

    Attributes
    ----------
    looking : on a row that is there; no index is entered by it.
    entering : the same, so that an index is entered by it; None: none can be.
    probes : queries that together find what the key leads to, to be counted; none in it: they are few; None: the
        index is one in the order of an answer, and entered by it whatever it leads to.
    counted_everywhere : on PostgreSQL, too, by the one probe.
    """

    looking: Condition
    entering: Condition | None = None
    probes: tuple[Any, ...] | None = ()
    counted_everywhere: bool = False

    @property
    def within_order(self) -> Condition:
        """Where rows are read in their order by date."""
        return self.entering if self.probes is None and self.entering is not None else self.looking


def study_keys(db: Database, query: StudyQuery) -> list[Key]:
    """The keys of `query`, those first that lead to fewest studies as a rule.

    Raises
    ------
    QueryError : a key cannot be understood.
    """
    keys = [
        _uid_key(query.study_instance_uid),
        _text_key(db, Study.accession_number, query.accession_number),
        _text_key(db, Study.patient_id, query.patient_id),
        _text_key(db, Study.study_id, query.study_id),
        *_name_keys(
            db, Study.patient_name_key, Study.patient_name_other_keys, query.patient_name, query.fuzzy_names
        ),
        *_name_keys(
            db,
            Study.referring_physician_key,
            None,
            query.referring_physician_name,
            query.fuzzy_names,
            fold_physician,
        ),
        _birth_date_key(query.patient_birth_date),
        _modality_key(query.modalities_in_study),
        _text_key(db, Study.study_description_key, query.study_description, folded=True),
        _text_key(db, Study.issuer_of_patient_id, query.issuer_of_patient_id),
        _date_key(query.study_date),
        _time_key(query.study_time),
    ]
    return [key for key in keys if key is not None]


def with_narrowest(db: Database, keys: Sequence[Key]) -> tuple[list[Condition], bool]:
    """All of `keys` as SQL for `db`; whether one leads to few studies, so that the database was told to enter by it."""
    if not isinstance(db, Sqlite):
        ids = _ids_of_narrowest(db, keys)
        if ids is not None:
            return [Among(Study.id, ids), *(key.looking for key in keys)], True
        return [key.looking if key.counted_everywhere else key.entering or key.looking for key in keys], False
    narrowest = next((key for key in keys if _leads_to_few(db, key)), None)
    if narrowest is None:
        return [key.within_order for key in keys], False
    assert narrowest.entering is not None, "only what has an index leads to few"
    return [narrowest.entering, *(key.looking for key in keys if key is not narrowest)], True


def _ids_of_narrowest(db: Database, keys: Sequence[Key]) -> list[int] | None:
    """The studies that the first key leads to which leads to few."""
    most = min(FEW, _FEW_IDS)
    for key in keys:
        if key.counted_everywhere and key.probes is not None:
            (probe,) = key.probes
            # Counted in the index alone: asked for ids, it fetches and sorts all rows where it expects few.
            if _count(db, probe, most) <= most:
                return [at for (at,) in rows_of(db, probe)]
    return None


def _leads_to_few(db: Database, key: Key) -> bool:
    if key.entering is None or key.probes is None:
        return False
    return all(_count(db, probe, FEW) <= FEW for probe in key.probes)


def _count(db: Database, probe: Any, most: int) -> int:
    """One more than `most` and no further: of what is everywhere the index need not say where."""
    some = probe.limit(most + 1).alias("some")
    return int(peewee.Select([some], [peewee.fn.COUNT(peewee.SQL("*"))]).scalar(db))


def _looked_at(column: peewee.Field) -> peewee.ColumnBase:
    return Unindexed(column, everywhere=True)


def _uid_key(key: str) -> Key | None:
    entering = matches_uids(Study.study_instance_uid, key)
    looking = matches_uids(_looked_at(Study.study_instance_uid), key)
    return None if entering is None or looking is None else Key(looking, entering)


def _text_key(db: Database, column: peewee.Field, key: str, *, folded: bool = False) -> Key | None:
    pattern = fold(key) if folded else key.strip(" ")
    return _key(db, column, None, pattern, lambda at: matches_text(at, key, folded=folded))


def _name_keys(
    db: Database,
    column: peewee.Field,
    others: peewee.Field | None,
    key: str,
    is_fuzzy: bool,
    folded: Fold = fold,
) -> list[Key | None]:
    if is_fuzzy:
        return [_word_key(db, column, others, word) for word in words_of(key, folded)]
    pattern = folded(key).rstrip("^ ")
    others = None if pattern.isascii() else others
    return [_key(db, column, others, pattern, lambda at: matches_person_name(at, others, key, folded))]


def _word_key(db: Database, column: peewee.Field, others: peewee.Field | None, word: str) -> Key | None:
    others = None if word.isascii() else others
    return _key(db, column, others, f"*{word}*", lambda at: matches_name_word(at, others, word))


def _key(
    db: Database,
    column: peewee.Field,
    others: peewee.Field | None,
    pattern: str,
    compared: Callable[[peewee.ColumnBase], Condition | None],
) -> Key | None:
    looking, by_index = compared(_looked_at(column)), compared(column)
    if looking is None or by_index is None:
        return None
    begins = column.name in _WITH_INDEX and not has_wildcard(pattern.rstrip("*"))
    if not isinstance(db, Sqlite):
        if not begins or others is not None:
            return Key(looking, by_index)
        # In the index's order: PostgreSQL would rather read the table if it thinks that there are many.
        probe = Study.select(Study.id).where(by_index).order_by(column)
        return Key(looking, by_index, (probe,), counted_everywhere=True)
    in_groups = group_pattern(pattern)
    if not (begins or has_trigram(pattern, column)) or not (others is None or has_trigram(in_groups, others)):
        return Key(looking)
    probes = [Study.select(Study.id).where(by_index) if begins else words_with(column, pattern)]
    if others is not None:
        probes.append(words_with(others, in_groups))
    elif begins:
        return Key(looking, by_index, tuple(probes))
    return Key(looking, reduce(or_, map(Study.id.in_, probes)) & looking, tuple(probes))


def _modality_key(key: str) -> Key | None:
    """By what the study's own row lists, which is what is answered; by the series where few have it."""
    codes = code_list(key)
    if not codes:
        return None
    listed = peewee.Value("\\").concat(Study.modalities).concat(peewee.Value("\\"))
    # Most studies have one: comparing that is done soonest.
    one: peewee.Expression = Study.modalities.in_(codes)
    looking = reduce(or_, (Contains(listed, f"\\{code}\\") for code in codes), one)
    of_series = Series.select(Series.study).where(Series.modality.in_(codes))
    return Key(looking, Study.id.in_(of_series) & looking, (of_series,), counted_everywhere=True)


def _date_key(key: str) -> Key | None:
    entering, looking = matches_date(Study.study_date, key), matches_date(_looked_at(Study.study_date), key)
    return None if entering is None or looking is None else Key(looking, entering, None)


def _birth_date_key(key: str) -> Key | None:
    entering = matches_date(Study.patient_birth_date, key)
    looking = matches_date(_looked_at(Study.patient_birth_date), key)
    if entering is None or looking is None:
        return None
    # In the index's order: as in `_key`.
    probe = Study.select(Study.id).where(entering).order_by(Study.patient_birth_date)
    return Key(looking, entering, (probe,), counted_everywhere=True)


def _time_key(key: str) -> Key | None:
    looking = matches_time(_looked_at(Study.study_time), key)
    return None if looking is None else Key(looking)
