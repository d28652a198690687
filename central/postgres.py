"""PostgreSQL as the rooms are given it (`central.database`): a pool behind peewee's words, and one writer at a time.

Always true: a connection that is given back is in no transaction; who waits for one holds nothing that another needs.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import peewee
import psycopg
from psycopg import conninfo
from psycopg_pool import ConnectionPool, PoolTimeout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_WAIT_S: Final = 10.0
_CONNECTION: Final[Mapping[str, Any]] = {
    "connect_timeout": 5,
    # No jit: compiling a query costs more than any search here may take.
    "options": f"-c lock_timeout={_WAIT_S:.0f}s -c idle_in_transaction_session_timeout=60s -c jit=off",
}
_COLLATIONS: Final = ("C", "POSIX", "C.UTF-8", "C.utf8", "ucs_basic")
_INDEX_LOCK: Final = 0x6469636F6D6E6574  # "dicomnet": the one writer of the index
AUDIT_LOCK: Final = _INDEX_LOCK + 1


class DatabaseUnfitError(Exception):
    """The server would not keep what it is given, or could not find it again; the sentence says what to change."""


class _BinaryCursor(psycopg.Cursor[Any]):
    """Takes results as they are, not spelled out as text: sets of searches (decision 67) come in half the bytes."""

    def __init__(self, connection: psycopg.Connection[Any], *, row_factory: Any = None) -> None:
        super().__init__(connection, row_factory=row_factory)
        self.format = psycopg.pq.Format.BINARY


class Postgres(peewee.PostgresqlDatabase):
    """A database on a PostgreSQL server. Connections come from a pool and go back after each statement or transaction.

    A connection is tried before it is used, so a server that was restarted in between costs nobody an error. Who asks
    many things in a row keeps one (`keeping`), and has it tried once.

    Parameters
    ----------
    where : a libpq connection string, ``postgresql://…`` or ``key=value``.
    connections : how many at most.
    writer_lock : which lock `writing` takes.
    """

    _state: Any  # peewee's, of each thread; the stubs leave it out

    def __init__(self, where: str, *, connections: int, writer_lock: int = _INDEX_LOCK) -> None:
        self._where = where
        self._writer_lock = writer_lock
        self._pool = ConnectionPool(
            where,
            kwargs={"autocommit": True, "cursor_factory": _BinaryCursor, **_CONNECTION},
            min_size=0,
            max_size=connections,
            timeout=_WAIT_S,
            # Given up when who waits gives up: the pool tries again ever more seldom, and nobody else tries
            # meanwhile, so that a server that was away for minutes would be away for as long again.
            reconnect_timeout=_WAIT_S,
            check=ConnectionPool.check_connection,
            open=True,
        )
        self._kept = threading.local()
        # The name is for peewee's messages: where to connect is the pool's business.
        super().__init__(str(conninfo.conninfo_to_dict(where).get("dbname") or "?"), prefer_psycopg3=True)

    def writing(self) -> AbstractContextManager[object]:
        """A transaction that will write; waits for any other, of any process. Inside another one: a part of it."""
        return self._writing()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        outermost = not self.in_transaction()
        with self.atomic():
            if outermost:
                self.execute_sql("SELECT pg_advisory_xact_lock(%s)", (self._writer_lock,))
            yield

    @contextmanager
    def erasing(self, models: Sequence[type[peewee.Model]]) -> Iterator[None]:
        """A transaction that deletes from the tables of `models`, after which their dead rows are taken out."""
        with self.writing():
            yield
        for model in models:
            self.execute_sql(f'VACUUM "{model._meta.table_name}"')

    def shrink(self, model: type[peewee.Model]) -> None:
        """Give back the room of rows that are gone, of a table that is small now: it is written anew."""
        self.execute_sql(f'VACUUM (FULL, ANALYZE) "{model._meta.table_name}"')

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """One connection for all that this thread asks meanwhile; no transaction."""
        before = getattr(self._kept, "is_kept", False)
        self._kept.is_kept = True
        try:
            yield
        finally:
            self._kept.is_kept = before
            self._give_back_if_idle()

    def damage(self) -> list[str]:
        """Nothing that could be seen from here: the server has checksums and tools of its own (pg_amcheck)."""
        return []

    def require_fit(self) -> None:
        """Raise `DatabaseUnfitError` if the server is away, does not sync, or does not compare by code point."""
        try:
            with psycopg.connect(self._where, **_CONNECTION) as connection:
                row = connection.execute(
                    "SELECT current_setting('fsync'), current_setting('synchronous_commit'), d.datcollate,"
                    " pg_encoding_to_char(d.encoding) FROM pg_database d WHERE d.datname = current_database()"
                ).fetchone()
        except psycopg.Error as error:
            raise DatabaseUnfitError(" ".join(str(error).split())) from error
        assert row is not None, "a connection is to a database that is there"
        fsync, synchronous_commit, collation, encoding = row
        if fsync != "on" or synchronous_commit == "off":
            raise DatabaseUnfitError(
                "this PostgreSQL answers before it has synced (fsync or synchronous_commit is off): "
                "an image could be lost that was receipted; switch both on"
            )
        if encoding != "UTF8" or collation not in _COLLATIONS:
            raise DatabaseUnfitError(
                f"the database has encoding {encoding} and collation {collation}; make one with: "
                "createdb --template template0 --encoding UTF8 --locale C NAME"
            )

    # What peewee asks of a driver.

    def execute_sql(self, sql: str, params: Sequence[object] | None = None) -> Any:
        try:
            # The rows are here when this returns: nothing is fetched over the connection afterwards.
            return super().execute_sql(sql, params)  # type: ignore[no-untyped-call]  # the stubs leave it untyped
        except peewee.OperationalError as error:
            # Which psycopg counts as the server's fault; it is of what it was given, and would be so for ever.
            if isinstance(error.__context__, psycopg.errors.ProgramLimitExceeded):
                raise peewee.DataError(*error.args) from error
            raise
        finally:
            self._give_back_if_idle()

    def begin(self, isolation_level: str | None = None) -> None:
        try:
            super().begin(isolation_level)
        except BaseException:
            self._give_back_if_idle()
            raise

    def commit(self) -> None:
        try:
            super().commit()
        finally:
            self._give_back_if_idle()

    def rollback(self) -> None:
        if self.is_closed():
            return  # the commit failed and took the connection with it: there is nothing left to roll back
        try:
            super().rollback()
        finally:
            self._give_back_if_idle()

    def _give_back_if_idle(self) -> None:
        if not (self.in_transaction() or self.is_closed() or getattr(self._kept, "is_kept", False)):
            self.close()

    # peewee connects and closes under a lock of all threads. Who waits for the pool there would keep the others from
    # giving back what it waits for; the state is each thread's own and needs no lock.

    def connect(self, reuse_if_open: bool = False) -> bool:
        if not self.is_closed():
            if reuse_if_open:
                return False
            raise peewee.OperationalError("Connection already opened.")
        try:
            connection = self._pool.getconn()
        except PoolTimeout as error:
            raise peewee.OperationalError(
                f"PostgreSQL gave no connection within {_WAIT_S:.0f} seconds"
            ) from error
        self._state.reset()
        self._state.set_connection(connection)
        return True

    def close(self) -> bool:
        if self.in_transaction():
            raise peewee.OperationalError("Attempting to close database while transaction is open.")
        if self.is_closed():
            return False
        connection = self._state.conn
        self._state.reset()
        self._pool.putconn(connection)  # which ends one that is broken, or still in a transaction
        return True

    def end(self) -> None:
        """Close every connection."""
        self._pool.close()
