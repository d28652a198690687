"""A real PostgreSQL server of our own, on a socket in a folder of its own; it goes with the tests."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from tests.peers_installed import program

_NOBODY = "nobody"  # PostgreSQL refuses to run as root


@dataclass(frozen=True)
class PostgresServer:
    """Answers on a Unix socket in `folder`, without passwords."""

    folder: Path
    data: Path
    _of: dict[Path, str] = field(default_factory=dict)

    def database(self, name: str) -> str:
        """Connection string of the database `name`, which is made if it is not there."""
        with psycopg.connect(self._where("postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if known is None:
                connection.execute(
                    sql.SQL(
                        "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C' STRATEGY file_copy"
                    ).format(sql.Identifier(name))
                )
        return self._where(name)

    def database_for(self, root: Path) -> str:
        """The same database for the same folder."""
        name = self._of.setdefault(root, "t" + hashlib.sha256(str(root).encode()).hexdigest()[:24])
        return self.database(name)

    def drop_what_is_gone(self) -> None:
        """The databases of folders that are no more: each takes 8 MB, and a thousand would fill a memory."""
        gone = [root for root in self._of if not root.exists()]
        if not gone:
            return
        with psycopg.connect(self._where("postgres"), autocommit=True) as connection:
            for root in gone:
                name = sql.Identifier(self._of.pop(root))
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def start(self) -> None:
        self._control("start", "-l", str(self.folder / "log"))

    def _where(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def _control(self, *words: str) -> None:
        _run("pg_ctl", "-D", str(self.data), "-w", "-t", "60", *words)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server with syncing as it is in life; everything of it is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="dicomnet-pg-"))
    server = PostgresServer(folder, folder / "data")
    try:
        if os.geteuid() == 0:
            owner = pwd.getpwnam(_NOBODY)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        _run(
            "initdb",
            "-D",
            str(server.data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        )
        with (server.data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = ''\nunix_socket_directories = '{folder}'\nmax_connections = 200\n"
            )
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(name: str, *words: str) -> None:
    path = program(name)
    assert path is not None, f"{name} is not installed"
    is_root = os.geteuid() == 0
    # DEVNULL, not a pipe: the server that pg_ctl starts would hold it open.
    done = subprocess.run(
        [path, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        timeout=120,
        check=False,
        user=_NOBODY if is_root else None,
        group=pwd.getpwnam(_NOBODY).pw_gid if is_root else None,
        extra_groups=[] if is_root else None,
    )
    assert done.returncode == 0, f"{name} {' '.join(words)} ended with {done.returncode}"
