"""Which files were imported already: one row a file, written in the transaction that indexes it.

Always true: a row means that the file's content is durable and indexed. It stands in the index's own database, so an
index that was set back to a backup forgets both, and the files are imported again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import peewee

from central.database import Database, make_tables
from central.institution import DEFAULT_INSTITUTION

_AT_ONCE: Final = 500


class ImportedFile(peewee.Model):
    """`key` is a hash over path, size and time: names of files often are names of patients. Before it stands the
    institution that it was imported for, if it is not the default one."""

    key = peewee.TextField(primary_key=True)

    class Meta:
        table_name = "imported_file"


class Ledger:
    """The rows in `db` of one institution: what another one imported is not yet this one's."""

    def __init__(self, db: Database, institution: str = DEFAULT_INSTITUTION) -> None:
        make_tables(db, (ImportedFile,))
        self._db = db
        self._prefix = "" if institution == DEFAULT_INSTITUTION else f"{institution}:"

    def known(self, keys: Sequence[str]) -> set[str]:
        """Those of `keys` that were imported."""
        found: set[str] = set()
        for at in range(0, len(keys), _AT_ONCE):
            some = [self._prefix + key for key in keys[at : at + _AT_ONCE]]
            query = ImportedFile.select().where(ImportedFile.key.in_(some))
            found.update(row["key"].removeprefix(self._prefix) for row in query.dicts().execute(self._db))
        return found

    def add(self, keys: Iterable[str]) -> None:
        """Inside the transaction that indexes them."""
        rows = [{"key": self._prefix + key} for key in keys]
        for at in range(0, len(rows), _AT_ONCE):
            ImportedFile.insert_many(rows[at : at + _AT_ONCE]).on_conflict_ignore().execute(self._db)
