"""What is made from contents and kept: the same on files and on S3, plain and encrypted, and never of anything else."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from central.access.policy import Principal, Role
from central.archive.archive import Archive
from central.archive.errors import StoreUnavailableError
from central.archive.renditions import ReadyBytes
from central.archive.settings import StorageSettings
from central.archive.sources import Sources
from central.archive.tables import Rendition
from central.database import Database
from central.foundation import open_archive, open_renditions
from tests.central.archive.conftest import RADIOLOGIST, MakeFile, Stocked
from tests.central.databases import open_index, storage
from tests.seaweed import S3Server, s3_server

STUDY, SERIES = "1.2.3", "1.2.3.4"
NORTH = Principal("n", "north-radiologist", Role.RADIOLOGIST, institution="north")
WAIT_S = 60.0
BYTES = b"ready made " * 1000


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@dataclass
class Kept:
    """An archive, what it makes, and what its store of renditions has."""

    stocked: Stocked
    settings: Callable[..., StorageSettings]
    db: Database
    made: list[str]

    @property
    def archive(self) -> Archive:
        return self.stocked.archive

    def again(self, **settings: object) -> Kept:
        """As another process, or the next one."""
        archive = open_archive(self.settings(**settings), self.db)
        return Kept(Stocked(archive, self.stocked.root), self.settings, self.db, self.made)

    def sources(self, study: str = STUDY, principal: Principal = RADIOLOGIST) -> Sources:
        return self.archive.reading.sources(self.stocked.grant(study, principal))

    def get(self, sources: Sources, form: str = "form", content: bytes = BYTES) -> bytes:
        def make() -> bytes:
            self.made.append(form)
            return content

        return self.archive.renditions.get(sources, form, make).data

    def in_store(self) -> list[bytes]:
        store = open_renditions(self.settings(), "looking")
        return [b"".join(map(bytes, store.read_through(one.sha256))) for one in store.kept()]

    def rows(self) -> list[dict[str, object]]:
        return list(Rendition.select().dicts().execute(self.db))


KINDS = [("files", False), ("files", True), ("s3", False), ("s3", True)]


@pytest.fixture(params=KINDS, ids=["files", "files-encrypted", "s3", "s3-encrypted"])
def kept(
    request: pytest.FixtureRequest, tmp_path: Path, made: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Kept]:
    kind, encrypt = request.param
    monkeypatch.setenv("DICOMNET_TEST_OBJECTS", kind)
    if kind == "s3":
        server = request.getfixturevalue("server")
        monkeypatch.setattr("tests.central.databases._s3", lambda: server)

    def settings(**said: object) -> StorageSettings:
        return storage(tmp_path, **{"encrypt": encrypt, **said})

    db = open_index(tmp_path)
    opened = Kept(Stocked(open_archive(settings(), db), tmp_path), settings, db, [])
    opened.stocked.put(made(StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES, SOPInstanceUID="1.1"))
    yield opened
    db.end()


def test_it_is_made_once_for_every_process(kept: Kept) -> None:
    assert kept.get(kept.sources()) == kept.get(kept.sources()) == kept.again().get(kept.sources()) == BYTES
    assert kept.get(kept.sources(), "another form") == BYTES
    assert kept.made == ["form", "another form"]
    (row, _) = kept.rows()
    is_plain = row["wrapped_key"] is None
    assert (BYTES in kept.in_store()) == is_plain == (not kept.settings().encrypt)
    assert not any(kept.settings().encrypt and BYTES[:30] in content for content in kept.in_store())


def test_nothing_of_it_lies_among_the_originals(kept: Kept) -> None:
    before = kept.archive.number_of_objects()
    kept.get(kept.sources())
    comparison, position = kept.archive.comparison(lambda _bytes: None), ""
    assert comparison.step(position).objects == before
    assert kept.archive.faults.count() == 0


def test_other_sources_are_another_rendition(kept: Kept, made: MakeFile) -> None:
    first = kept.sources()
    kept.get(first)
    kept.stocked.put(made(StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES, SOPInstanceUID="1.2"))
    late = kept.sources()
    assert [one.sop_instance_uid for one in late.instances] == ["1.1", "1.2"]
    kept.get(late)
    kept.stocked.put(made(StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES, SOPInstanceUID="1.1"), "north")
    kept.get(kept.sources(principal=NORTH))
    assert len(kept.made) == 3
    kept.get(first)
    kept.get(late.only(late.instances[0]))  # the very list that was there at first
    assert len(kept.made) == 3


def test_the_same_content_at_another_institution_is_made_for_it_alone(kept: Kept, made: MakeFile) -> None:
    content = made(StudyInstanceUID="1.2.9")
    for institution in ("default", "north"):
        kept.stocked.put(content, institution)
    for principal in (RADIOLOGIST, NORTH):
        kept.get(kept.sources("1.2.9", principal))
    assert len(kept.made) == 2


def test_an_erased_study_has_none(kept: Kept, made: MakeFile) -> None:
    kept.stocked.put(made(StudyInstanceUID="1.2.9"))
    sources, other = kept.sources(), kept.sources("1.2.9")
    kept.get(sources)
    kept.get(other, content=b"of another study")
    kept.archive.erasures.erase(STUDY, "ann", lambda _: None)
    assert [row["study_instance_uid"] for row in kept.rows()] == ["1.2.9"]
    assert kept.archive.removal.run() == 0
    assert len(kept.in_store()) == 1
    kept.get(other, content=b"of another study")
    assert len(kept.made) == 2
    # Whoever read the list before it was erased: what they make is not kept.
    assert kept.get(sources) == BYTES
    assert (len(kept.rows()), len(kept.in_store()), len(kept.made)) == (1, 1, 3)


def test_what_is_erased_while_it_is_made_is_not_kept(kept: Kept) -> None:
    def make() -> bytes:
        kept.archive.erasures.erase(STUDY, "ann", lambda _: None)
        return BYTES

    kept.archive.renditions.get(kept.sources(), "form", make)
    assert (kept.rows(), kept.in_store()) == ([], [])


def test_whatever_is_lost_or_damaged_is_made_anew(kept: Kept) -> None:
    store = open_renditions(kept.settings(), "changing")
    kept.get(kept.sources())
    (row,) = kept.rows()
    path = store.path_of(str(row["address"]))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert kept.get(kept.sources()) == BYTES
    (row,) = kept.rows()
    store.remove(str(row["address"]))
    assert kept.get(kept.sources()) == BYTES
    assert (len(kept.made), len(kept.rows()), len(kept.in_store())) == (3, 1, 1)
    Rendition.delete().execute(kept.db)
    assert kept.get(kept.sources()) == BYTES
    assert len(kept.made) == 4


def test_store_and_rows_are_compared(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("central.archive.renditions._AT_ONCE", 2)
    store = open_renditions(kept.settings(), "changing")
    for number in range(7):
        kept.get(kept.sources(), str(number), b"rendition %d" % number)
    rows = {str(row["key"]): str(row["address"]) for row in kept.rows()}
    orphan, lost, *_ = rows
    Rendition.delete().where(Rendition.key == orphan).execute(kept.db)
    store.remove(rows[lost])
    Rendition.update(used_at_s=1.0).execute(kept.db)
    kept.archive.renditions.compare()
    assert {row["key"] for row in kept.rows()} == set(rows) - {orphan, lost}
    assert len(kept.in_store()) == 5


def test_what_was_used_last_stays(kept: Kept) -> None:
    small = kept.again(renditions_bytes=200_000)
    sources = small.sources()
    small.get(sources, "first", b"first" * 2000)
    for number in range(40):
        small.get(sources, str(number), b"%d" % number * 5000)
        small.get(sources, "first")
    small.archive.removal.run()
    assert sum(map(len, kept.in_store())) + 4096 * len(kept.rows()) <= 200_000
    assert small.made == ["first", *map(str, range(40))], "the first was used all the time"
    small.get(sources, "39")
    small.get(sources, "0")
    assert small.made[41:] == ["0"]


def test_where_less_may_be_kept_the_rest_goes(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("central.archive.rendition_room._AT_ONCE", 2)
    for number in range(9):
        kept.get(kept.sources(), str(number), b"%d" % number * 5000)
    less = kept.again(renditions_bytes=40_000)
    less.archive.renditions.compare()
    less.archive.removal.run()
    assert len(less.in_store()) == len(less.rows()) == 3
    for number in (8, 7, 6):
        less.get(less.sources(), str(number))
    assert len(less.made) == 9, "the ones that were made last are left"
    kept.again(renditions_bytes=0).archive.renditions.compare()
    assert kept.rows() == []


def test_where_there_is_no_room_it_is_made_each_time(kept: Kept) -> None:
    full = kept.again(reserve_bytes=1 << 60)
    none = kept.again(renditions_bytes=0)
    for each in (full, full, none, none):
        assert each.get(each.sources()) == BYTES
    assert (len(kept.made), kept.in_store()) == (4, [])


def test_once_objects_are_encrypted_no_plain_one_stays(kept: Kept) -> None:
    kept.again(encrypt=False).get(kept.sources())
    later = kept.again(encrypt=True)
    later.archive.sweep()
    assert (kept.rows(), kept.in_store()) == ([], [])
    assert later.get(later.sources()) == BYTES
    (stored,) = kept.in_store()
    assert BYTES[:30] not in stored
    assert kept.again(encrypt=False).get(kept.sources()) == BYTES, "read either way"
    assert len(kept.made) == 2


def test_who_asks_while_it_is_made_waits_for_it(kept: Kept) -> None:
    asked, go_on = threading.Event(), threading.Event()
    calls: list[int] = []

    def make() -> bytes:
        calls.append(1)
        asked.set()
        assert go_on.wait(WAIT_S)
        return BYTES

    sources = kept.sources()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(kept.archive.renditions.get, sources, "form", make)
        assert asked.wait(WAIT_S)
        others = [pool.submit(kept.archive.renditions.get, sources, "form", make) for _ in range(7)]
        go_on.set()
        found = {one.result(WAIT_S) for one in (first, *others)}
    assert found == {ReadyBytes.of(BYTES)}
    assert calls == [1], "whether they came while it was made or after"


def test_a_store_that_is_away_keeps_nobody_from_looking(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.get(kept.sources())

    def away(*_args: object, **_said: object) -> None:
        raise StoreUnavailableError("reading failed at the object store")

    for name in ("path_of", "new_object"):
        monkeypatch.setattr(kept.archive.renditions._space.store, name, away)
    assert kept.get(kept.sources()) == BYTES
    assert (len(kept.made), len(kept.rows())) == (2, 1)
    monkeypatch.undo()


def series_metadata(kept: Kept, before: set[str]) -> None:
    """One look at the metadata while images arrive: of exactly what was there when the list was read."""
    sources = kept.sources()

    def make() -> bytes:
        return zlib.compress(b"[" + b",".join(kept.archive.reading.metadata_of(sources)) + b"]")

    found = kept.archive.renditions.get(sources, "metadata", make)
    shown = [one["00080018"]["Value"][0] for one in json.loads(zlib.decompress(found.data))]
    assert shown == [one.sop_instance_uid for one in sources.instances]
    assert before <= set(shown), "nobody gets an answer from before what had arrived when they asked"


def test_while_images_arrive_no_answer_is_stale(kept: Kept, made: MakeFile) -> None:
    contents = {
        uid: made(StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES, SOPInstanceUID=uid, InstanceNumber="1")
        for uid in (f"1.1.{number}" for number in range(12))
    }
    arrived, over = {"1.1"}, threading.Event()

    def look() -> int:
        looks = 0
        while not over.is_set() or not looks:
            series_metadata(kept, set(arrived))
            looks += 1
        return looks

    with ThreadPoolExecutor(3) as pool:
        looking = [pool.submit(look) for _ in range(3)]
        try:
            for uid, content in contents.items():
                kept.stocked.put(content)
                arrived.add(uid)
        finally:
            over.set()
        assert all(one.result(WAIT_S) for one in looking)
    series_metadata(kept, set(contents))
