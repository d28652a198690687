"""What rooms are promised of their database, on both kinds."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import peewee
import psycopg
import pytest
from psycopg import sql
from pydantic import ValidationError

from central import database
from central.archive.settings import StorageSettings
from central.database import (
    Among,
    AmongFound,
    Database,
    Once,
    Wildcard,
    make_tables,
    open_sqlite,
    put,
    rows_of,
)
from central.errors import StartError
from central.foundation import Foundation
from central.postgres import DatabaseUnfitError, Postgres
from tests.central.app.house import House
from tests.postgres import PostgresServer, postgres_server

KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgresql"))]


class Place(peewee.Model):
    """A table of the tests."""

    ward = peewee.TextField()
    bed = peewee.IntegerField()
    name = peewee.TextField()

    class Meta:
        table_name = "place"
        primary_key = peewee.CompositeKey("ward", "bed")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


@pytest.fixture(params=KINDS)
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Database, Database]]:
    """One database, opened twice, as by two processes."""
    if request.param == "sqlite":
        pair: tuple[Database, Database] = (open_sqlite(tmp_path / "db"), open_sqlite(tmp_path / "db"))
    else:
        where = request.getfixturevalue("server").database_for(tmp_path)
        pair = Postgres(where, connections=4), Postgres(where, connections=4)
    make_tables(pair[0], [Place])
    yield pair
    for db in pair:
        db.end()


def names(db: Database) -> list[str]:
    return [name for (name,) in Place.select(Place.name).order_by(Place.bed).tuples().execute(db)]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a*", ["abc", "a_c", "a%c", "a[b]c", "a\\c"]),
        ("a?c", ["abc", "a_c", "a%c", "a\\c"]),
        ("a_c", ["a_c"]),
        ("a%c", ["a%c"]),
        ("A?C", ["ABC"]),
        ("*[b]*", ["a[b]c"]),
        ("a\\c", ["a\\c"]),
        ("?ü?", ["xüx"]),
        ("*\n*", []),
    ],
)
def test_a_wildcard_means_the_same_in_both(
    databases: tuple[Database, Database], pattern: str, found: list[str]
) -> None:
    db = databases[0]
    for bed, name in enumerate(["abc", "a_c", "a%c", "ABC", "a[b]c", "a\\c", "xüx"]):
        put(db, Place, {"ward": "w", "bed": bed, "name": name})
    query = Place.select(Place.name).where(Wildcard(Place.name, pattern)).order_by(Place.bed)
    assert [name for (name,) in query.tuples().execute(db)] == found


def test_what_is_put_into_sql_once_means_the_same_in_every_statement(
    databases: tuple[Database, Database],
) -> None:
    """Whatever its table is called there; with values of its own, before and after those of others."""
    db = databases[0]
    for bed in range(1, 9):
        put(db, Place, {"ward": "odd" if bed % 2 else "even", "bed": bed, "name": f"{bed % 3}"})
    beside = Place.alias()
    full = beside.select(beside.ward).where(beside.bed == 8)
    condition = Among(Place.bed, [2, 3, 4, 6, 8, 9]) & AmongFound(Place.ward, full) & (Place.name != "1")
    once = Once(Place, condition)

    def statements(said: peewee.ColumnBase) -> list[peewee.Query]:
        plain = Place.select(Place.bed).where(Place.bed > 1, said, Place.bed < 8)
        joined = beside.select(beside.bed, Place.bed).join(Place, on=(beside.name == Place.name))
        return [
            plain,
            Place.select(Place.bed).where(Place.bed == 5) | Place.select(Place.bed).where(said),
            joined.where(beside.bed < 3, said, beside.bed > 1),
            plain,
        ]

    found = [sorted(rows_of(db, query)) for query in statements(once)]
    assert found == [sorted(rows_of(db, query)) for query in statements(condition)]
    assert found == [[(2,), (6,)], [(2,), (5,), (6,), (8,)], [(2, 2), (2, 8)], [(2,), (6,)]]


def test_text_sorts_by_code_point_in_both(databases: tuple[Database, Database]) -> None:
    db = databases[0]
    words = ["b", "B", "a", "ä", "_", "Z", "é", "z", "1"]
    for bed, name in enumerate(words):
        put(db, Place, {"ward": "w", "bed": bed, "name": name})
    query = Place.select(Place.name).order_by(Place.name)
    assert [name for (name,) in query.tuples().execute(db)] == sorted(words)


def test_put_inserts_and_then_replaces(databases: tuple[Database, Database]) -> None:
    db, other = databases
    put(db, Place, {"ward": "w", "bed": 1, "name": "first"})
    put(other, Place, {"ward": "w", "bed": 1, "name": "second"})
    put(db, Place, {"ward": "w", "bed": 2, "name": "third"})
    assert names(other) == ["second", "third"]


def test_one_writer_at_a_time(databases: tuple[Database, Database]) -> None:
    """What is read in `writing` is still so when it is written: two that count up lose no step."""
    put(databases[0], Place, {"ward": "w", "bed": 1, "name": "0"})

    def count(db: Database) -> None:
        for _ in range(25):
            with db.writing():
                (name,) = names(db)
                put(db, Place, {"ward": "w", "bed": 1, "name": str(int(name) + 1)})
        db.close() if not db.is_closed() else None

    threads = [threading.Thread(target=count, args=(databases[at % 2],)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert names(databases[0]) == ["100"]


@pytest.mark.parametrize("in_transaction", [True, False])
def test_writers_of_one_process_wait_for_each_other_however_impatient_the_file_is(
    in_transaction: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(database._PRAGMAS, "busy_timeout", 0)
    db = open_sqlite(tmp_path / "db")
    make_tables(db, [Place])
    written = threading.Event()

    def write() -> None:
        with db.writing() if in_transaction else nullcontext():
            put(db, Place, {"ward": "w", "bed": 2, "name": "second"})
        written.set()
        db.end()

    other = threading.Thread(target=write)
    with db.writing():
        put(db, Place, {"ward": "w", "bed": 1, "name": "first"})
        other.start()
        assert not written.wait(0.3)
        assert names(db) == ["first"]
    assert written.wait(60)
    other.join(60)
    assert names(db) == ["first", "second"]
    db.end()


def test_a_transaction_that_fails_leaves_nothing_and_the_next_works(
    databases: tuple[Database, Database],
) -> None:
    db, other = databases

    def insert_twice() -> None:
        with db.writing():
            put(db, Place, {"ward": "w", "bed": 1, "name": "x"})
            Place.insert(ward="w", bed=1, name="y").execute(db)

    with pytest.raises(peewee.IntegrityError):
        insert_twice()
    assert names(other) == []
    put(db, Place, {"ward": "w", "bed": 1, "name": "x"})
    assert names(other) == ["x"]


@pytest.mark.needs("postgresql")
def test_a_value_that_the_server_has_no_room_for_is_not_taken_for_a_server_that_is_away(
    server: PostgresServer, tmp_path: Path
) -> None:
    db = Postgres(server.database_for(tmp_path), connections=2)
    make_tables(db, [Place])
    long = "".join(map(chr, random.Random(1).choices(range(0x4E00, 0x9FA0), k=4000)))
    with pytest.raises(peewee.DataError):
        put(db, Place, {"ward": long, "bed": 1, "name": "x"})
    put(db, Place, {"ward": "w", "bed": 1, "name": "x"})
    assert names(db) == ["x"]
    db.end()


@pytest.mark.needs("postgresql")
def test_a_server_that_was_restarted_costs_nobody_an_error(server: PostgresServer, tmp_path: Path) -> None:
    db = Postgres(server.database_for(tmp_path), connections=2)
    make_tables(db, [Place])
    put(db, Place, {"ward": "w", "bed": 1, "name": "kept"})
    server.stop()
    server.start()
    assert names(db) == ["kept"]
    server.stop()
    server.start()
    with db.writing():
        put(db, Place, {"ward": "w", "bed": 2, "name": "too"})
    assert names(db) == ["kept", "too"]
    db.end()


@pytest.mark.needs("postgresql")
def test_a_server_that_was_away_for_long_is_there_again_at_once(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("central.postgres._WAIT_S", 3.0)
    db = Postgres(server.database_for(tmp_path), connections=2)
    make_tables(db, [Place])
    put(db, Place, {"ward": "w", "bed": 1, "name": "kept"})
    server.stop()
    try:
        for _ in range(6):  # six times three seconds
            with pytest.raises(peewee.OperationalError):
                names(db)
    finally:
        server.start()
    db._pool.timeout = 8.0  # much more than it needs, and less than the server had been away
    assert names(db) == ["kept"]
    db.end()


@pytest.mark.needs("postgresql")
def test_a_server_that_goes_in_the_middle_of_a_transaction_takes_it_along(
    server: PostgresServer, tmp_path: Path
) -> None:
    db = Postgres(server.database_for(tmp_path), connections=2)
    make_tables(db, [Place])

    def write_over_its_end() -> None:
        with db.writing():
            put(db, Place, {"ward": "w", "bed": 1, "name": "half"})
            server.stop()
            put(db, Place, {"ward": "w", "bed": 2, "name": "never"})

    with pytest.raises(peewee.PeeweeException):
        write_over_its_end()
    server.start()
    assert names(db) == []
    db.end()


@pytest.mark.needs("postgresql")
def test_more_threads_than_connections_take_turns(server: PostgresServer, tmp_path: Path) -> None:
    db = Postgres(server.database_for(tmp_path), connections=2)
    make_tables(db, [Place])
    threads = [
        threading.Thread(target=put, args=(db, Place, {"ward": "w", "bed": bed, "name": str(bed)}))
        for bed in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert names(db) == [str(bed) for bed in range(20)]
    db.end()


@pytest.mark.needs("postgresql")
def test_a_server_that_does_not_sync_is_refused(server: PostgresServer, tmp_path: Path) -> None:
    where = server.database_for(tmp_path)
    db = Postgres(where, connections=2)
    db.require_fit()
    with psycopg.connect(where, autocommit=True) as superuser:
        name = sql.Identifier(superuser.info.dbname)
        superuser.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name))
    with pytest.raises(DatabaseUnfitError, match="synchronous_commit"):
        db.require_fit()
    db.end()


@pytest.mark.needs("postgresql")
def test_a_database_that_sorts_otherwise_is_refused_with_the_command_that_helps(
    server: PostgresServer, tmp_path: Path
) -> None:
    db = Postgres(server.database("postgres"), connections=2)
    db.execute_sql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    db.end()
    latin = Postgres(server.database("latin"), connections=2)
    with pytest.raises(DatabaseUnfitError, match="createdb --template template0"):
        latin.require_fit()
    latin.end()


@pytest.mark.needs("postgresql")
def test_central_says_in_one_sentence_that_its_database_is_away(
    server: PostgresServer, tmp_path: Path
) -> None:
    house = House(tmp_path / "central")
    nowhere = StorageSettings.model_validate(
        {"root": house.root, "database": f"postgresql:///x?host={tmp_path}&connect_timeout=2"}
    )
    settings = house.settings.model_copy(update={"storage": nowhere})
    with pytest.raises(StartError, match=r"PostgreSQL \(storage.database\) cannot be used") as refusal:
        Foundation.open(settings)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("database", "said"),
    [
        ("postgresql://me:secret@db/x", "password file"),
        ("host=db password=secret", "password file"),
        ("mysql://db/x", "connection string"),
    ],
)
def test_settings_take_no_password_and_nothing_that_is_no_connection_string(
    tmp_path: Path, database: str, said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        StorageSettings.model_validate({"root": tmp_path, "database": database})
