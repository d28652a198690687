"""Searches for what stands in the middle of a text: trigram indexes, and when to use them.

A pattern such as ``*ana*`` has no beginning that an ordinary index could be entered by. Both databases can index the
groups of three characters in a text instead: PostgreSQL by pg_trgm, whose planner weighs it against reading
the newest studies one after the other; SQLite by FTS5, where `central.archive.narrowing` weighs. What is found often is
found soon among the newest; what is found seldom wants the index.

Always true: the index says what `study` says, because triggers of the database keep it so in the same transaction.
"""

from __future__ import annotations

import re
from typing import Any, Final

import peewee

from central.archive.tables import Study
from central.database import Database, Sqlite

_COLUMNS: Final = (
    Study.patient_name_key,
    Study.patient_name_other_keys,
    Study.patient_id,
    Study.accession_number,
    Study.study_description_key,
    Study.referring_physician_key,
)
_NAMES: Final = tuple(column.name for column in _COLUMNS)
_WORDS: Final[Any] = peewee.Table("study_words", ("rowid", "study_words"))
_TRIGRAM: Final = 3
_MERGED_AT_ONCE: Final = 500  # pages: others write in between


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


def purge_words(db: Database) -> None:
    """Overwrite what the index holds of studies that are gone. Outside of any transaction.

    FTS5 keeps their words, in their order, and only marks them as gone until it merges by itself, which may be years.
    PostgreSQL's vacuum cleans its indexes, too.
    """
    if not isinstance(db, Sqlite):
        return
    with db.overwriting():
        pages = -_MERGED_AT_ONCE  # begins to merge everything; the next go on (FTS5, "The merge command")
        while _merged(db, pages):
            pages = _MERGED_AT_ONCE


def _merged(db: Sqlite, pages: int) -> bool:
    """Whether there is more to merge."""
    with db.writing():
        connection = db.connection()  # type: ignore[no-untyped-call]  # the stubs leave it untyped
        before = connection.total_changes
        _run(db, f"INSERT INTO study_words(study_words, rank) VALUES ('merge', {pages})")  # noqa: S608  # our own number
        return bool(connection.total_changes - before >= 2)


def has_trigram(pattern: str, column: peewee.Field) -> bool:
    """Whether what matches `pattern` can be found by the index."""
    return column.name in _NAMES and bool(_phrases(pattern))


def words_with(column: peewee.Field, pattern: str) -> Any:
    """SQLite: ids of the studies in whose `column` stands all that `pattern` has between its wildcards."""
    phrases = " AND ".join('"' + phrase.replace('"', '""') + '"' for phrase in _phrases(pattern))
    asked = f"{{{column.name}}} : ({phrases})"
    return _WORDS.select(_WORDS.rowid).where(peewee.Expression(_WORDS.study_words, "MATCH", asked))


def _phrases(pattern: str) -> list[str]:
    return [run for run in re.split(r"[*?]", pattern) if len(run) >= _TRIGRAM]


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
