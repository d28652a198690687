"""Encrypted at rest: nothing lies in the clear, any part is read without the rest, and nothing changed is given out."""

from __future__ import annotations

import errno
import os
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from central.archive.comparison import FIRST
from central.archive.errors import ObjectDamagedError, StorageError
from central.archive.faults import FaultKind
from central.archive.object_files import ObjectFiles
from central.archive.query import StudyQuery
from central.archive.rows import StudyRow
from central.archive.sealed_file import FRAME_BYTES, HEADER, SealedFile, sealed_size
from central.archive.sealing_sink import SealingSink
from central.database import Database
from central.errors import StartError
from central.foundation import open_archive
from central.identity.errors import KeyFileError
from central.identity.storage_keys import StorageKeys
from contract.receipt import Outcome
from tests.central.access.house import ORIGIN
from tests.central.archive.conftest import MakeFile, Stocked, sample
from tests.central.archive.test_archive import EVERYTHING
from tests.central.databases import change_object, contents_in, open_index, storage, written_in

SIZES = (0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 5 * FRAME_BYTES, 40 * FRAME_BYTES + 17)


class Place:
    """A central's archive, opened with and without encryption."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.db: Database = open_index(root)
        self.keys = StorageKeys(storage(root).keys_folder)

    def open(self, *, encrypt: bool = True) -> Stocked:
        settings = storage(self.root, encrypt=encrypt)
        return Stocked(open_archive(settings, self.db), self.root)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.db.end()


def studies_in(stocked: Stocked) -> list[StudyRow]:
    return stocked.archive.reading.find_studies(EVERYTHING, StudyQuery())


def only(stocked: Stocked) -> SealedFile:
    (study,) = studies_in(stocked)
    (stored,) = stocked.archive.reading.open_instances(stocked.grant(study))
    path = stored.path
    assert isinstance(path, SealedFile)
    return path


def sealed(folder: Path, content: bytes) -> SealedFile:
    with SealingSink(ObjectFiles.open(folder).new_object()) as sink:
        at = 0
        while at < len(content):
            size = random.Random(at).randint(1, 200_000)
            sink.write(content[at : at + size])
            at += size
        stored = sink.commit()
    assert isinstance(stored.path, SealedFile)
    return stored.path


@pytest.mark.parametrize("size", SIZES)
def test_any_part_is_what_was_written(tmp_path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    file = sealed(tmp_path / "objects", content)
    assert file.path.stat().st_size == sealed_size(size)
    assert file.read_bytes() == content
    chance = random.Random(1)
    with pickle.loads(pickle.dumps(file)).open("rb") as opened:  # as a worker process gets it
        for _ in range(60):
            at, length = (
                chance.randint(0, size + 5),
                chance.choice((0, 1, 100, FRAME_BYTES, 3 * FRAME_BYTES, -1)),
            )
            opened.seek(at)
            assert opened.read(length) == (content[at:] if length < 0 else content[at : at + length])
            assert opened.tell() == max(at, min(size, size if length < 0 else at + length))
        assert opened.seek(-min(3, size), os.SEEK_END) == size - min(3, size)


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b[:-1],
        lambda b: b + b"\0",
        lambda b: b[: len(HEADER) + 3 * (FRAME_BYTES + 16)],  # whole frames, but not the last
        lambda b: (
            b[:16] + b[16 + FRAME_BYTES + 16 : 16 + 2 * (FRAME_BYTES + 16)] + b[16 + FRAME_BYTES + 16 :]
        ),
        lambda b: b[:8] + b"\2" + b[9:],
        lambda b: b[:-17] + bytes([b[-17] ^ 1]) + b[-16:],
        lambda _: b"",
    ],
    ids=["cut", "longer", "at a frame", "frames exchanged", "header", "a bit", "empty"],
)
def test_what_was_changed_is_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    file = sealed(tmp_path / "objects", os.urandom(3 * FRAME_BYTES + 5))
    file.path.write_bytes(change(file.path.read_bytes()))
    with pytest.raises(ObjectDamagedError, match=file.name):
        file.read_bytes()


def test_a_frame_is_read_without_the_others(tmp_path: Path) -> None:
    content = os.urandom(4 * FRAME_BYTES)
    file = sealed(tmp_path / "objects", content)
    kept = bytearray(file.path.read_bytes())
    kept[len(HEADER) + FRAME_BYTES + 16] ^= 1  # the second frame
    file.path.write_bytes(kept)
    with file.open("rb") as opened:
        assert opened.read(100) == content[:100]
        opened.seek(3 * FRAME_BYTES)
        assert opened.read() == content[3 * FRAME_BYTES :]
        opened.seek(FRAME_BYTES)
        with pytest.raises(ObjectDamagedError):
            opened.read(1)


def test_nothing_lies_in_the_clear_and_it_comes_back_identical(place: Place, made: MakeFile) -> None:
    stocked = place.open()
    content = made(PatientID="A", PatientComments="SECRET-OF-THE-DATA-SET" * 1000)
    (place.root / "made.dcm").unlink()
    assert stocked.put(content) is Outcome.ARCHIVED
    files = b"".join(path.read_bytes() for path in place.root.rglob("*.dcm"))
    assert b"SECRET-OF-THE-DATA-SET" not in files
    file = only(stocked)
    assert file.read_bytes() == content
    assert file.key not in written_in(place.root)
    assert repr(file.key) not in repr(file)
    assert stocked.put(content) is Outcome.DUPLICATE
    assert stocked.archive.removal.run() == 0
    assert len(contents_in(place.root)) == 1, "the second copy is gone"


def test_plain_and_encrypted_stand_side_by_side_and_the_plain_ones_can_follow(
    place: Place, made: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = made(StudyInstanceUID="1.1"), made(StudyInstanceUID="1.2")
    place.open(encrypt=False).put(before)
    stocked = place.open()
    stocked.put(after)
    assert stocked.put(before) is Outcome.DUPLICATE
    contents = {"1.1": before, "1.2": after}

    def read() -> dict[str, bytes]:
        return {
            study: stocked.archive.reading.open_instances(stocked.grant(study))[0].path.read_bytes()
            for study in contents
        }

    assert read() == contents
    encrypting, position, done = stocked.archive.encrypting(), 0, 0
    while True:
        next_position, count = encrypting.step(position)
        done += count
        if next_position is None:
            break
        position = next_position
    assert done == 1
    assert read() == contents
    assert stocked.archive.removal.run() == 1, "somebody may be reading the plain one still"
    monkeypatch.setattr("central.archive.removal.READ_STILL_S", -3600.0)
    place.db.execute_sql("UPDATE doomed_object SET due_at_s = 1")
    assert stocked.archive.removal.run() == 0
    assert read() == contents
    assert not any(b"DICM" in path.read_bytes() for path in place.root.rglob("objects*/**/*.dcm"))
    unencrypting = place.open(encrypt=False)
    assert unencrypting.put(before) is Outcome.DUPLICATE, "switched off again, and what is encrypted is read"


def a_bit_changed(kept: bytes) -> bytes:
    return kept[:-1] + bytes([kept[-1] ^ 1])


def test_listed_damage_is_mended_by_the_same_image(place: Place) -> None:
    stocked = place.open()
    content = sample("CT_small.dcm")
    stocked.put(content)
    name = only(stocked).name
    change_object(place.root, name, a_bit_changed)
    stocked.archive.faults.note(name, FaultKind.DAMAGED)
    assert stocked.put(content) is Outcome.DUPLICATE
    assert only(stocked).name != name
    assert only(stocked).read_bytes() == content
    assert stocked.archive.faults.count() == 0


@pytest.mark.parametrize(
    "change", [a_bit_changed, lambda b: b[:-1], lambda _: None], ids=["bit", "cut", "lost"]
)
@pytest.mark.parametrize("together", [False, True])
def test_damage_that_nobody_has_seen_is_mended_by_the_same_image(
    place: Place, change: Callable[[bytes], bytes | None], *, together: bool
) -> None:
    """A receipt for a resend vouches for what is held: so that is looked at, as it comes."""
    stocked = place.open()
    content = sample("CT_small.dcm")
    stocked.put(content)
    name = only(stocked).name
    assert stocked.put(content) is Outcome.DUPLICATE
    assert only(stocked).name == name, "what is whole stays"
    change_object(place.root, name, change)
    with stocked.archive.receiving.new_object() as sink:
        sink.write(content)
        again = stocked.archive.receiving.read(sink.commit(), ORIGIN)
    index = stocked.archive.receiving.index_together if together else stocked.archive.receiving.index_all
    assert index([again]) == [Outcome.DUPLICATE]
    assert only(stocked).name != name
    assert only(stocked).read_bytes() == content
    assert stocked.archive.faults.count() == 0
    assert stocked.archive.removal.run() == 1, "the damaged one goes later"


def test_what_comes_plain_mends_what_is_damaged_and_encrypted(place: Place) -> None:
    stocked = place.open()
    content = sample("CT_small.dcm")
    stocked.put(content)
    change_object(place.root, only(stocked).name, a_bit_changed)
    later = place.open(encrypt=False)
    assert later.put(content) is Outcome.DUPLICATE
    (stored,) = later.archive.reading.open_instances(later.grant(studies_in(later)[0]))
    assert stored.path.read_bytes() == content


@pytest.mark.parametrize("together", [False, True])
def test_a_resend_is_put_off_while_the_store_cannot_say_what_it_holds(
    place: Place, made: MakeFile, monkeypatch: pytest.MonkeyPatch, *, together: bool
) -> None:
    stocked = place.open()
    content = sample("CT_small.dcm")
    stocked.put(content)

    def away(_sha256: str) -> Iterator[bytes]:
        raise OSError(errno.EMFILE, "Too many open files")

    with stocked.archive.receiving.new_object() as sink:
        sink.write(content)
        again = stocked.archive.receiving.read(sink.commit(), ORIGIN)
    with stocked.archive.receiving.new_object() as sink:
        sink.write(made(StudyInstanceUID="1.9"))
        fresh = stocked.archive.receiving.read(sink.commit(), ORIGIN)
    monkeypatch.setattr(stocked.archive._objects, "read_through", away)
    if together:
        error, outcome = stocked.archive.receiving.index_together([again, fresh])
        assert isinstance(error, StorageError)
        assert outcome is Outcome.ARCHIVED, "the fault is of one object"
    else:
        with pytest.raises(StorageError):
            stocked.archive.receiving.index_all([again])
    assert stocked.archive.faults.count() == 0


def test_keys_that_were_exchanged_open_nothing_and_are_found(place: Place, made: MakeFile) -> None:
    stocked = place.open()
    contents = [made(StudyInstanceUID=f"1.{number}") for number in range(3)]
    for content in contents:
        stocked.put(content)
    place.db.execute_sql(
        "UPDATE sealed_content SET wrapped_key = (SELECT wrapped_key FROM sealed_content"
        " WHERE study_instance_uid = '1.2') WHERE study_instance_uid = '1.1'"
    )
    comparison, position = stocked.archive.comparison(lambda _bytes: None), FIRST
    assert comparison.step(position).position is None
    (fault,) = stocked.archive.faults.listed()
    assert (fault.kind, fault.study_instance_uid) == (FaultKind.UNOPENABLE, "1.1")
    with pytest.raises(ObjectDamagedError, match=fault.sha256):
        _ = stocked.archive.reading.open_instances(stocked.grant("1.1"))[0].path
    assert stocked.put(contents[1]) is Outcome.DUPLICATE
    assert stocked.archive.reading.open_instances(stocked.grant("1.1"))[0].path.read_bytes() == contents[1]
    assert stocked.archive.faults.count() == 0


def test_a_new_storage_key_opens_everything_and_writes_no_object_anew(place: Place, made: MakeFile) -> None:
    stocked = place.open()
    contents = {f"1.{number}": made(StudyInstanceUID=f"1.{number}") for number in range(3)}
    for content in contents.values():
        stocked.put(content)
    objects = sorted((path, path.stat().st_mtime_ns) for path in place.root.rglob("objects/??/*.dcm"))
    (first,) = place.keys.ids()
    second = place.keys.rotate()
    assert stocked.archive._study_keys.rewrap() == 3
    assert stocked.archive._study_keys.wrapped_under() == {second: 3}
    place.keys.destroy(first)
    again = place.open()
    for study, content in contents.items():
        assert again.archive.reading.open_instances(again.grant(study))[0].path.read_bytes() == content
    assert objects == sorted((path, path.stat().st_mtime_ns) for path in place.root.rglob("objects/??/*.dcm"))
    again.put(made(StudyInstanceUID="1.9"))
    assert again.archive._study_keys.wrapped_under() == {second: 4}


@pytest.mark.parametrize("damage", ["missing", "other", "short", "open"])
def test_a_storage_key_that_is_missing_or_damaged_stops_the_start_by_name(place: Place, damage: str) -> None:
    place.open().put(sample("CT_small.dcm"))
    path = storage(place.root).keys_folder / f"{place.keys.ids()[0]}.key"
    match damage:
        case "missing":
            path.unlink()
        case "other":
            path.write_bytes(os.urandom(32))
        case "short":
            path.write_bytes(path.read_bytes()[:31])
        case _:
            path.chmod(0o644)
    with pytest.raises(StartError, match=path.name):
        place.open()
    assert damage != "missing" or not path.exists(), "it is not made again"


def test_keys_of_another_central_are_named(place: Place, made: MakeFile) -> None:
    stocked = place.open()
    stocked.put(made(StudyInstanceUID="1.1"))
    stocked.put(made(StudyInstanceUID="1.2"))
    place.db.execute_sql(
        "UPDATE study_key SET wrapped_key = (SELECT wrapped_key FROM study_key WHERE study_instance_uid = '1.2')"
    )
    with pytest.raises(KeyFileError, match=r"study 1\.1"):
        _ = stocked.archive.reading.open_instances(stocked.grant("1.1"))[0].path
