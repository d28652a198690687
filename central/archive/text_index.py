"""Searches for what stands in the middle of a text: trigram indexes, and when to use them.

A pattern such as ``*ana*`` has no beginning that an ordinary index could be entered by. Both databases can index the
groups of three characters in a text instead: PostgreSQL by pg_trgm, whose planner weighs it against reading
the newest studies one after the other; SQLite by FTS5, where this module weighs. What is found often is found soon
among the newest; what is found seldom wants the index.

Always true: the index says what `study` says, because triggers of the database keep it so in the same transaction.
"""

from __future__ import annotations

import re
from typing import Any, Final

import peewee

from central.archive.query import Condition, Matching
from central.archive.tables import Series, Study
from central.database import Database, Sqlite, Wildcard

_COLUMNS: Final = (
    Study.patient_name_key,
    Study.patient_name_other_keys,
    Study.patient_id,
    Study.accession_number,
    Study.study_description_key,
    Study.referring_physician_key,
)
_NAMES: Final = tuple(column.name for column in _COLUMNS)
_WORDS: Final[Any] = peewee.Table("study_words", ("rowid", *_NAMES))
_TRIGRAM: Final = 3
_FEW: Final = 2000
"""What is found at most so often is fetched whole and sorted; else the newest are looked through."""


def make_text_index(db: Database) -> None:
    """Make the indexes where they are missing, and fill them from the studies that are there."""
    with db.writing():
        if not isinstance(db, Sqlite):
            _run(db, "CREATE EXTENSION IF NOT EXISTS pg_trgm")
            for name in _NAMES:
                _run(
                    db,
                    f"CREATE INDEX IF NOT EXISTS study_{name}_trigrams ON study USING gin ({name} gin_trgm_ops)",
                )
        elif "study_words" not in db.get_tables():
            for statement in _SQLITE:
                _run(db, statement)


def matching_in(db: Database) -> Matching:
    """How `db` had better look for a pattern."""

    def matching(column: peewee.Field, pattern: str) -> Condition:
        compared = Wildcard(column, pattern)
        if not isinstance(db, Sqlite) or column.name not in _NAMES or not _has_trigram(pattern):
            return compared
        words = _WORDS.select(_WORDS.rowid).where(Wildcard(getattr(_WORDS, column.name), pattern))
        return Study.id.in_(words) if _are_few(db, words) else compared

    return matching


def with_series(db: Database, condition: peewee.Expression) -> Condition:
    """Studies that have a series for which `condition` holds."""
    found = Series.select(Series.study).where(condition)
    if not isinstance(db, Sqlite) or _are_few(db, found):
        return Study.id.in_(found)
    exists: peewee.Expression = peewee.fn.EXISTS(found.where(Series.study == Study.id)) == True  # noqa: E712  # SQL
    return exists


def is_among_few(condition: Condition | None) -> bool:
    """Whether a condition made here names the studies themselves, because they are few."""
    return isinstance(condition, peewee.Expression) and condition.lhs is Study.id


def _are_few(db: Database, found: Any) -> bool:
    # One more than few and no further: of what is everywhere the index need not say where.
    return len(list(found.limit(_FEW + 1).tuples().execute(db))) <= _FEW


def _has_trigram(pattern: str) -> bool:
    return any(len(run) >= _TRIGRAM for run in re.split(r"[*?]", pattern))


def _run(db: Database, statement: str) -> None:
    db.execute(peewee.SQL(statement))  # type: ignore[no-untyped-call]  # the stubs leave it untyped


def _listed(prefix: str) -> str:
    return ", ".join(prefix + name for name in _NAMES)


# S608: made of the names of our own columns.
_ADD: Final = f"INSERT INTO study_words(rowid, {_listed('')}) VALUES (new.id, {_listed('new.')});"  # noqa: S608
_TAKE: Final = (
    f"INSERT INTO study_words(study_words, rowid, {_listed('')}) "  # noqa: S608
    f"VALUES ('delete', old.id, {_listed('old.')});"
)
_SQLITE: Final = (
    f"CREATE VIRTUAL TABLE study_words USING fts5({_listed('')}, content = 'study', content_rowid = 'id', "
    "tokenize = 'trigram case_sensitive 1')",
    f"CREATE TRIGGER study_words_insert AFTER INSERT ON study BEGIN {_ADD} END",
    f"CREATE TRIGGER study_words_update AFTER UPDATE OF {_listed('')} ON study BEGIN {_TAKE} {_ADD} END",
    f"CREATE TRIGGER study_words_delete AFTER DELETE ON study BEGIN {_TAKE} END",
    "INSERT INTO study_words(study_words) VALUES ('rebuild')",
)
