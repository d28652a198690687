"""The modalities that a wildcard stands for, spelled out before a search.

Why it exists: a study lists its modalities in one text, and in sets; neither knows wildcards.

Always true: which modalities there are comes from their index, one probe for each, however many series have it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import peewee

from central.archive.errors import QueryError
from central.archive.query import StudyQuery, code_list, has_wildcard, is_like
from central.archive.tables import Series
from central.database import Database

MOST: Final = 500
"""Different modalities looked through; the standard defines about a hundred."""


def spelled_out(db: Database, query: StudyQuery) -> StudyQuery:
    """`query` with the modalities that there are in place of its wildcards (PS3.4 section C.2.2.2.4).

    Raises
    ------
    QueryError : there are more than `MOST`.
    """
    if not has_wildcard(query.modalities_in_study):
        return query
    asked = code_list(query.modalities_in_study)
    patterns = [code for code in asked if has_wildcard(code)]
    # One that stands for nothing stays, and is found nowhere, since no value has a wildcard.
    found = [code for code in _modalities(db) if any(is_like(pattern, code) for pattern in patterns)]
    return replace(query, modalities_in_study="\\".join([*asked, *found]))


def _modalities(db: Database) -> Iterator[str]:
    last = ""
    for _ in range(MOST):
        following = Series.select(peewee.fn.MIN(Series.modality)).where(Series.modality > last).scalar(db)
        if following is None:
            return
        last = str(following)
        yield last
    raise QueryError(f"there are more than {MOST} modalities here: name those that are wanted")
