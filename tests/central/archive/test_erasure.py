"""A study that is erased is gone, from every place it was in, and stays gone; one that is held cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from central.access.policy import Principal, Role
from central.archive.archive import Archive
from central.archive.comparison import FIRST
from central.archive.errors import ErasureRefusedError, StoreUnavailableError, StudyErasedError
from central.archive.query import StudyQuery, fold
from central.archive.sealed_file import SealedFile
from central.archive.tables import DoomedObject, StudyKey
from central.database import Database, Sqlite
from central.foundation import open_archive
from contract.receipt import Outcome
from tests.central.access.house import ORIGIN
from tests.central.archive.conftest import MakeFile, Stocked
from tests.central.archive.test_archive import EVERYTHING
from tests.central.databases import contents_in, open_index, storage, written_in

GONE, STAYS = "1.2.3", "1.2.4"
NAME = "ZEBRAFISH^QUAGGA"
NORTH = Principal("n", "north-radiologist", Role.RADIOLOGIST, institution="north")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    db = open_index(tmp_path)
    yield db
    db.end()


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def stocked(request: pytest.FixtureRequest, tmp_path: Path, db: Database) -> Stocked:
    return Stocked(open_archive(storage(tmp_path, encrypt=request.param), db), tmp_path)


@pytest.fixture
def contents(stocked: Stocked, made: MakeFile) -> dict[str, list[bytes]]:
    """Two studies; a SOP instance of the first has a second content, and another one is in both."""
    gone = [
        made(StudyInstanceUID=GONE, SOPInstanceUID="1.9", PatientName=NAME),
        made(StudyInstanceUID=GONE, SOPInstanceUID="1.8", SeriesInstanceUID="1.7", PatientName=NAME),
        made(
            StudyInstanceUID=GONE,
            SOPInstanceUID="1.8",
            SeriesInstanceUID="1.7",
            StudyID="9",
            PatientName=NAME,
        ),
    ]
    stays = [made(StudyInstanceUID=STAYS, SOPInstanceUID="1.9", PatientName="OKAPI")]
    (stocked.root / "made.dcm").unlink()
    for content in gone + stays:
        stocked.put(content)
    return {GONE: gone, STAYS: stays}


def studies(archive: Archive) -> list[str]:
    return [row.study_instance_uid for row in archive.reading.find_studies(EVERYTHING, StudyQuery())]


def compare(archive: Archive) -> int:
    comparison, position = archive.comparison(lambda _bytes: None), FIRST
    while (step := comparison.step(position)).position is not None:
        position = step.position
    return archive.faults.count()


def test_an_erased_study_is_gone_and_the_others_stay(
    stocked: Stocked, contents: dict[str, list[bytes]]
) -> None:
    archive = stocked.archive
    assert NAME.encode() in written_in(stocked.root)
    announced: list[int] = []
    assert archive.erasures.erase(GONE, "ann", announced.append) == 3
    assert announced == [3]
    assert (archive.reading.facts(GONE), studies(archive)) == (None, [STAYS])
    assert archive.removal.run() == 0
    assert contents_in(stocked.root) == contents[STAYS]
    assert NAME.encode() not in written_in(stocked.root)
    assert [(one.study_instance_uid, one.erased_by, one.objects) for one in archive.erasures.erased()] == [
        (GONE, "ann", 3)
    ]
    assert compare(archive) == 0
    (stored,) = archive.reading.open_instances(stocked.grant(STAYS))
    assert stored.path.read_bytes() == contents[STAYS][0]
    with pytest.raises(ErasureRefusedError, match="no such study"):
        archive.erasures.erase(GONE, "ann", announced.append)


def test_its_words_are_overwritten_in_the_text_index(
    stocked: Stocked, contents: dict[str, list[bytes]], db: Database
) -> None:
    """FTS5 marks what is deleted and keeps it: place by place, so that a name could be read from it."""
    if not isinstance(db, Sqlite):
        return

    def words() -> bytes:
        return b"".join(block for (block,) in db.execute_sql("SELECT block FROM study_words_data"))  # type: ignore[no-untyped-call]  # left out by the stubs

    assert b"zeb" in words()
    stocked.archive.erasures.erase(GONE, "ann")
    gone, stays = fold(NAME), fold("OKAPI")
    found = [gone[at : at + 3] for at in range(len(gone) - 2) if gone[at : at + 3].encode() in words()]
    assert (found, stays[:3].encode() in words()) == ([], True)
    assert b"zeb" not in written_in(stocked.root)


def test_what_comes_afterwards_is_refused_until_it_is_allowed(
    stocked: Stocked,
    contents: dict[str, list[bytes]],
    made: MakeFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive = stocked.archive
    archive.erasures.erase(GONE, "ann", lambda _: None)
    for content in (contents[GONE][0], made(StudyInstanceUID=GONE)):
        with archive.receiving.new_object() as sink:
            sink.write(content)
            stored = sink.commit()
        with pytest.raises(StudyErasedError):
            archive.receiving.index_all([archive.receiving.read(stored, ORIGIN)])
        archive.receiving.forget(stored)
    archive.removal.run()
    assert contents_in(stocked.root) == contents[STAYS]
    with pytest.raises(ErasureRefusedError, match="no such study was erased"):
        archive.erasures.allow(STAYS)
    with pytest.raises(ErasureRefusedError, match="again in 60 minutes"):
        archive.erasures.allow(GONE)
    monkeypatch.setattr("central.archive.erasure.ON_ITS_WAY_S", 0.0)
    archive.erasures.allow(GONE)
    # Its SOP Instance UID is in the other study as well.
    assert stocked.put(contents[GONE][0]) is Outcome.VERSION
    (stored_again,) = archive.reading.open_instances(stocked.grant(GONE))
    assert stored_again.path.read_bytes() == contents[GONE][0]


def test_a_held_study_is_not_erased(stocked: Stocked, contents: dict[str, list[bytes]]) -> None:
    erasures = stocked.archive.erasures
    erasures.hold(GONE, "eve", "court 17")
    with pytest.raises(ErasureRefusedError, match="court 17"):
        erasures.erase(GONE, "ann", lambda _: pytest.fail("nothing is announced"))
    with pytest.raises(ErasureRefusedError, match="already"):
        erasures.hold(GONE, "eve", "twice")
    with pytest.raises(ErasureRefusedError, match="no such study"):
        erasures.hold("9.9", "eve", "a slip of the keyboard")
    # Set while somebody is asked whether to go on: looked at once more in the transaction.
    erasures.release(GONE)
    with pytest.raises(ErasureRefusedError, match="late"):
        erasures.erase(GONE, "ann", lambda _: erasures.hold(GONE, "eve", "late"))
    assert sorted(studies(stocked.archive)) == [GONE, STAYS]
    assert sorted(contents_in(stocked.root)) == sorted(contents[GONE] + contents[STAYS])
    assert [(one.study_instance_uid, one.reason) for one in erasures.holds()] == [(GONE, "late")]
    erasures.release(GONE)
    with pytest.raises(ErasureRefusedError, match="no legal hold"):
        erasures.release(GONE)


def test_a_record_that_cannot_be_written_keeps_the_study(
    stocked: Stocked, contents: dict[str, list[bytes]]
) -> None:
    def fail(_objects: int) -> None:
        raise OSError("no record")

    with pytest.raises(OSError, match="no record"):
        stocked.archive.erasures.erase(GONE, "ann", fail)
    assert sorted(studies(stocked.archive)) == [GONE, STAYS]


def test_a_crash_before_the_objects_are_gone_forgets_none(
    stocked: Stocked, contents: dict[str, list[bytes]], db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = stocked.archive
    archive.erasures.erase(GONE, "ann", lambda _: None)
    assert len(contents_in(stocked.root)) == 4, "they are still there"

    def away(_name: str) -> None:
        raise StoreUnavailableError("away")

    with monkeypatch.context() as patched:
        patched.setattr(archive._objects, "remove", away)
        with pytest.raises(StoreUnavailableError):
            archive.removal.run()
        with pytest.raises(StoreUnavailableError):
            archive.erasures.allow(GONE)
    assert archive.removal.is_at_it()
    assert compare(archive) == 0, "on their way out is no fault"
    later = open_archive(storage(stocked.root), db)
    later.removal.run()
    assert contents_in(stocked.root) == contents[STAYS]
    assert not list(DoomedObject.select().execute(db))


def test_without_the_studys_key_a_copy_of_its_objects_is_noise(
    tmp_path: Path, db: Database, made: MakeFile
) -> None:
    stocked = Stocked(open_archive(storage(tmp_path, encrypt=True), db), tmp_path)
    stocked.put(made(StudyInstanceUID=GONE))
    (stored,) = stocked.archive.reading.open_instances(stocked.grant(GONE))
    file = stored.path
    assert isinstance(file, SealedFile)
    copied = file.path.read_bytes()
    (wrapped,) = [row.wrapped_key for row in StudyKey.select().execute(db)]
    in_sqlite = not storage(tmp_path).database
    assert any(bytes(wrapped) in path.read_bytes() for path in tmp_path.glob("central.sqlite3*")) == in_sqlite
    stocked.archive.erasures.erase(GONE, "ann", lambda _: None)
    assert not list(StudyKey.select().execute(db))
    for path in tmp_path.glob("central.sqlite3*"):
        assert bytes(wrapped) not in path.read_bytes(), path.name
    assert file.key not in written_in(tmp_path)
    assert b"DICM" not in copied


def test_a_plain_copy_that_waits_for_its_readers_goes_at_once(
    tmp_path: Path, db: Database, made: MakeFile
) -> None:
    """Encrypted a moment ago: the plain object was to stay for an hour."""
    plain = Stocked(open_archive(storage(tmp_path, encrypt=False), db), tmp_path)
    plain.put(made(StudyInstanceUID=GONE))
    archive = open_archive(storage(tmp_path, encrypt=True), db)
    assert archive.encrypting().step(0)[1] == 1
    assert archive.removal.run() == 1
    archive.erasures.erase(GONE, "ann", lambda _: None)
    assert archive.removal.run() == 0
    assert contents_in(tmp_path) == []


def test_what_another_institution_has_of_the_study_stays(
    stocked: Stocked, made: MakeFile, db: Database
) -> None:
    archive = stocked.archive
    both, ours, theirs = (made(StudyInstanceUID=GONE, SOPInstanceUID=uid) for uid in ("1.1", "1.2", "1.3"))
    (stocked.root / "made.dcm").unlink()
    assert [stocked.put(content) for content in (both, ours)] == [Outcome.ARCHIVED] * 2
    assert [stocked.put(content, "north") for content in (both, theirs)] == [Outcome.ARCHIVED] * 2
    assert archive.number_of_objects() == len(contents_in(stocked.root)) == 3, "each content lies there once"
    assert archive.erasures.holders(GONE) == ["default", "north"]
    archive.erasures.hold(GONE, "eve", "court 17", institution="north")
    announced: list[int] = []
    assert archive.erasures.erase(GONE, "ann", announced.append) == 2
    assert announced == [2]
    assert archive.removal.run() == 0
    assert sorted(contents_in(stocked.root)) == sorted([both, theirs])
    assert [one.path.read_bytes() for one in archive.reading.open_instances(stocked.grant(GONE, NORTH))] == [
        both,
        theirs,
    ]
    assert compare(archive) == 0
    # Nothing is taken in there any more, and all as before here.
    with archive.receiving.new_object() as sink:
        sink.write(both)
        stored = sink.commit()
    with pytest.raises(StudyErasedError):
        archive.receiving.index_all([archive.receiving.read(stored, ORIGIN)])
    archive.receiving.forget(stored)
    assert stocked.put(both, "north") is Outcome.DUPLICATE
    assert stocked.put(ours, "north") is Outcome.ARCHIVED
    with pytest.raises(ErasureRefusedError, match="court 17"):
        archive.erasures.erase(GONE, "ann", announced.append, institution="north")
    archive.erasures.release(GONE, institution="north")
    assert archive.erasures.erase(GONE, "ann", announced.append, institution="north") == 3
    archive.removal.run()
    assert contents_in(stocked.root) == []
    assert not list(StudyKey.select().execute(db))
    assert [(one.institution, one.objects) for one in archive.erasures.erased()] == [
        ("default", 2),
        ("north", 3),
    ]


@pytest.mark.parametrize("is_removed", [False, True])
def test_an_image_that_comes_while_another_institution_erases_it_is_not_lost(
    stocked: Stocked, made: MakeFile, *, is_removed: bool
) -> None:
    """Its file is there already, as the other's; then that one's study goes, and only then comes its row."""
    archive, content = stocked.archive, made(StudyInstanceUID=GONE)
    stocked.put(content)
    with archive.receiving.new_object() as sink:
        sink.write(content)
        stored = sink.commit()
    indexable = archive.receiving.read(stored, replace(ORIGIN, institution="north"))
    archive.erasures.erase(GONE, "ann", lambda _: None)
    if is_removed:
        archive.removal.run()
    if is_removed and stored.sealed is None:
        with pytest.raises(StoreUnavailableError, match="send it again"):
            archive.receiving.index_all([indexable])
        assert stocked.put(content, "north") is Outcome.ARCHIVED
    else:
        assert archive.receiving.index_all([indexable]) == [Outcome.ARCHIVED]
    archive.removal.run()
    (found,) = archive.reading.open_instances(stocked.grant(GONE, NORTH))
    assert found.path.read_bytes() == content
    assert compare(archive) == 0
