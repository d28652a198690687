"""The studies that a search may find, from the newest on, by intersecting sets (`central.archive.postings`).

Always true: what is not a candidate is not found by the search; of the candidates most are, which whoever asked
finds out by SQL. So a candidate is nothing that anybody may be shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import peewee

from central.archive.postings import (
    BEGIN,
    DATE_LENGTH,
    DATES,
    DAY,
    END,
    FOLDED,
    HOUR,
    INSTITUTION,
    MINUTE,
    MODALITY,
    MONTH,
    PAIRED,
    PHYSICIAN,
    SERVICE,
    YEAR,
    each_between,
    members,
    with_all,
)
from central.archive.query import StudyQuery, code_list, fold, fold_physician, words_of
from central.archive.sets import Sets, ids_of, intersection, size
from central.archive.tables import Study
from central.database import Database

_LAST_CHARACTER: Final = "\U0010ffff"
_TOGETHER: Final = 512  # candidates that one day or month may have to be looked at as a whole


def _as_it_is(key: str) -> str:
    return key.strip(" ")


_TEXTS: Final = (
    # The column, the key of a query, and how it is folded to be compared.
    (Study.patient_name_key, "patient_name", fold),
    (Study.referring_physician_key, "referring_physician_name", fold_physician),
    (Study.study_description_key, "study_description", fold),
    (Study.patient_id, "patient_id", _as_it_is),
    (Study.accession_number, "accession_number", _as_it_is),
    (Study.study_id, "study_id", _as_it_is),
    (Study.issuer_of_patient_id, "issuer_of_patient_id", _as_it_is),
)
_PERSON_NAMES: Final = ("patient_name", "referring_physician_name")
_DAYS_APART: Final = 100  # as numbers YYYYMMDD: within a month, or from one to the next


@dataclass(frozen=True)
class AnyOf:
    """Studies that have one of `terms`, or one in one of `ranges`."""

    terms: tuple[str, ...] = ()
    ranges: tuple[tuple[str, str], ...] = ()

    def members(self, db: Database) -> Sets:
        return members(db, self.terms, self.ranges)


def terms_of(query: StudyQuery) -> list[AnyOf]:
    """What a study has that `query` finds, all of it; the keys are ones that `study_keys` understood."""
    found = []
    for column, name, pattern in _patterns(query):
        # What is in another alphabet may be in the other groups as well.
        if name != "patient_name" or pattern.isascii():
            found += _of_text(PAIRED[column], pattern)
    if codes := code_list(query.modalities_in_study):
        found.append(AnyOf(tuple(MODALITY + code for code in codes)))
    return [*found, *_of_date(query.study_date), *_of_time(query.study_time)]


def _patterns(query: StudyQuery) -> Iterator[tuple[peewee.TextField, str, str]]:
    """The keys that are of texts: the column, the key's name, and the pattern as it is compared."""
    for column, name, folded in _TEXTS:
        key = getattr(query, name)
        if query.fuzzy_names and name in _PERSON_NAMES:
            for word in words_of(key, folded):
                yield column, name, f"*{word}*"
            continue
        pattern = folded(key)
        if name in _PERSON_NAMES:
            pattern = pattern.rstrip("^ ")
        if pattern.strip("*"):
            yield column, name, pattern


def of_everything() -> AnyOf:
    return AnyOf((FOLDED,))


def of_institutions(institutions: Sequence[str]) -> AnyOf:
    return AnyOf(tuple(INSTITUTION + one for one in institutions))


def of_departments(physicians: Sequence[str], services: Sequence[str]) -> AnyOf:
    """Of a referring physician, or asked for by a department."""
    return AnyOf((*(PHYSICIAN + key for key in physicians), *(SERVICE + key for key in services)))


def narrowed(db: Database, found: Sets | None, conditions: Sequence[AnyOf]) -> Sets:
    """What of `found` (None: of all) has everything in `conditions`."""
    plain = {one.terms[0] for one in conditions if len(one.terms) == 1 and not one.ranges}
    if plain:
        its = with_all(db, sorted(plain))
        found = its if found is None else intersection(found, its)
    for condition in conditions:
        if found is not None and not found:
            break
        if len(condition.terms) != 1 or condition.ranges:
            its = condition.members(db)
            found = its if found is None else intersection(found, its)
    return found or {}


def has_texts(query: StudyQuery) -> bool:
    """Whether a key is of a text; most of these are of few studies each."""
    return next(_patterns(query), None) is not None


def says_all(query: StudyQuery) -> bool:
    """Whether what has everything in `terms_of` is found, but for its date and for who asks."""
    for _, name, pattern in _patterns(query):
        if query.fuzzy_names and name in _PERSON_NAMES:  # where a word begins no pair says
            return False
        runs = [run for run in pattern.split("*") if run]
        edges = (not pattern.startswith("*")) + (not pattern.endswith("*"))
        one_pair = len(runs) == 1 and len(runs[0]) + edges <= 2
        if not one_pair or "?" in pattern or BEGIN in pattern or END in pattern:
            return False
        if name == "patient_name" and not pattern.isascii():
            return False
    if query.patient_birth_date.strip("* "):  # no set is of birth dates
        return False
    first, last = _ends(query.study_time)
    # Of whole hours; what has no time is before none of them.
    return not (first or last) or (len(first) == 2 and len(last) in (0, 2) and first != last)


def is_within(key: str, date: str) -> bool:
    """Whether all dates that begin with `date` are within the range of days `key`."""
    first, last = _ends(key)
    return bool(date) and (not first or date > first[: len(date)]) and (not last or date < last[: len(date)])


def _is_outside(key: str, date: str) -> bool:
    """Whether no date that begins with `date` is within the range of days `key`."""
    first, last = _ends(key)
    return date[: len(first)] < first[: len(date)] or bool(last and date[: len(last)] > last[: len(date)])


def from_newest(
    db: Database,
    found: Sets,
    wanted: Callable[[], int],
    dates: str,
    passes: Callable[[str, int], bool],
    level: str = YEAR,
    within: str = "",
) -> Iterator[list[int]]:
    """The ids of `found` in groups: all of a group have later dates than those of the next one.

    Parameters
    ----------
    dates : the key of days; what lies outside of them is left out.
    wanted : tells of how many studies the groups may be just now without being cut into smaller ones; each costs a
        statement or two, and of a day the sets of all slices.
    passes : told what a date begins with and of how many studies it is; whether these are passed over.
    """
    begin = level + within
    # One after the other: the newest are enough for most pages.
    for term, its in each_between(db, begin, begin + _LAST_CHARACTER, found):
        count = size(its)
        date = term[len(level) :]
        if not count or _is_outside(dates, date) or passes(date, count):
            continue
        if level == DAY or count <= max(_TOGETHER, wanted()) or len(date) < DATE_LENGTH[level]:
            yield list(ids_of(its))
        else:
            yield from from_newest(db, its, wanted, dates, passes, DATES[DATES.index(level) + 1], date)


def _of_text(letter: str, pattern: str) -> list[AnyOf]:
    found = []
    for run in re.split(r"[*?]", f"{BEGIN}{pattern}{END}"):
        if len(run) == 1 and run not in (BEGIN, END):
            found.append(AnyOf(ranges=((letter + run, letter + run + _LAST_CHARACTER),)))
        found += [AnyOf((letter + one + other,)) for one, other in pairwise(run)]
    return list(dict.fromkeys(found))


def _of_date(key: str) -> list[AnyOf]:
    first, last = _ends(key)
    if not (first or last):
        return []
    if first and last and int(last) - int(first) <= _DAYS_APART:
        return [_between(DAY, first, last)]
    if first[:4] == last[:4]:
        return [_between(MONTH, first[:6], last[:6])]
    # Whole years, and the months of the first and of the last.
    ranges = [(YEAR + (first[:4] and first[:4] + _LAST_CHARACTER), YEAR + (last[:4] or _LAST_CHARACTER))]
    if first:
        ranges.append((MONTH + first[:6], MONTH + first[:4] + _LAST_CHARACTER))
    if last:
        ranges.append((MONTH + last[:4], MONTH + last[:6] + _LAST_CHARACTER))
    return [AnyOf(ranges=tuple(ranges))]


def _of_time(key: str) -> list[AnyOf]:
    first, last = _ends(key)
    if not (first or last):
        return []
    if first[:2] == last[:2]:
        # "08" as a minute is all of that hour; what is shorter in a study begins with it.
        return [_between(MINUTE, first[:4], last[:4])]
    return [_between(HOUR, first[:2], last[:2])]


def _ends(key: str) -> tuple[str, str]:
    text = key.replace(" ", "").replace(":", "")
    if not text.strip("*"):
        return "", ""
    first, dash, last = text.partition("-")
    return (first, last) if dash else (first, first)


def _between(letter: str, first: str, last: str) -> AnyOf:
    return AnyOf(ranges=((letter + first, letter + last + _LAST_CHARACTER),))
