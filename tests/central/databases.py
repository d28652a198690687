"""Where a test of central keeps its index: SQLite, or with DICOMNET_TEST_DATABASE=postgresql a real PostgreSQL.

So the same tests run on both; `make test` does.
"""

from __future__ import annotations

import functools
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

from central.audit.record import Audit
from central.config import StorageSettings
from central.database import Database
from central.foundation import open_audit, open_database
from tests.central.audit.notary import NOTARY
from tests.peers_installed import program
from tests.postgres import PostgresServer, postgres_server

_closing = ExitStack()


def storage(root: Path, **settings: object) -> StorageSettings:
    """`[storage]` for a central in `root`; the same database for the same folder."""
    return StorageSettings.model_validate({"root": root, "database": where(root), **settings})


def where(root: Path) -> str:
    """What `storage.database` is for a central in `root`."""
    kind = os.environ.get("DICOMNET_TEST_DATABASE", "sqlite")
    assert kind in ("sqlite", "postgresql"), kind
    return _server().database_for(root) if kind == "postgresql" else ""


def open_index(root: Path) -> Database:
    """The index of a central in `root`, opened once more."""
    return open_database(storage(root, database_connections=4))


def open_record(root: Path) -> Audit:
    """The audit record of a central in `root`, opened once more."""
    return open_audit(storage(root), NOTARY)


def written_in(root: Path) -> bytes:
    """Everything that is on the disk of a central in `root`: its files, and what is in its database."""
    content = b"".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())
    if database := where(root):
        dump = program("pg_dump")
        assert dump is not None
        content += subprocess.run([dump, "--inserts", database], capture_output=True, check=True).stdout
    return content


def stop_server() -> None:
    """At the end of the session."""
    _closing.close()


@functools.cache
def _server() -> PostgresServer:
    return _closing.enter_context(postgres_server())
