"""Statements whose SQL is made once: peewee's words where they are written, and no work of peewee's where they run.

Why it exists: to put one statement together costs peewee more than SQLite needs to answer it, and every request asks
the same few questions. What varies is bound as a parameter, as ever; what varies in form is no matter for this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import peewee

from central.database import Database


@dataclass(frozen=True)
class _Given:
    name: str


def given(name: str) -> Any:
    """The place of a value that is said when the statement runs, as text, number, bytes, truth or None."""
    return peewee.Value(_Given(name), converter=False)


class Prepared:
    """One statement, for every kind of database. Safe to run from many threads."""

    def __init__(self, query: Any) -> None:
        self._query = query
        self._made: dict[type, tuple[str, list[Any]]] = {}

    def rows(self, db: Database, **values: Any) -> list[dict[str, Any]]:
        """What a query finds, by the names of its columns; truth values come as the database has them."""
        cursor = self._executed(db, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def tuples(self, db: Database, **values: Any) -> list[tuple[Any, ...]]:
        """As `rows`, by the order of the columns."""
        return list(self._executed(db, values).fetchall())

    def first(self, db: Database, **values: Any) -> dict[str, Any] | None:
        """The first row, if there is one."""
        return next(iter(self.rows(db, **values)), None)

    def run(self, db: Database, **values: Any) -> int:
        """How many rows were changed."""
        return int(self._executed(db, values).rowcount)

    def _executed(self, db: Database, values: dict[str, Any]) -> Any:
        made = self._made.get(type(db))
        if made is None:
            # The stubs leave the last step untyped.
            sql, parameters = db.get_sql_context().sql(self._query).query()  # type: ignore[no-untyped-call]
            made = self._made[type(db)] = sql, list(parameters)
        sql, parameters = made
        said = [values[one.name] if isinstance(one, _Given) else one for one in parameters]
        return db.execute_sql(sql, said)


def insertion(model: type[peewee.Model]) -> Prepared:
    """One row of `model`, whose key the database makes: `first` gives it as ``id``. Every other column is given."""
    fields = model._meta.fields
    columns = {field: given(name) for name, field in fields.items() if name != "id"}
    return Prepared(model.insert(columns).returning(fields["id"]))
