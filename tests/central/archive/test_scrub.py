"""Damage is found and named, whoever finds it; it is not shown; and it ends when the bytes are whole again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from central.archive.archive import Archive
from central.archive.comparison import FIRST
from central.archive.errors import NoSuchObjectError, ObjectDamagedError, StoreUnavailableError
from central.archive.faults import Fault, FaultKind
from central.archive.object_names import name_of
from central.archive.rows import StoredInstance
from central.archive.scrub import Scrub, scrub_report
from central.database import Database
from contract.receipt import Outcome
from tests.central.archive.conftest import MakeFile, Stocked
from tests.central.databases import change_object, open_index

WAIT_S = 60.0
LONG_AGO = time.time() - 7200


def names(stocked: Stocked) -> list[str]:
    return sorted(one.sha256 for one in stocked.archive._objects.kept())


def compare(archive: Archive) -> list[tuple[str, FaultKind]]:
    comparison = archive.comparison(lambda _bytes: None)
    position: str | None = FIRST
    while position is not None:
        position = comparison.step(position).position
    return [(fault.sha256, fault.kind) for fault in archive.faults.listed()]


def name_in_store(stocked: Stocked, study: str) -> str:
    """Of the one object of a study."""
    return name_of(stocked.archive._db, open_one(stocked, study).sha256)


def open_one(stocked: Stocked, study: str) -> StoredInstance:
    (stored,) = stocked.archive.reading.open_instances(stocked.grant(study))
    return stored


def stocked_with(stocked: Stocked, made: MakeFile, count: int = 4) -> list[bytes]:
    contents = [made(StudyInstanceUID=f"1.2.{number}", PatientID="A") for number in range(count)]
    for content in contents:
        stocked.put(content)
    return contents


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b[:900] + b"\0\1" + b[902:], lambda _: b""])
def test_changed_bytes_are_found_named_and_not_shown_until_they_come_again(
    stocked: Stocked, made: MakeFile, change: Callable[[bytes], bytes]
) -> None:
    contents = stocked_with(stocked, made)
    assert compare(stocked.archive) == []
    stored, name = open_one(stocked, "1.2.2"), name_in_store(stocked, "1.2.2")
    change_object(stocked.root, name, change)
    assert compare(stocked.archive) == [(name, FaultKind.DAMAGED)]
    (fault,) = stocked.archive.faults.listed()
    assert (fault.study_instance_uid, fault.sop_instance_uid) == ("1.2.2", stored.sop_instance_uid)
    assert fault.gateway_id == "gw"
    with pytest.raises(ObjectDamagedError, match=name):
        _ = open_one(stocked, "1.2.2").path
    assert stocked.put(contents[2]) is Outcome.DUPLICATE
    assert compare(stocked.archive) == []
    assert open_one(stocked, "1.2.2").path.read_bytes() == contents[2]


def test_a_file_that_was_cut_is_not_taken_for_the_whole(
    stocked: Stocked, made: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C-GET, for one, reads it to its end; only one look in 64 compares all of it."""
    monkeypatch.setattr("central.archive.opening._SAMPLED", 0.0)
    stocked_with(stocked, made, 2)
    cut = name_in_store(stocked, "1.2.1")
    change_object(stocked.root, cut, lambda content: content[:-2])
    with pytest.raises(ObjectDamagedError):
        _ = open_one(stocked, "1.2.1").path
    assert stocked.archive.faults.is_unreadable(cut)
    with open_one(stocked, "1.2.0").path.open("rb") as whole:
        assert whole.read()


def test_what_one_side_lost_is_named_and_ends_when_both_have_it(stocked: Stocked, made: MakeFile) -> None:
    contents = stocked_with(stocked, made)
    lost = name_in_store(stocked, "1.2.1")
    change_object(stocked.root, lost, lambda _: None)
    with stocked.archive.receiving.new_object() as sink:
        sink.write(b"nobody indexed this")
        stray = sink.commit().name
    assert compare(stocked.archive) == [(lost, FaultKind.MISSING)], "the other one may be arriving"
    comparison = stocked.archive.comparison(lambda _bytes: None)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "time", lambda: LONG_AGO + 14400)
        assert dict(compare(stocked.archive)) == {
            lost: FaultKind.MISSING,
            stray: FaultKind.UNINDEXED,
        }
        assert not comparison.again(stray)
    with pytest.raises(NoSuchObjectError):
        _ = open_one(stocked, "1.2.1").path
    assert not comparison.again(lost)
    stocked.put(contents[1])
    change_object(stocked.root, stray, lambda _: None)
    assert compare(stocked.archive) == []


def test_a_look_finds_what_the_scrub_has_not_reached(
    stocked: Stocked, made: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    stocked_with(stocked, made, 1)
    stored = open_one(stocked, "1.2.0")
    change_object(stocked.root, name_in_store(stocked, "1.2.0"), lambda _: b"something else")
    monkeypatch.setattr("central.archive.opening._SAMPLED", 1.0)
    with pytest.raises(ObjectDamagedError):
        _ = stored.path
    assert [fault.kind for fault in stocked.archive.faults.untold(9)] == [FaultKind.DAMAGED]


class Scrubbing:
    """A scrub on the archive's folder, as a process of its own would have it."""

    def __init__(self, root: Path, archive: Archive, *, bytes_per_s: int = 1 << 40) -> None:
        self.told: list[Fault] = []
        self.news = threading.Event()
        self.db: Database = open_index(root)
        self.scrub = Scrub(
            self.db,
            archive.faults,
            archive.removal,
            archive.comparison,
            archive.renditions.compare,
            bytes_per_s=bytes_per_s,
            interval=timedelta(days=1),
            tell=self._tell,
        )

    def _tell(self, fault: Fault) -> None:
        self.told.append(fault)
        self.news.set()

    def until(self, condition: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < give_up_at
            time.sleep(0.01)

    def close(self) -> None:
        self.scrub.stop()
        self.db.end()


def test_the_scrub_tells_once_and_rests_until_it_is_due(stocked: Stocked, made: MakeFile) -> None:
    stocked_with(stocked, made)
    damaged = name_in_store(stocked, "1.2.3")
    change_object(stocked.root, damaged, lambda content: content + b"\0")
    first = Scrubbing(stocked.root, stocked.archive)
    first.scrub.start()
    first.until(lambda: scrub_report(first.db).finished_at_utc is not None)
    assert [fault.sha256 for fault in first.told] == [damaged]
    assert scrub_report(first.db).objects == 4
    first.close()
    second = Scrubbing(stocked.root, stocked.archive)
    second.scrub._go_on()  # not due, nothing to tell
    assert second.told == []
    second.close()


def test_one_of_several_processes_scrubs_and_the_next_goes_on_where_it_stopped(
    stocked: Stocked, made: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("central.archive.comparison._BATCH", 2)
    stocked_with(stocked, made, 5)
    first = Scrubbing(stocked.root, stocked.archive, bytes_per_s=1)
    first.scrub.start()  # so slow that it never gets beyond its first object
    first.until(lambda: scrub_report(first.db).running)
    other = Scrubbing(stocked.root, stocked.archive)
    assert not other.scrub._own()
    first.close()
    assert scrub_report(other.db).running
    other.scrub._state = {}
    other.scrub._own()
    other.scrub._state |= {"position": names(stocked)[2], "objects": 3}
    other.scrub._save(owned_until_s=0.0)
    last = Scrubbing(stocked.root, stocked.archive)
    last.scrub._go_on()
    report = scrub_report(last.db)
    assert (report.running, report.objects) == (False, 5)
    other.close()
    last.close()


def test_a_store_that_is_away_condemns_nothing(stocked: Stocked, made: MakeFile) -> None:
    stocked_with(stocked, made, 1)

    def away(_sha256: str) -> object:
        raise StoreUnavailableError("away")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stocked.archive._objects, "read_through", away)
        with pytest.raises(StoreUnavailableError):
            compare(stocked.archive)
    assert stocked.archive.faults.count() == 0


def test_a_disk_that_cannot_read_is_damage_and_another_error_is_not(stocked: Stocked, made: MakeFile) -> None:
    stocked_with(stocked, made, 1)
    for number, expected in ((5, [FaultKind.DAMAGED]), (24, None)):  # EIO, EMFILE

        def unreadable(_sha256: str, number: int = number) -> object:
            raise OSError(number, os.strerror(number))

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(stocked.archive._objects, "read_through", unreadable)
            if expected is None:
                with pytest.raises(OSError):
                    compare(stocked.archive)
            else:
                assert [kind for _, kind in compare(stocked.archive)] == expected
