"""The index: its versions, its columns, and its failures."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from edge.buffer.errors import IndexUnreadableError, StorageFailedError
from edge.buffer.spool import Spool
from edge.buffer.tables import SpoolObject
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import store


def test_an_index_of_a_newer_program_is_left_alone(open_spool: OpenSpool, tmp_path: Path) -> None:
    open_spool().close()
    with sqlite3.connect(tmp_path / "spool" / "index.sqlite3") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()

    with pytest.raises(IndexUnreadableError, match="99"):
        open_spool()


def test_the_index_has_no_column_for_a_patient() -> None:
    columns = set(SpoolObject._meta.fields)  # type: ignore[attr-defined]
    assert not {name for name in columns if "patient" in name or "name" in name or "birth" in name}


def test_a_failing_index_speaks_this_rooms_language(spool: Spool) -> None:
    store(spool, 1)
    spool._index.db.execute_sql("DROP TABLE objects")
    for question in (
        spool.holdings.depth,
        lambda: spool.queue.claim(lease_s=1),
        lambda: spool.queue.wait_for_work(0),
    ):
        with pytest.raises(StorageFailedError):
            question()
