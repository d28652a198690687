"""Index and audit record as files of a backup, taken while central runs, and back into empty places.

SQLite's own backup reads one moment of a database that others write. PostgreSQL's is made and read by its own tools,
``pg_dump`` and ``pg_restore``, which are as new as the server or newer.

Always true: the list of objects is of the very moment that the index is of, whatever is encrypted or erased meanwhile.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Final

import psycopg

from central.archive.objects import fsync_folder
from central.archive.settings import StorageSettings
from central.backup.layout import write_list
from central.errors import StartError

INDEX: Final = "central.sqlite3"
AUDIT: Final = "audit.sqlite3"
DUMP: Final = "postgresql.dump"
_NAMED: Final = (  # once, whatever the number of institutions that have it
    "SELECT instance.sha256, MAX(size_bytes), MAX(address) FROM instance"
    " LEFT JOIN sealed_content ON sealed_content.sha256 = instance.sha256 GROUP BY instance.sha256"
)


def save_databases(settings: StorageSettings, backup: Path) -> list[str]:
    """Write them into `backup`, with the list of objects that the index names; the names of the databases' files. The
    audit record last: of what is in the index none is missing in it.

    Raises
    ------
    StartError : one cannot be read, or is damaged.
    """
    if settings.database:
        _dump(settings.database, backup)
        return [DUMP]
    for name in (INDEX, AUDIT):
        _copy(settings.root / name, backup / name)
    with closing(sqlite3.connect(f"{(backup / INDEX).absolute().as_uri()}?mode=ro", uri=True)) as copy:
        write_list(backup, copy.execute(_NAMED))
    return [INDEX, AUDIT]


def _dump(database: str, backup: Path) -> None:
    try:
        with psycopg.connect(database) as connection, connection.cursor("named_objects") as named:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            # However long the dump takes: it reads what this transaction reads.
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            [snapshot] = connection.execute("SELECT pg_export_snapshot()").fetchone() or ("",)
            write_list(backup, named.execute(_NAMED))
            _run_tool(
                "pg_dump",
                "--format=custom",
                "--no-owner",
                f"--snapshot={snapshot}",
                f"--file={backup / DUMP}",
                f"--dbname={database}",
            )
    except psycopg.Error as error:
        raise StartError(f"the index cannot be read: {' '.join(str(error).split())}") from error
    _make_durable(backup / DUMP)


def require_empty(settings: StorageSettings) -> None:
    """StartError if there is an index already: a restore replaces nothing."""
    if settings.database:
        with psycopg.connect(settings.database) as connection:
            found = connection.execute("SELECT to_regclass('study')").fetchone()
        if found != (None,):
            raise StartError(
                "the database of storage.database is not empty: name another, a restore replaces nothing"
            )
    elif (settings.root / INDEX).exists():
        raise StartError(f"{settings.root / INDEX} is there: move it away, a restore replaces nothing")


def restore_databases(settings: StorageSettings, backup: Path, names: list[str]) -> None:
    """Put them back, the index last: while that is missing the restore can be done again.

    Raises
    ------
    StartError : the backup is of the other kind of database, or it cannot be written.
    """
    if (DUMP in names) != bool(settings.database):
        kind = "PostgreSQL" if DUMP in names else "SQLite"
        raise StartError(f"this is a backup of a central on {kind}, and storage.database says otherwise")
    if settings.database:
        _run_tool(
            "pg_restore", "--single-transaction", "--exit-on-error", "--no-owner",
            f"--dbname={settings.database}", str(backup / DUMP),
        )  # fmt: skip
        return
    for name in (AUDIT, INDEX):
        if (settings.root / name).exists():
            continue  # an audit record that outlived the index, or an earlier try
        part = settings.root / f"{name}.restoring"
        part.unlink(missing_ok=True)
        _copy(backup / name, part)
        part.rename(settings.root / name)
        fsync_folder(settings.root)


def _copy(source: Path, target: Path) -> None:
    """One moment of the database at `source`, as a file that needs no other, mode 0600."""
    if not source.is_file():
        raise StartError(f"there is no database {source}")
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as original,
            closing(sqlite3.connect(target)) as copy,
        ):
            original.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            [(said,)] = copy.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.Error as error:
        raise StartError(f"the database {source} cannot be copied: {error}") from error
    if said != "ok":
        raise StartError(f"the database {source} is damaged: {said}")
    _make_durable(target)


def _make_durable(path: Path) -> None:
    path.chmod(0o600)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _run_tool(name: str, *arguments: str) -> None:
    path = shutil.which(name)
    if path is None:
        raise StartError(f"{name} is not installed: it belongs to PostgreSQL's client programs")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(
            f"{name}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'it failed'}"
        )
