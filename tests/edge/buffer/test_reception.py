"""The order of writes, and what is left when one of them fails."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from contract.identifiers import ObjectId
from contract.sealed_object import Aead, Codec, read_header
from edge.buffer import arrivals
from edge.buffer import files as files_module
from edge.buffer.errors import DiskFullError, StorageFailedError
from edge.buffer.files import SpoolFiles
from edge.buffer.label import read_label
from edge.buffer.new_rows import NewRows
from edge.buffer.records import Origin
from edge.buffer.spool import Spool
from edge.buffer.states import State
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import ORIGIN, Central, content_of, identity, leftovers, store, taken_files

pytestmark = pytest.mark.disk


def test_what_was_committed_is_there_sealed_and_unchanged(spool: Spool, receiving_central: Central) -> None:
    stored = store(spool, 7)

    assert stored.outcome == "stored"
    assert stored.size_bytes == len(content_of(7))
    assert receiving_central.unseal(spool, stored.object_id) == content_of(7)
    (row,) = spool.holdings.list_objects(states=[State.READY], limit=9)
    assert (row.object_id, row.sop_instance_uid, row.success_answered) == (stored.object_id, "1.2.3.7", True)
    with spool.holdings.open_object(stored.object_id) as sealed:
        assert content_of(7)[:64] not in sealed.read()


def test_nothing_a_peer_sent_becomes_a_name(spool: Spool, tmp_path: Path) -> None:
    stored = store(spool, 1, origin=Origin("../../EVIL", "X", "192.0.2.1", "1.2.840.10008.1.2"))

    (path,) = taken_files(spool, tmp_path)
    assert path.name == f"{stored.object_id}.sealed"
    assert path.parent.name == stored.object_id[:2]
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "spool" / "index.sqlite3").stat().st_mode & 0o777 == 0o600


def test_durability_comes_in_order(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, bytes, label, sync, answer; rows follow. Told by the system calls themselves."""
    seen: list[str] = []

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **values: Any) -> Any:
            result = original(*arguments, **values)
            seen.append(name)
            return result

        return run

    real_sync = {"fsync": os.fsync, "fdatasync": os.fdatasync}

    def syncing(name: str) -> Callable[[int], None]:
        def run(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            real_sync[name](descriptor)
            labelled = ""
            if path.is_file():
                with path.open("rb") as file:
                    labelled = f" {read_label(file).label.object_id}"
            seen.append(f"{name} {path.name[-len('.sealed') :]}{labelled}")

        return run

    monkeypatch.setattr(os, "fsync", syncing("fsync"))
    monkeypatch.setattr(os, "fdatasync", syncing("fdatasync"))
    monkeypatch.setattr(os, "write", watched("write", os.write))
    monkeypatch.setattr(NewRows, "insert", watched("rows", NewRows.insert))
    monkeypatch.setattr(arrivals, "_LINGER_S", 60.0)

    first = store(spool, 1)
    seen.append("answer")
    second = store(spool, 2)
    seen.append("answer")

    def one(object_id: str) -> list[str]:
        return ["write", f"fdatasync .sealed {object_id}", "answer"]

    assert spool.holdings.depth().unsent.objects == 2  # whoever asks sees them
    assert seen.count("write") >= 2
    assert [event for event, _ in groupby(seen)] == [
        f"fsync {first.object_id[:2]}",
        *one(first.object_id),
        *one(second.object_id),
        "rows",
    ]


def test_a_row_that_was_acknowledged_is_synced_before_its_file_goes(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(spool, 1)
    claimed = spool.queue.claim(lease_s=60)
    assert claimed is not None
    seen: list[tuple[str, int]] = []
    connection = spool._index.db.connection()

    def trace(statement: str) -> None:
        """Called by SQLite before it runs a statement: under which durability it will commit."""
        if statement == "COMMIT":
            connection.set_trace_callback(None)
            seen.append(("commit", spool._index.db.pragma("synchronous")))
            connection.set_trace_callback(trace)

    connection.set_trace_callback(trace)
    original = SpoolFiles.unlink

    def unlink(files: SpoolFiles, object_id: ObjectId) -> bool:
        seen.append(("unlink", 0))
        return original(files, object_id)

    monkeypatch.setattr(SpoolFiles, "unlink", unlink)
    spool.queue.acknowledge(claimed.object_id, "receipt")
    connection.set_trace_callback(None)

    full = 2
    assert seen[0] == ("commit", full)
    assert seen[-1] == ("unlink", 0)
    assert spool._index.db.pragma("journal_mode") == "wal"


def test_discard_and_an_abandoned_reception_leave_nothing(spool: Spool, tmp_path: Path) -> None:
    with spool.entrance.receive(ORIGIN) as reception:
        reception.write(content_of(1))
    reception = spool.entrance.receive(ORIGIN)
    reception.write(b"x")
    reception.discard()

    assert leftovers(spool) == []
    with pytest.raises(RuntimeError):
        reception.commit(identity(1))


def fail(number: int) -> Callable[..., Any]:
    def failing(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return failing


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("point", ["write", "sync", "names' sync", "open"])
def test_a_failure_anywhere_leaves_nothing_and_says_so(
    point: str, number: int, spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = DiskFullError if number == errno.ENOSPC else StorageFailedError
    with monkeypatch.context() as patched:
        if point == "write":
            patched.setattr(os, "write", fail(number))
        elif point == "sync":
            patched.setattr(os, "fdatasync", fail(number))
        elif point == "names' sync":
            patched.setattr(files_module, "fsync_directory", fail(number))
        else:
            patched.setattr(os, "open", fail(number))
        with pytest.raises(expected):
            store(spool, 1)

    assert leftovers(spool) == []
    assert spool.holdings.list_objects(states=list(State), limit=9) == []
    assert store(spool, 1).outcome == "stored"


def test_an_fsync_that_failed_is_not_tried_again(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def failing(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", failing)
        with pytest.raises(StorageFailedError, match="EIO"):
            store(spool, 1)

    assert len(calls) == 1
    assert leftovers(spool) == []


def test_a_write_that_fails_half_way(spool: Spool, tmp_path: Path) -> None:
    """A real refusal by the kernel (EFBIG, from the file-size limit of the process) in the middle of a write."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    reception = spool.entrance.receive(ORIGIN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, old[1]))
    try:
        with pytest.raises(DiskFullError):
            reception.write(os.urandom(8 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)

    assert leftovers(spool) == []


@pytest.mark.parametrize(
    ("transfer_syntax_uid", "codec"),
    [
        ("1.2.840.10008.1.2", Codec.SEGMENTS),
        ("1.2.840.10008.1.2.2", Codec.SEGMENTS),
        ("1.2.840.10008.1.2.1.99", Codec.STORED),
        ("1.2.840.10008.1.2.4.90", Codec.STORED),
        ("1.3.6.1.4.1.99999.1", Codec.SEGMENTS),
    ],
)
@pytest.mark.parametrize("aead", list(Aead))
def test_cipher_and_codec(
    transfer_syntax_uid: str, codec: Codec, aead: Aead, open_spool: OpenSpool, receiving_central: Central
) -> None:
    spool = open_spool(aead=aead)

    stored = store(spool, 1, origin=Origin("CT1", "DICOMNET", "192.0.2.7", transfer_syntax_uid))

    with spool.holdings.open_object(stored.object_id) as sealed:
        header = read_header(sealed)
    assert (header.aead, header.codec) == (aead, codec)
    assert receiving_central.unseal(spool, stored.object_id) == content_of(1)
