"""The rig has teeth: what was not made durable is lost, what was is not, and faults arrive where they are put."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from random import Random

import pytest

from tests.rigs.fuse import why_not
from tests.rigs.mounted import OnVolume
from tests.rigs.volume import Volume, write_tree

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def run_probe(tmp_path: Path, *what: str) -> OnVolume:
    mountpoint = tmp_path / "mount"
    name, *more = what
    running = OnVolume(Volume(), mountpoint, "tests.rigs.probe", name, str(mountpoint), *more)
    assert running.process.stdout is not None
    while running.process.stdout.readline() != b"done\n":
        assert running.process.poll() is None, "the probe failed"
    return running


def test_a_cut_keeps_what_was_synced_and_nothing_else(tmp_path: Path) -> None:
    with run_probe(tmp_path, "files") as running:
        live = running.volume.live()
        survivors = running.cut()
    assert survivors == {"synced": b"s" * 100_000, "written": b"", "old name": b"r", "folder": {}}
    assert live == {"synced": b"later" + b"s" * 45, "no name": b"n", "folder": {"new name": b"r"}}
    assert not list((tmp_path / "mount").iterdir()), "nobody else sees the mount"


def test_a_torn_cut_keeps_some_of_the_rest(tmp_path: Path) -> None:
    with run_probe(tmp_path, "files") as running:
        running.cut()
        states = [running.volume.survivors(Random(seed)) for seed in range(60)]
    files = {state["synced"] for state in states}
    assert {b"s" * 100_000, b"later" + b"s" * 45, b"s" * 50} <= files
    assert {"folder", "synced", "no name"} in [set(state) for state in states]
    assert any(isinstance(state["folder"], dict) and state["folder"] for state in states)
    partial = [state.get("written") for state in states]
    assert any(data and 0 < data.count(b"w") < 100_000 for data in partial if isinstance(data, bytes))
    # A name is old or new, never both: a rename is one step.
    for state in states:
        folder = state["folder"]
        assert isinstance(folder, dict)
        assert ("old name" in state) != ("new name" in folder)


@pytest.mark.parametrize(("synchronous", "kept"), [("full", 300), ("normal", 0)])
def test_sqlite_keeps_what_it_promises(synchronous: str, kept: int, tmp_path: Path) -> None:
    """Shared memory works on this file system, and it tells WAL with FULL from WAL with NORMAL."""
    with run_probe(tmp_path, "sqlite", synchronous) as running:
        write_tree(running.cut(), tmp_path / "survivors")
    with sqlite3.connect(tmp_path / "survivors" / "index") as database:
        try:
            (found,) = database.execute("select count(*) from t").fetchone()
        except sqlite3.OperationalError:
            found = 0  # not even the table was durable
    database.close()
    assert found == kept
