"""The database of the index and of everything central must know: SQLite in a file, or PostgreSQL.

Rooms are written once, in peewee's words, and are given one of two classes: `Sqlite` here, or `Postgres`
(`central.postgres`). What differs between the two is said there and here, and nowhere else.

What is always true
-------------------
- When a transaction of `writing` has ended, what it wrote survives a power cut: SQLite in WAL with synchronous FULL;
  a PostgreSQL that would answer before it has synced is refused at start.
- There is one writer at a time, also over several processes on one PostgreSQL: `writing` holds an advisory lock until
  it has committed. So what is read in there is still so when it is written, as in SQLite.
- Text compares by code point (collation C), so a prefix can be asked for as a range in both.

What a crash leaves: a transaction whole, or nothing of it. A commit whose answer was lost may be either; whoever asked
sees an error and asks again, and all that is written here may be written twice.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import peewee

from central.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_PRAGMAS: Final = {
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "busy_timeout": 10_000,
    "cache_size": -8_000,  # KiB, of each connection: the inner pages of a large archive's indexes
}
_PATIENCE_S: Final = 60.0
_WRITES: Final = ("INSERT", "UPDATE", "DELETE")


class Sqlite(peewee.SqliteDatabase):
    """One file. A connection a thread.

    Threads of one process wait for each other here. SQLite's own way, for other processes, is to sleep and look again,
    for longer each time: among many writers one of them finds the file locked until its patience is over.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._turn = threading.Lock()
        super().__init__(*args, **kwargs)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction that will write; waits for any other. Inside another one: a part of it."""
        with self._turn_to_write(), self.atomic("IMMEDIATE"):
            yield

    def execute_sql(self, sql: str, params: Sequence[object] | None = None) -> Any:
        """As peewee's; a statement that writes waits for its turn, unless it is part of a transaction."""
        with self._turn_to_write() if sql.startswith(_WRITES) else nullcontext():
            return super().execute_sql(sql, params)  # type: ignore[no-untyped-call]  # the stubs leave it untyped

    @contextmanager
    def _turn_to_write(self) -> Iterator[None]:
        if self.in_transaction():  # a thread's own
            yield
            return
        if not self._turn.acquire(timeout=_PATIENCE_S):
            raise peewee.OperationalError("database is locked: others have written for a minute")
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def erasing(self, _models: Sequence[type[peewee.Model]]) -> Iterator[None]:
        """A transaction whose deleted rows are overwritten, in the file and then in its write-ahead log."""
        with self.overwriting(), self.writing():
            yield

    @contextmanager
    def overwriting(self) -> Iterator[None]:
        """Whatever this thread deletes here is overwritten, in the file and then in its write-ahead log."""
        self._pragma("secure_delete = ON")
        try:
            yield
        finally:
            self._pragma("secure_delete = OFF")
        self._pragma("wal_checkpoint(TRUNCATE)")

    def shrink(self, _model: type[peewee.Model]) -> None:
        """Give back the room of rows that are gone; here it is used for others, and in nobody's way."""

    def keeping(self) -> AbstractContextManager[object]:
        """For all that this thread asks meanwhile; here its connection is its own anyway."""
        return nullcontext()

    def damage(self) -> list[str]:
        """What is wrong with the file's pages, a sentence each; reads all of it."""
        try:
            found = self.execute_sql("PRAGMA quick_check(20)").fetchall()
        except (peewee.DatabaseError, sqlite3.DatabaseError) as error:  # the latter where rows are fetched
            return [str(error)]
        return [" ".join(str(line).split()) for (line,) in found if line != "ok"]

    def _pragma(self, pragma: str) -> None:
        self.execute_sql(f"PRAGMA {pragma}")

    def end(self) -> None:
        """Close this thread's connection; those of others end with their threads."""
        self.close()


class Wildcard(peewee.ColumnBase):
    """`column` matches `pattern`, in which ``*`` is any text and ``?`` any character; case counts."""

    def __init__(self, column: peewee.ColumnBase, pattern: str) -> None:
        self._column = column
        self._pattern = pattern

    def __sql__(self, ctx: Any) -> Any:
        globs = ctx.state.operations["LIKE"] == "GLOB"  # what peewee's `%` is in SQLite
        return ctx.sql(self._column % (_glob(self._pattern) if globs else _like(self._pattern)))


class Unindexed(peewee.ColumnBase):
    """`column`, by which SQLite is not to enter an index; PostgreSQL knows from its statistics what is worth it.

    Parameters
    ----------
    everywhere : PostgreSQL is not to, either; of a column of text.
    """

    def __init__(self, column: peewee.ColumnBase, *, everywhere: bool = False) -> None:
        self._column = column
        self._everywhere = everywhere

    def __sql__(self, ctx: Any) -> Any:
        sqlite = ctx.state.operations["LIKE"] == "GLOB"
        if sqlite:
            return ctx.literal("+").sql(self._column)
        if self._everywhere:
            return ctx.literal("(").sql(self._column).literal(" || '')")
        return ctx.sql(self._column)


class Contains(peewee.ColumnBase):
    """`text` stands in `column` as it is; case counts."""

    def __init__(self, column: peewee.ColumnBase, text: str) -> None:
        self._column = column
        self._text = text

    def __sql__(self, ctx: Any) -> Any:
        place = "INSTR" if ctx.state.operations["LIKE"] == "GLOB" else "STRPOS"
        return ctx.sql(peewee.Function(place, (self._column, self._text)) > 0)


class Among(peewee.ColumnBase):
    """`column`, an integer of four bytes, is one of `numbers`; any number of them as one parameter."""

    def __init__(self, column: peewee.ColumnBase, numbers: Sequence[int]) -> None:
        self._column = column
        self._numbers = numbers

    def __sql__(self, ctx: Any) -> Any:
        if ctx.state.operations["LIKE"] == "GLOB":
            listed = peewee.SQL("(SELECT value FROM json_each(?))", [json.dumps(list(self._numbers))])
            return ctx.sql(peewee.Expression(self._column, "IN", listed))
        # As text: of a list the driver looks at each number by itself, which took longer than finding the rows.
        every = peewee.SQL("ANY(CAST(%s AS integer[]))", [f"{{{','.join(map(str, self._numbers))}}}"])
        return ctx.sql(peewee.Expression(self._column, "=", every))


class AmongFound(peewee.ColumnBase):
    """`column` is one of what `query` finds. peewee's `in_` puts a query together twice, to see if it is empty."""

    def __init__(self, column: peewee.ColumnBase, query: peewee.Node) -> None:
        self._column = column
        self._query = query

    def __sql__(self, ctx: Any) -> Any:
        with ctx(parentheses=True, in_expr=True, converter=None):
            return ctx.sql(self._column).literal(" IN ").sql(self._query)


class Once(peewee.ColumnBase):
    """`part` of a statement, of `model`'s columns and of no other table's outside of it: put into SQL once, and not
    again for each statement that says it. Long ones cost more to put together than to be answered."""

    def __init__(self, model: type[peewee.Model], part: peewee.ColumnBase) -> None:
        self._table = model._meta.table
        self._part = part
        self._made: dict[tuple[str, str], tuple[str, list[Any]]] = {}

    def __sql__(self, ctx: Any) -> Any:
        # All that its SQL depends on: the database, and what the table is called in this statement.
        key = ctx.state.operations["LIKE"], ctx.alias_manager[self._table]
        if (made := self._made.get(key)) is not None:
            return ctx.sql(peewee.SQL(*made))
        sql, values = ctx.query()
        before = len(values)
        ctx.sql(self._part)
        whole, values = ctx.query()
        self._made[key] = whole[len(sql) :], values[before:]
        return ctx


def _glob(pattern: str) -> str:
    return pattern.replace("[", "[[]")


def _like(pattern: str) -> str:
    plain = re.sub(r"([\\%_])", r"\\\1", pattern)
    return plain.replace("*", "%").replace("?", "_")


Database = Sqlite | Postgres


def open_sqlite(path: Path, *, one_connection: bool = False) -> Sqlite:
    """The database at `path`, made with mode 0600 if it is not there.

    Parameters
    ----------
    one_connection : for all threads, behind a lock of the caller's, instead of one a thread.

    Raises
    ------
    OSError, peewee.PeeweeException : it cannot be opened.
    """
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    db = Sqlite(
        str(path), pragmas=_PRAGMAS, thread_safe=not one_connection, check_same_thread=not one_connection
    )
    db.connect()
    return db


def rows_of(db: Database, query: Any) -> list[tuple[Any, ...]]:
    """What `query` finds, as the driver has it: of thousands of rows peewee's own take several times as long."""
    rows: list[tuple[Any, ...]] = db.execute(query).fetchall()  # type: ignore[no-untyped-call]  # left out by the stubs
    return rows


def make_tables(db: Database, models: Sequence[type[peewee.Model]]) -> None:
    """Make the tables of `models` where they are missing; several processes may do so at once."""
    with db.writing(), db.bind_ctx(models):
        db.create_tables(models)


def grow_table(db: Database, table: str, columns: Mapping[str, str], *, outgrown: Sequence[str] = ()) -> None:
    """Give a table of an older version what it lacks; before `make_tables`, whose indexes may be on what is new.

    Parameters
    ----------
    columns : SQL type and default of each that came later.
    outgrown : indexes that an older version made and this one does not want.
    """
    with db.writing():  # several programs may open it at once
        known = {column.name for column in db.get_columns(table)}
        statements = [
            f"ALTER TABLE {table} ADD COLUMN {name} {definition}"
            for name, definition in columns.items()
            if name not in known
        ]
        if known and statements:
            for statement in (*statements, *(f"DROP INDEX IF EXISTS {index}" for index in outgrown)):
                db.execute(peewee.SQL(statement))  # type: ignore[no-untyped-call]  # the stubs leave it untyped


def rekey_table(db: Database, model: type[peewee.Model]) -> None:
    """Make a table of an older version anew whose primary key has got further columns: these get their defaults.

    Nothing is done where the table is missing, or has them; before `make_tables`.
    """
    table = model._meta.table_name
    with db.writing():  # several programs may open it at once
        known = {column.name for column in db.get_columns(table)}
        kept = [field for name, field in model._meta.fields.items() if name in known]
        if not known or len(kept) == len(model._meta.fields):
            return
        former = f"{table}_former"
        db.execute(peewee.SQL(f"ALTER TABLE {table} RENAME TO {former}"))  # type: ignore[no-untyped-call]  # the stubs leave it untyped
        make_tables(db, [model])
        columns = [peewee.SQL(field.column_name) for field in kept]
        rows = peewee.Table(former).select(*columns)
        for row in list(rows.dicts().execute(db)):
            model.insert(**row).execute(db)
        db.execute(peewee.SQL(f"DROP TABLE {former}"))  # type: ignore[no-untyped-call]  # the stubs leave it untyped


def put(db: Database, model: type[peewee.Model], row: Mapping[str, object]) -> None:
    """Insert `row`, or replace the one that has its primary key."""
    fields = model._meta.fields
    key = model._meta.get_primary_keys()  # type: ignore[no-untyped-call]  # the stubs leave it untyped
    names = {field.name for field in key}
    model.insert(row).on_conflict(
        conflict_target=list(key),
        preserve=[fields[name] for name in row if name not in names],
    ).execute(db)
