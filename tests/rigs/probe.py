"""Small programs to check the rig with: ``python -m tests.rigs.probe WHAT``, in the folder given as argument."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path


def files(root: Path) -> None:
    """One file of each fate; says ``done`` and waits for the cut."""

    def write(name: str, data: bytes, *, sync: bool) -> None:
        with (root / name).open("wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fdatasync(file.fileno())

    def sync_folder(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    write("synced", b"s" * 100_000, sync=True)
    write("written", b"w" * 100_000, sync=False)
    write("old name", b"r", sync=True)
    (root / "folder").mkdir()
    sync_folder(root)
    write("no name", b"n", sync=True)
    (root / "old name").rename(root / "folder" / "new name")
    with (root / "synced").open("r+b") as file:
        file.write(b"later")
        file.truncate(50)
    (root / "written").unlink()
    assert (root / "synced").read_bytes() == b"later" + b"s" * 45
    assert sorted(path.name for path in root.iterdir()) == ["folder", "no name", "synced"]


def sqlite(root: Path) -> None:
    """300 commits in WAL mode, each said when it has returned; the argument is the level of `synchronous`."""
    database = sqlite3.connect(root / "index", isolation_level=None)
    assert database.execute("pragma journal_mode=wal").fetchone() == ("wal",)
    database.execute(f"pragma synchronous={sys.argv[3]}")
    database.execute("create table t (n integer primary key, filler blob)")
    descriptor = os.open(root, os.O_RDONLY)
    os.fsync(descriptor)
    for number in range(300):
        database.execute("insert into t values (?, ?)", (number, os.urandom(500)))
        os.write(1, b"%d\n" % number)


if __name__ == "__main__":
    {"files": files, "sqlite": sqlite}[sys.argv[1]](Path(sys.argv[2]))
    os.write(1, b"done\n")
    sys.stdin.read()
