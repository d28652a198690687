"""Files whose rows are gone: each is judged by its label, and nothing that may have been acknowledged is deleted."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pytest

from contract.identifiers import ObjectId, new_object_id
from edge.buffer import strangers as strangers_module
from edge.buffer.files import SpoolFiles
from edge.buffer.label import BLOCK_BYTES, Label, Labelled, encode_label, is_sound
from edge.buffer.new_rows import NewRow, NewRows
from edge.buffer.records import Origin, RecoveryReport
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.buffer.tables import SpoolObject
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import ORIGIN, Central, content_of, identity, store, taken_files

INDEX = ("index.sqlite3", "index.sqlite3-wal", "index.sqlite3-shm")


def forget_row(spool: Spool, object_id: ObjectId) -> None:
    """As a power cut does, which takes the last rows: they are not synced."""
    spool.holdings.depth()  # it is in the index
    SpoolObject.delete().where(SpoolObject.object_id == object_id).execute(spool._index.db)


def forget_index(root: Path) -> None:
    for name in INDEX:
        (root / name).unlink(missing_ok=True)


def write_object(
    root: Path, label: Label, sealed: bytes = b"sealed", *, written_at_s: int | None = None
) -> Path:
    """A sealed file as a life before left it, without its life."""
    text = encode_label(label, zlib.crc32(sealed))
    path = root / "objects" / label.object_id[:2] / f"{label.object_id}.sealed"
    path.write_bytes(sealed + bytes(-(len(sealed) + len(text)) % BLOCK_BYTES) + text)
    if written_at_s is not None:
        os.utime(path, (written_at_s, written_at_s))
    return path


def label_of(number: int, sealed: bytes = b"sealed") -> Label:
    return Label(new_object_id(), ORIGIN, identity(number), "ab" * 32, 9, len(sealed), datetime.now(UTC))


@pytest.fixture
def root(open_spool: OpenSpool, tmp_path: Path) -> Path:
    open_spool().close()
    return tmp_path / "spool"


# Whole files --------------------------------------------------------------------------------------------------


def test_lost_rows_are_made_again_with_every_field_and_in_order(
    open_spool: OpenSpool, receiving_central: Central
) -> None:
    spool = open_spool()
    mr = Origin("MR1", "DICOMNET", "192.0.2.8", "1.2.840.10008.1.2")
    stored = [store(spool, 1), store(spool, 2, origin=mr), store(spool, 3), store(spool, 4)]
    before = spool.holdings.list_objects(states=[State.READY], limit=9)
    for position, one in enumerate(stored[1:]):
        forget_row(spool, one.object_id)
        path = next(spool._files.root.rglob(f"{one.object_id}.sealed"))
        os.utime(path, (1_800_000_000 + position, 1_800_000_000 + position))
    spool.close()

    spool = open_spool()

    assert spool.recovery == RecoveryReport(files_adopted=3)
    assert spool.holdings.list_objects(states=list(State), limit=9) == before
    for number, one in enumerate(stored, 1):
        claimed = spool.queue.claim(lease_s=60)
        assert claimed is not None
        assert claimed.object_id == one.object_id
        assert receiving_central.unseal(spool, one.object_id) == content_of(number)
    assert store(spool, 2, origin=mr).outcome == "duplicate"


def test_after_the_loss_of_the_index_everything_is_there_again(
    open_spool: OpenSpool, receiving_central: Central
) -> None:
    spool = open_spool()
    stored = {store(spool, number).object_id: number for number in range(5)}
    refused = spool.queue.claim(lease_s=60)
    assert refused is not None
    spool.queue.set_aside(refused.object_id, reason="central refuses it")
    with spool.entrance.receive(ORIGIN) as reception:
        reception.write(b"unreadable")
        reception.quarantine("no SOP Instance UID")
    spool.close()
    forget_index(spool._files.root)

    spool = open_spool()

    assert spool.recovery == RecoveryReport(files_adopted=6)
    rows = {row.object_id: row for row in spool.holdings.list_objects(states=list(State), limit=99)}
    assert {object_id for object_id, row in rows.items() if row.state is State.READY} == set(stored) - {
        refused.object_id
    }
    # Where it lies wins: its label was written before central refused it.
    assert (rows[refused.object_id].state, rows[refused.object_id].success_answered) == (
        State.QUARANTINED,
        True,
    )
    unread = rows[reception.object_id]
    assert (unread.state, unread.success_answered, unread.last_error) == (
        State.QUARANTINED,
        False,
        "no SOP Instance UID",
    )
    for object_id, number in stored.items():
        assert receiving_central.unseal(spool, object_id) == content_of(number)
    spool.quarantine.requeue(refused.object_id)
    spool.close()
    assert open_spool().recovery == RecoveryReport()


def test_quarantined_before_its_move_is_moved_now(open_spool: OpenSpool, root: Path) -> None:
    label = replace(label_of(1), identity=None, reason="unreadable")
    write_object(root, label)
    spool = open_spool()
    assert spool.recovery.files_adopted == 1
    assert [path.parent.name for path in taken_files(spool, root)] == ["quarantine"]


# What was cut off ---------------------------------------------------------------------------------------------


def test_unused_names_go_without_a_word(open_spool: OpenSpool, tmp_path: Path) -> None:
    spool = open_spool()
    store(spool, 1)
    spool.holdings.depth()  # its row is in the index
    kept = tmp_path / "as a kill left it"
    shutil.copytree(spool._files.root, kept)
    spool.close()
    assert len(list(kept.rglob("*.sealed"))) == 64
    shutil.rmtree(spool._files.root)
    kept.rename(spool._files.root)

    spool = open_spool()

    assert spool.recovery == RecoveryReport()
    assert len(list(spool._files.root.rglob("*.sealed"))) == 1


@pytest.mark.parametrize("length", [1, BLOCK_BYTES, 2 * BLOCK_BYTES])
def test_a_file_cut_off_on_its_way_in_is_swept(length: int, open_spool: OpenSpool, root: Path) -> None:
    sealed = os.urandom(3 * BLOCK_BYTES)
    path = write_object(root, label_of(1, sealed), sealed)
    os.truncate(path, length)
    spool = open_spool()
    assert spool.recovery == RecoveryReport(torn_files=1)
    assert taken_files(spool, root) == []
    assert spool.holdings.list_objects(states=list(State), limit=9) == []


def test_without_an_index_even_a_file_without_a_label_is_kept(open_spool: OpenSpool, root: Path) -> None:
    """It may be of a life before labels, and acknowledged."""
    object_id = new_object_id()
    (root / "objects" / object_id[:2] / f"{object_id}.sealed").write_bytes(b"sealed by an older program")
    forget_index(root)
    spool = open_spool()
    assert spool.recovery == RecoveryReport(files_set_aside=1)
    (row,) = spool.holdings.list_objects(states=[State.QUARANTINED], limit=9)
    assert (row.object_id, row.success_answered) == (object_id, True)
    assert len(taken_files(spool, root)) == 1


def test_names_that_are_not_ours_are_left_alone(open_spool: OpenSpool, root: Path) -> None:
    strange = [root / "objects" / "00" / "README.sealed", root / "quarantine" / "note.txt"]
    for path in strange:
        path.write_bytes(b"somebody put it here")
    assert open_spool().recovery == RecoveryReport()
    assert all(path.exists() for path in strange)


# Damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index_is_lost", [False, True])
def test_bytes_that_do_not_fit_their_label_are_set_aside_and_say_what_to_send_again(
    index_is_lost: bool, open_spool: OpenSpool, root: Path
) -> None:
    sealed = os.urandom(3 * BLOCK_BYTES)
    label = label_of(7, sealed)
    path = write_object(root, label, sealed)
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"\0\0\0\0")
    if index_is_lost:
        forget_index(root)

    spool = open_spool(quarantine_max_bytes=0)

    assert spool.recovery == RecoveryReport(files_set_aside=1)
    (row,) = spool.holdings.list_objects(states=[State.QUARANTINED], limit=9)
    assert (row.object_id, row.sop_instance_uid) == (label.object_id, "1.2.3.7")
    assert row.success_answered, "what may have been acknowledged must not be evicted"
    assert row.last_error == "the file's bytes do not fit its label"
    assert store(spool, 7).outcome == "stored"
    with spool.entrance.receive(ORIGIN) as reception:
        reception.write(b"evicts what it may")
        reception.quarantine("no SOP Instance UID")
    assert (root / "quarantine" / f"{label.object_id}.sealed").exists()


def test_a_label_of_another_object_is_not_believed(open_spool: OpenSpool, root: Path) -> None:
    label = label_of(1)
    path = write_object(root, label)
    other = new_object_id()
    path.rename(root / "objects" / other[:2] / f"{other}.sealed")
    spool = open_spool()
    assert spool.recovery == RecoveryReport(files_set_aside=1)
    (row,) = spool.holdings.list_objects(states=list(State), limit=9)
    assert (row.object_id, row.sop_instance_uid, row.state) == (other, None, State.QUARANTINED)


def test_a_crash_while_rows_are_made_again_is_repaired_by_the_next(
    open_spool: OpenSpool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index was lost: what the first attempt made is kept, and what has no label is not swept by the second."""
    for number in range(6):
        write_object(root, label_of(number), written_at_s=1_800_000_000 + number)
    older = root / "objects" / "aa" / f"aa{new_object_id()[2:]}.sealed"
    older.write_bytes(b"sealed by an older program")
    os.utime(older, (1_800_000_009, 1_800_000_009))
    forget_index(root)
    insert, calls = NewRows.insert, iter(range(9))

    def breaking(maker: NewRows, rows: list[NewRow]) -> None:
        insert(maker, rows)
        if next(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(strangers_module, "_ROWS_AT_ONCE", 2)
    with monkeypatch.context() as patched:
        patched.setattr(NewRows, "insert", breaking)
        with pytest.raises(KeyboardInterrupt):
            open_spool()

    spool = open_spool()
    assert spool.recovery == RecoveryReport(files_adopted=2, files_set_aside=1, unverified_from=1)
    in_order = [row.sop_instance_uid for row in spool.holdings.list_objects(states=[State.READY], limit=9)]
    assert in_order == [f"1.2.3.{number}" for number in range(6)]
    (kept,) = spool.holdings.list_objects(states=[State.QUARANTINED], limit=9)
    assert (kept.object_id, kept.success_answered) == (older.stem, True)
    spool.close()
    assert open_spool().recovery == RecoveryReport()


@pytest.mark.parametrize("at_once", [1, 9])
def test_the_same_bytes_twice_are_taken_in_once(
    at_once: int, open_spool: OpenSpool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row could not be written, the sender was told failure and sent it again."""
    labels = [replace(label_of(number), sha256=str(number // 2) * 64) for number in (0, 0, 1, 0, 2)]
    for position, label in enumerate(labels):
        write_object(root, label, written_at_s=1_800_000_000 + position)
    forget_index(root)
    monkeypatch.setattr(strangers_module, "_ROWS_AT_ONCE", at_once)
    spool = open_spool()
    assert spool.recovery == RecoveryReport(files_adopted=3)
    kept = [row.object_id for row in spool.holdings.list_objects(states=[State.READY], limit=9)]
    assert kept == [labels[0].object_id, labels[2].object_id, labels[4].object_id]
    assert len(taken_files(spool, root)) == 3


def test_nothing_is_the_double_of_a_file_that_is_missing(open_spool: OpenSpool, root: Path) -> None:
    """A broken disk took the file of an object, and a crash left the same bytes, sent again, without a row."""
    spool = open_spool()
    first = store(spool, 1)
    spool.close()
    path = root / "objects" / first.object_id[:2] / f"{first.object_id}.sealed"
    again = replace(label_of(1), sha256=first.sha256)
    write_object(root, again)
    path.unlink()
    spool = open_spool()
    assert spool.recovery == RecoveryReport(files_adopted=1, files_missing=1)
    claimed = spool.queue.claim(lease_s=1)
    assert claimed is not None
    assert (claimed.object_id, [path.stem for path in taken_files(spool, root)]) == (
        again.object_id,
        [again.object_id],
    )


@pytest.mark.parametrize("index_is_lost", [False, True])
def test_a_file_the_disk_cannot_read_is_kept_and_the_box_opens(
    index_is_lost: bool, open_spool: OpenSpool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [label_of(number) for number in range(3)]
    for label in labels:
        write_object(root, label)
    if index_is_lost:
        forget_index(root)
    bad = (root / "objects" / labels[1].object_id[:2] / f"{labels[1].object_id}.sealed").stat().st_ino
    pread = os.pread

    def failing(descriptor: int, size: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == bad:
            raise OSError(errno.EIO, "Input/output error")
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", failing)
    spool = open_spool()
    assert spool.recovery == RecoveryReport(files_adopted=2, files_set_aside=1)
    (row,) = spool.holdings.list_objects(states=[State.QUARANTINED], limit=9)
    assert (row.object_id, row.last_error) == (labels[1].object_id, "the disk cannot read the file (EIO)")
    assert row.success_answered, "what may have been acknowledged must not be evicted"


def test_long_work_says_how_far_it_is(
    open_spool: OpenSpool, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(6):
        write_object(root, label_of(number))
    monkeypatch.setattr(strangers_module, "_ROWS_AT_ONCE", 4)
    monkeypatch.setattr(strangers_module, "_SAY_EVERY_S", 0.0)
    open_spool()
    said = [vars(record) for record in caplog.records if "does not know" in record.message]
    assert [(fields["read"], fields["of"]) for fields in said] == [(4, 6), (6, 6)]


# Bounds -------------------------------------------------------------------------------------------------------


def test_the_bodies_read_at_start_up_are_bounded_and_the_rest_is_named(
    open_spool: OpenSpool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        write_object(root, label_of(number), written_at_s=1_800_000_000 + number)
    read: list[ObjectId] = []

    def counting(file: BinaryIO, found: Labelled) -> bool:
        read.append(found.label.object_id)
        return is_sound(file, found)

    monkeypatch.setattr(strangers_module, "is_sound", counting)
    monkeypatch.setattr(strangers_module, "VERIFIED_AT_START_BYTES", 4 * strangers_module.LEAST_CHARGE_BYTES)

    spool = open_spool()

    assert spool.recovery == RecoveryReport(files_adopted=6, unverified_from=5)
    rows = spool.holdings.list_objects(states=[State.READY], limit=9)
    assert sorted(read) == sorted(row.object_id for row in rows[:4])


OPEN_TRACED = """
import sys, tracemalloc
from pathlib import Path
from contract.sealing import DataKeyRing, RecipientPrivateKey
from edge.buffer.spool import Spool
keys = DataKeyRing((RecipientPrivateKey.generate().public_key(),))
tracemalloc.start()
spool = Spool.open(Path(sys.argv[1]), reserve_bytes=0, quarantine_max_bytes=1 << 20, keys=keys)
peak_bytes = tracemalloc.get_traced_memory()[1]
print(spool.recovery.files_adopted, spool.holdings.depth().unsent.objects, peak_bytes)
spool.close()
"""


def test_five_thousand_lost_rows_are_made_again_in_little_memory(open_spool: OpenSpool, root: Path) -> None:
    for number in range(5000):
        write_object(root, label_of(number))
    forget_index(root)
    # In a process of its own: what other tests left running here allocates, too.
    opened = subprocess.run(
        [sys.executable, "-c", OPEN_TRACED, str(root)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        timeout=120,
        check=True,
    )
    adopted, unsent, peak_bytes = map(int, opened.stdout.split())
    assert (adopted, unsent) == (5000, 5000)
    assert peak_bytes < 8 << 20


def test_five_thousand_known_objects_are_not_opened(
    open_spool: OpenSpool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5000):
        write_object(root, label_of(number))
    open_spool().close()

    def refuse(*_: object) -> None:
        raise AssertionError("a known file was opened")

    monkeypatch.setattr(SpoolFiles, "open_file", refuse)
    assert open_spool().recovery == RecoveryReport()


def test_a_file_whose_sync_failed_is_written_anew_before_it_counts(
    open_spool: OpenSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel shows it whole though the disk never got it; a restart of the program does not change that."""
    spool = open_spool()
    stored = store(spool, 1)
    forget_row(spool, stored.object_id)
    spool.close()
    path = tmp_path / "spool" / "objects" / stored.object_id[:2] / f"{stored.object_id}.sealed"
    before, whole = path.stat(), path.read_bytes()
    path.with_suffix(".copy").write_bytes(b"cut off")  # by a crash in the middle of doing so
    synced: list[int] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    assert open_spool().recovery.files_adopted == 1
    after = path.stat()
    assert after.st_ino in synced
    assert (after.st_ino != before.st_ino, after.st_mtime_ns) == (True, before.st_mtime_ns)
    assert path.read_bytes() == whole
    assert not path.with_suffix(".copy").exists()
