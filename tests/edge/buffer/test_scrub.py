"""Damage on the disk: found by reading, told, never deleted unless central has it, and mended by a resend."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from contract.identifiers import ObjectId
from edge import box_status
from edge.buffer import damage as damage_module
from edge.buffer import scrub as scrub_module
from edge.buffer import strangers as strangers_module
from edge.buffer.errors import WrongStateError
from edge.buffer.records import Stored
from edge.buffer.scrub import Damage, Scrub
from edge.buffer.spool import Spool
from edge.buffer.states import State
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import ORIGIN, Central, content_of, store

WAIT_S = 60.0
FAST = 1 << 40
NEVER_AGAIN = timedelta(days=365)


class Scrubbing:
    """Runs passes over a spool, and waits for what comes of them."""

    def __init__(self, folder: Path) -> None:
        self.state_path = folder / "scrub.json"
        self.damages: list[Damage] = []
        self._running: list[Scrub] = []

    def begin(
        self,
        spool: Spool,
        *,
        unverified_from: int = 0,
        bytes_per_s: int = FAST,
        interval: timedelta = NEVER_AGAIN,
        on_damage: Callable[[Damage], None] = lambda _: None,
    ) -> Scrub:
        def noted(damage: Damage) -> None:
            self.damages.append(damage)
            on_damage(damage)

        scrub = Scrub(
            spool.inspection,
            self.state_path,
            quiet_s=spool.entrance.quiet_s,
            unverified_from=unverified_from,
            bytes_per_s=bytes_per_s,
            interval=interval,
            on_damage=noted,
        )
        self._running.append(scrub)
        scrub.start()
        return scrub

    def whole_pass(self, spool: Spool, *, unverified_from: int = 0) -> scrub_module.ScrubReport:
        """One pass from beginning to end, whatever went before."""
        self.state_path.unlink(missing_ok=True)
        ended = threading.Event()
        saved = scrub_module.Scrub._save

        def save(scrub: Scrub) -> None:
            saved(scrub)
            if scrub.last_pass() is not None:
                ended.set()

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(scrub_module.Scrub, "_save", save)
            scrub = self.begin(spool, unverified_from=unverified_from)
            assert ended.wait(WAIT_S)
            scrub.stop(WAIT_S)
        last = scrub.last_pass()
        assert last is not None
        return last

    def stop(self) -> None:
        for scrub in self._running:
            scrub.stop(WAIT_S)


@pytest.fixture
def scrubbing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scrubbing]:
    monkeypatch.setattr(scrub_module, "QUIET_S", 0.0)
    (tmp_path / "state").mkdir()
    running = Scrubbing(tmp_path / "state")
    yield running
    running.stop()


def path_of(folder: Path, object_id: ObjectId) -> Path:
    (path,) = folder.rglob(f"{object_id}.sealed")
    return path


def flip_a_bit(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def acknowledge_next(spool: Spool) -> ObjectId:
    claimed = spool.queue.claim(lease_s=60)
    assert claimed is not None
    spool.queue.acknowledge(claimed.object_id, "a receipt")
    return claimed.object_id


def rows(spool: Spool) -> dict[ObjectId, tuple[State, bool]]:
    return {
        row.object_id: (row.state, row.damaged)
        for row in spool.holdings.list_objects(states=list(State), limit=99)
    }


def stored_three(spool: Spool) -> list[Stored]:
    return [store(spool, number) for number in range(3)]


def test_a_sound_spool_is_read_to_its_end(spool: Spool, scrubbing: Scrubbing) -> None:
    stored_three(spool)
    with spool.entrance.receive(ORIGIN) as reception:
        reception.write(b"what is this")
        reception.quarantine("nobody knows")

    found = scrubbing.whole_pass(spool)

    assert (found.files, found.damaged, found.unlabelled) == (4, 0, 0)
    assert found.finished_at_utc is not None
    assert abs(datetime.now(UTC) - found.finished_at_utc) < timedelta(seconds=WAIT_S)
    assert scrubbing.damages == []


@pytest.mark.parametrize("at", [0, 700, -1, -30], ids=["header", "body", "magic", "label"])
def test_a_bit_that_flipped_is_found_kept_and_told(
    at: int, spool: Spool, tmp_path: Path, scrubbing: Scrubbing, caplog: pytest.LogCaptureFixture
) -> None:
    one, two, three = (stored.object_id for stored in stored_three(spool))
    flip_a_bit(path_of(tmp_path, two), at)

    with caplog.at_level(logging.ERROR):
        found = scrubbing.whole_pass(spool)

    assert (found.files, found.damaged) == (3, 1)
    assert rows(spool) == {
        one: (State.READY, False),
        two: (State.QUARANTINED, True),
        three: (State.READY, False),
    }
    assert path_of(tmp_path, two).parent.name == "quarantine"
    (damage,) = scrubbing.damages
    assert (damage.object_id, damage.calling_ae_title, damage.state) == (two, "CT1", State.QUARANTINED)
    assert [record.message for record in caplog.records] == ["damaged on the disk"]
    (entry,) = [entry for entry in box_status.queue(spool).entries if entry.object_id == two]
    assert "send instance 1.2.3.1 again from CT1" in entry.last_error
    assert scrubbing.whole_pass(spool).files == 2


def test_a_resend_is_stored_anew_and_ends_the_matter_once_central_has_it(
    spool: Spool, tmp_path: Path, scrubbing: Scrubbing, receiving_central: Central
) -> None:
    damaged = store(spool, 1).object_id
    flip_a_bit(path_of(tmp_path, damaged), 700)
    scrubbing.whole_pass(spool)
    assert (
        spool.holdings.standing(["1.2.3.1"]) == {}
    )  # a scanner that asks for commitment is told to send it again

    again = store(spool, 1)

    assert again.outcome == "stored"
    assert receiving_central.unseal(spool, again.object_id) == content_of(1)
    assert not spool.holdings.standing(["1.2.3.1"])["1.2.3.1"].at_central
    assert acknowledge_next(spool) == again.object_id
    assert rows(spool) == {damaged: (State.FREED, True), again.object_id: (State.FREED, False)}
    assert spool.holdings.standing(["1.2.3.1"])["1.2.3.1"].at_central
    assert not list((tmp_path / "spool" / "quarantine").iterdir())


def test_other_content_under_its_uid_does_not_replace_what_was_damaged(
    spool: Spool, tmp_path: Path, scrubbing: Scrubbing
) -> None:
    damaged = store(spool, 1).object_id
    flip_a_bit(path_of(tmp_path, damaged), 700)
    scrubbing.whole_pass(spool)

    store(spool, 1, content=b"another image under the same UID")
    acknowledge_next(spool)

    assert rows(spool)[damaged] == (State.QUARANTINED, True)
    assert spool.holdings.standing(["1.2.3.1"]) == {}


def test_what_central_has_is_freed(open_spool: OpenSpool, tmp_path: Path, scrubbing: Scrubbing) -> None:
    spool = open_spool(retain=timedelta(days=1))
    changed, gone, sound = (stored.object_id for stored in stored_three(spool))
    for _ in range(3):
        acknowledge_next(spool)
    flip_a_bit(path_of(tmp_path, changed), 700)
    path_of(tmp_path, gone).unlink()

    assert scrubbing.whole_pass(spool).damaged == 2

    assert rows(spool) == {
        changed: (State.FREED, False),
        gone: (State.FREED, False),
        sound: (State.RETAINED, False),
    }
    assert [damage.state for damage in scrubbing.damages] == [State.FREED] * 2


def test_a_file_that_is_gone(
    open_spool: OpenSpool, spool: Spool, tmp_path: Path, scrubbing: Scrubbing
) -> None:
    object_id = store(spool, 1).object_id
    path_of(tmp_path, object_id).unlink()

    assert scrubbing.whole_pass(spool).damaged == 1

    assert rows(spool) == {object_id: (State.QUARANTINED, True)}
    assert store(spool, 1).outcome == "stored"
    spool.close()
    assert open_spool().recovery.files_missing == 1  # nothing new, and counted until the resend is at central


def test_a_file_cut_short_and_one_of_an_older_program(
    spool: Spool, tmp_path: Path, scrubbing: Scrubbing
) -> None:
    cut, older, _ = stored_three(spool)
    for stored, size in ((cut, cut.stored_bytes - 1), (older, older.stored_bytes)):
        os.truncate(path_of(tmp_path, stored.object_id), size)

    found = scrubbing.whole_pass(spool)

    assert (found.files, found.damaged, found.unlabelled) == (2, 1, 1)
    assert [damage.object_id for damage in scrubbing.damages] == [cut.object_id]
    assert rows(spool)[older.object_id] == (State.READY, False)


def test_two_files_that_changed_places(spool: Spool, tmp_path: Path, scrubbing: Scrubbing) -> None:
    one, two, _ = (path_of(tmp_path, stored.object_id) for stored in stored_three(spool))
    for source, target in ((one, tmp_path / "aside"), (two, one), (tmp_path / "aside", two)):
        source.rename(target)

    assert scrubbing.whole_pass(spool).damaged == 2


def test_one_bad_reading_condemns_nothing(
    spool: Spool, scrubbing: Scrubbing, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_id = store(spool, 1).object_id
    answers = iter(["a cable was loose", None])
    monkeypatch.setattr(scrub_module, "find_damage", lambda *_: next(answers))

    assert scrubbing.whole_pass(spool).damaged == 0
    assert rows(spool) == {object_id: (State.READY, False)}


def test_a_disk_that_cannot_read_a_file(
    spool: Spool, scrubbing: Scrubbing, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_id = store(spool, 1).object_id

    def fail(*_: object) -> bool:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(damage_module, "is_sound", fail)
        scrubbing.whole_pass(spool)

        (row,) = spool.holdings.list_objects(states=[State.QUARANTINED], limit=9)
        assert (row.damaged, row.last_error) == (True, "the disk cannot read the file (EIO)")
        with pytest.raises(WrongStateError, match="damaged: the disk cannot read"):
            spool.quarantine.requeue(object_id)

    spool.quarantine.requeue(object_id)  # it was the cable
    assert rows(spool) == {object_id: (State.READY, False)}
    assert acknowledge_next(spool) == object_id


def test_what_is_being_sent_is_for_central_to_judge(
    spool: Spool, tmp_path: Path, scrubbing: Scrubbing
) -> None:
    object_id = store(spool, 1).object_id
    flip_a_bit(path_of(tmp_path, object_id), 700)
    assert spool.queue.claim(lease_s=3600) is not None

    assert scrubbing.whole_pass(spool).damaged == 0
    assert rows(spool) == {object_id: (State.SENDING, False)}
    assert scrubbing.damages == []


def test_what_start_up_took_in_unread_is_read_first(
    open_spool: OpenSpool, tmp_path: Path, scrubbing: Scrubbing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost index over more than start-up may read; and a file that was damaged in the same accident."""
    spool = open_spool()
    stored = [store(spool, number) for number in range(6)]
    spool.close()
    for path in (tmp_path / "spool").glob("index.sqlite3*"):
        path.unlink()
    for one in stored:
        flip_a_bit(path_of(tmp_path, one.object_id), 700)
    block = path_of(tmp_path, stored[0].object_id).stat().st_size
    monkeypatch.setattr(strangers_module, "VERIFIED_AT_START_BYTES", 2 * block)

    spool = open_spool()

    unread = [object_id for object_id, (state, _) in rows(spool).items() if state is State.READY]
    assert len(unread) == 4
    assert spool.recovery.unverified_from == 3
    assert spool.recovery.files_set_aside == 2
    found = scrubbing.whole_pass(spool, unverified_from=spool.recovery.unverified_from)
    assert [damage.object_id for damage in scrubbing.damages] == unread
    assert (found.files, found.damaged, found.unlabelled) == (4, 4, 0)


def test_a_pass_that_was_interrupted_goes_on_where_it_stood(
    open_spool: OpenSpool, tmp_path: Path, scrubbing: Scrubbing
) -> None:
    spool = open_spool()
    stored = [store(spool, number).object_id for number in range(5)]
    for object_id in (stored[1], stored[3]):
        flip_a_bit(path_of(tmp_path, object_id), 700)
    reached = threading.Event()

    def hold(_: Damage) -> None:
        reached.set()
        scrub._stopping.wait(WAIT_S)

    scrub = scrubbing.begin(spool, on_damage=hold)
    assert reached.wait(WAIT_S)
    scrub.stop(WAIT_S)
    spool.close()
    assert len(scrubbing.damages) == 1
    assert scrub.last_pass() is None

    spool = open_spool()
    opened: list[ObjectId] = []
    original = spool.inspection.open_file

    def watched(object_id: ObjectId) -> BinaryIO | None:
        opened.append(object_id)
        return original(object_id)

    spool.inspection.open_file = watched  # type: ignore[method-assign]
    again = threading.Event()
    scrubbing.begin(spool, on_damage=lambda _: again.set())
    assert again.wait(WAIT_S)

    assert [damage.object_id for damage in scrubbing.damages] == [stored[1], stored[3]]
    assert stored[0] not in opened


def test_a_pass_is_not_begun_before_its_time(spool: Spool, tmp_path: Path, scrubbing: Scrubbing) -> None:
    scrubbing.whole_pass(spool)
    flip_a_bit(path_of(tmp_path, store(spool, 1).object_id), 700)

    scrub = scrubbing.begin(spool, interval=timedelta(days=7))
    scrub.stop(WAIT_S)
    assert scrubbing.damages == []

    found = threading.Event()
    scrubbing.begin(spool, interval=timedelta(seconds=0), on_damage=lambda _: found.set())
    assert found.wait(WAIT_S)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"todo": 7, "running": {}, "last": null}', "\xff"])
def test_a_state_that_cannot_be_read_begins_anew(text: str, spool: Spool, scrubbing: Scrubbing) -> None:
    store(spool, 1)
    scrubbing.state_path.write_text(text, encoding="latin-1")
    scrub = scrubbing.begin(spool)
    while (last := scrub.last_pass()) is None:
        assert scrub._thread.is_alive()
        scrub._thread.join(0.01)
    assert last.files == 1


def test_it_rests_while_images_are_received(
    spool: Spool, tmp_path: Path, scrubbing: Scrubbing, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip_a_bit(path_of(tmp_path, store(spool, 1).object_id), 700)
    monkeypatch.setattr(scrub_module, "QUIET_S", 3600.0)
    monkeypatch.setattr(scrub_module, "BUSY_BYTES_PER_S", 1)
    opened: list[ObjectId] = []
    spool.inspection.open_file = opened.append  # type: ignore[method-assign,assignment]

    scrub = scrubbing.begin(spool)
    scrub._thread.join(0.2)
    assert scrub._thread.is_alive()
    scrub.stop(WAIT_S)  # and it wakes at once when it has to end

    assert opened == []
    assert not scrub._thread.is_alive()


def test_a_box_that_never_rests_is_read_as_well_only_slower(
    spool: Spool, tmp_path: Path, scrubbing: Scrubbing, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = store(spool, 1).object_id
    flip_a_bit(path_of(tmp_path, damaged), 700)
    size_bytes = path_of(tmp_path, damaged).stat().st_size
    monkeypatch.setattr(scrub_module, "QUIET_S", 3600.0)
    monkeypatch.setattr(scrub_module, "BUSY_BYTES_PER_S", 4 * size_bytes)
    found = threading.Event()
    began_s = time.monotonic()

    scrubbing.begin(spool, on_damage=lambda _: found.set())

    assert found.wait(WAIT_S)
    assert time.monotonic() - began_s > 0.25, "read twice, each time in a quarter of a second at the least"
    assert [damage.object_id for damage in scrubbing.damages] == [damaged]


def test_it_reads_no_faster_than_it_may(spool: Spool, scrubbing: Scrubbing) -> None:
    for number in range(4):
        store(spool, number, content=os.urandom(1 << 20))
    read = spool.holdings.depth().by_state[State.READY].stored_bytes
    began = datetime.now(UTC)

    scrub = scrubbing.begin(spool, bytes_per_s=read)  # a second's worth, and a little for each file
    while scrub.last_pass() is None:
        assert datetime.now(UTC) - began < timedelta(seconds=WAIT_S)
        scrub._thread.join(0.01)

    assert datetime.now(UTC) - began >= timedelta(seconds=1)


def test_an_idle_spool_is_left_alone(spool: Spool, tmp_path: Path, scrubbing: Scrubbing) -> None:
    """Between passes nothing is written, and nothing is read from the disk."""
    store(spool, 1)
    scrubbing.whole_pass(spool)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    read_at = path_of(tmp_path, next(iter(rows(spool)))).stat().st_atime_ns

    scrub = scrubbing.begin(spool)
    scrub._thread.join(0.3)
    scrub.stop(WAIT_S)

    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert path_of(tmp_path, next(iter(rows(spool)))).stat().st_atime_ns == read_at


def test_an_index_from_before_there_was_a_scrub(
    open_spool: OpenSpool, tmp_path: Path, scrubbing: Scrubbing
) -> None:
    spool = open_spool()
    object_id = store(spool, 1).object_id
    spool.close()
    with sqlite3.connect(tmp_path / "spool" / "index.sqlite3") as older:
        older.execute("ALTER TABLE objects DROP COLUMN damaged")
    older.close()

    spool = open_spool()

    assert rows(spool) == {object_id: (State.READY, False)}
    flip_a_bit(path_of(tmp_path, object_id), 700)
    assert scrubbing.whole_pass(spool).damaged == 1
    assert rows(spool) == {object_id: (State.QUARANTINED, True)}
