"""The services' database: whole transactions, this room's errors, and a damaged file that stops nothing."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
from peewee import Model, SqliteDatabase, TextField

from edge.buffer.errors import DiskFullError, IndexUnreadableError, SpoolClosedError, StorageFailedError
from edge.buffer.service_database import ServiceDatabase


class Note(Model):
    text = TextField(unique=True)

    class Meta:
        table_name = "notes"


def texts(database: ServiceDatabase) -> list[str]:
    with database.reading():
        return [row[0] for row in Note.select(Note.text).tuples().execute(database.db)]


def write(database: ServiceDatabase, *lines: str) -> None:
    with database.transaction():
        for line in lines:
            Note.insert(text=line).execute(database.db)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "services" / "services.sqlite3"


def test_what_was_written_is_there_in_the_next_life(path: Path) -> None:
    for life in ("one", "two"):
        database = ServiceDatabase(path)
        database.declare([Note])
        write(database, life)
        database.close()
        database.close()

    database = ServiceDatabase(path)
    assert texts(database) == ["one", "two"]
    assert database.db.pragma("synchronous") == 2
    assert database.db.pragma("journal_mode") == "wal"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    database.close()


def test_a_transaction_is_all_or_nothing(path: Path) -> None:
    database = ServiceDatabase(path)
    database.declare([Note])
    with pytest.raises(StorageFailedError):
        write(database, "once", "twice", "twice")

    assert texts(database) == []
    database.close()


def test_a_full_disk_is_told_from_other_failures(path: Path) -> None:
    database = ServiceDatabase(path)
    database.declare([Note])
    pages = database.db.pragma("page_count")
    database.db.pragma("max_page_count", pages + 1)

    with pytest.raises(DiskFullError):
        write(database, *(f"{number:0>200}" for number in range(10_000)))

    write(database, "small")  # and it goes on
    assert texts(database) == ["small"]
    database.close()


def test_threads_wait_for_each_other(path: Path) -> None:
    database = ServiceDatabase(path)
    database.declare([Note])
    threads = [
        threading.Thread(
            target=lambda first=first: [write(database, f"{first}.{number}") for number in range(25)]
        )
        for first in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(texts(database)) == 100
    database.close()


def test_a_damaged_file_is_put_aside_and_begun_anew(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this was a database once " * 400)

    database = ServiceDatabase(path)
    database.declare([Note])
    write(database, "anew")

    assert texts(database) == ["anew"]
    (aside,) = path.parent.glob("services.sqlite3.damaged-*")
    assert aside.read_bytes().startswith(b"this was a database")
    database.close()


def test_a_newer_programs_file_is_left_alone(path: Path) -> None:
    ServiceDatabase(path).close()
    newer = SqliteDatabase(str(path))
    newer.pragma("user_version", 99)
    newer.close()

    with pytest.raises(IndexUnreadableError, match="version 99"):
        ServiceDatabase(path)


def test_after_closing_there_is_one_answer(path: Path) -> None:
    database = ServiceDatabase(path)
    database.close()
    with pytest.raises(SpoolClosedError), database.reading():
        pass
