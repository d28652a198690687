"""What every object store promises: the folder, and S3 on a real server."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from central.archive.errors import (
    NoSuchObjectError,
    ObjectDamagedError,
    StorageError,
    StoreUnavailableError,
)
from central.archive.object_files import ObjectFiles
from central.archive.objects import ObjectStore
from central.archive.s3 import S3Objects, S3Place
from central.archive.unsynced_files import UnsyncedFiles
from contract.identifiers import InvalidIdentifierError
from tests.seaweed import SECRET, S3Server, s3_server

SMALL, LARGE = b"part 10" * 100, os.urandom(12_000_000)
KINDS = ("files", "unsynced", "s3")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@dataclass(frozen=True)
class Place:
    """Opens the store in one place; `elsewhere`: by another process, with nothing at hand."""

    open: Callable[[], ObjectStore]
    elsewhere: Callable[[], ObjectStore]


def s3_place(server: S3Server, tmp_path: Path, cache_bytes: int = 1 << 30) -> S3Place:
    prefix = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12] + "/"
    return S3Place(server.endpoint, "objects", prefix, "us-east-1", server.credentials, cache_bytes)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "files":
        return Place(*[lambda: ObjectFiles.open(tmp_path / "objects", relies_on_sweep=True)] * 2)
    if request.param == "unsynced":
        return Place(*[lambda: UnsyncedFiles.open(tmp_path / "renditions")] * 2)
    at = s3_place(request.getfixturevalue("server"), tmp_path)
    return Place(
        lambda: S3Objects.open(at, tmp_path / "here"), lambda: S3Objects.open(at, tmp_path / "there")
    )


def put(store: ObjectStore, content: bytes) -> str:
    with store.new_object() as sink:
        for at in range(0, len(content), 1 << 20):
            sink.write(content[at : at + (1 << 20)])
        stored = sink.commit()
    assert stored.path.read_bytes() == content
    assert stored.size_bytes == len(content)
    return stored.sha256


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_what_was_committed_is_read_again_elsewhere(place: Place, content: bytes) -> None:
    sha256 = put(place.open(), content)
    assert sha256 == hashlib.sha256(content).hexdigest()
    assert place.elsewhere().path_of(sha256).read_bytes() == content


def test_the_same_content_twice_is_one_object(place: Place) -> None:
    first, second = place.open(), place.elsewhere()
    assert put(first, SMALL) == put(second, SMALL) == put(first, SMALL)
    first.remove(hashlib.sha256(SMALL).hexdigest())
    with pytest.raises(NoSuchObjectError):
        place.open().path_of(hashlib.sha256(SMALL).hexdigest())


def test_what_was_not_committed_leaves_nothing(place: Place, tmp_path: Path) -> None:
    store = place.open()
    with store.new_object() as sink:
        sink.write(SMALL)
    with pytest.raises(NoSuchObjectError):
        store.path_of(hashlib.sha256(SMALL).hexdigest())
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size] == []


def test_what_a_crash_left_is_swept(place: Place, tmp_path: Path) -> None:
    store = place.open()
    torn = store.new_object()
    torn.write(SMALL)
    torn.readable()
    assert any(path.is_file() for path in tmp_path.rglob("incoming/*"))
    again = place.open()
    assert any(path.is_file() for path in tmp_path.rglob("incoming/*")), "somebody may be writing it"
    again.sweep(lambda _: True)
    assert not any(path.is_file() for path in tmp_path.rglob("incoming/*"))


def test_a_rename_that_a_crash_took_back_is_made_again_where_the_index_names_the_content(
    tmp_path: Path,
) -> None:
    store = ObjectFiles.open(tmp_path / "objects", relies_on_sweep=True)
    names = [put(store, content) for content in (SMALL, LARGE)]
    for number, name in enumerate(names):
        store.path_of(name).rename(tmp_path / "objects" / "incoming" / f"{number}")
    again = ObjectFiles.open(tmp_path / "objects", relies_on_sweep=True)
    again.sweep(lambda sha256: sha256 == names[0])
    assert again.path_of(names[0]).read_bytes() == SMALL
    with pytest.raises(NoSuchObjectError):
        again.path_of(names[1])
    assert list((tmp_path / "objects" / "incoming").iterdir()) == []


def test_what_an_older_version_kept_stays_where_it_is(tmp_path: Path) -> None:
    store = ObjectFiles.open(tmp_path / "objects")
    name = put(store, SMALL)
    former = tmp_path / "objects" / name[:2] / name[2:4] / f"{name}.dcm"
    former.parent.mkdir()
    store.path_of(name).rename(former)
    assert store.path_of(name) == former
    assert put(store, SMALL) == name
    assert store.path_of(name) == former
    assert [one.sha256 for one in store.kept()] == [name]
    assert b"".join(store.read_through(name)) == SMALL
    store.remove(name)
    assert list(store.kept()) == []


def test_a_content_that_is_not_there_is_named(place: Place) -> None:
    with pytest.raises(NoSuchObjectError, match="a" * 64):
        place.open().path_of("a" * 64)
    place.open().remove("a" * 64)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "a" * 63])
def test_a_name_that_is_no_hash_reaches_no_path(place: Place, name: str) -> None:
    with pytest.raises(InvalidIdentifierError):
        place.open().path_of(name)


def test_everything_kept_is_listed_by_name_from_anywhere_on(place: Place) -> None:
    store, before = place.open(), time.time()
    put_names = sorted(put(store, f"content {number}".encode()) for number in range(70))
    listed = list(place.elsewhere().kept())
    assert [one.sha256 for one in listed] == put_names
    assert all(before - 5 <= one.kept_at_s <= time.time() + 5 for one in listed)
    for after in (put_names[20], put_names[20][:30], "ff" * 32):
        assert [one.sha256 for one in store.kept(after)] == [name for name in put_names if name > after]


def test_what_is_read_through_is_what_the_store_has(place: Place) -> None:
    name = put(place.open(), LARGE)
    assert b"".join(place.elsewhere().read_through(name)) == LARGE
    with pytest.raises(NoSuchObjectError):
        list(place.open().read_through("a" * 64))


def test_a_local_copy_that_is_compared_is_not_given_out_damaged(place: Place) -> None:
    store = place.open()
    name = put(store, SMALL)
    local = store.path_of(name)
    assert store.path_of(name, compare=True) == local
    local.write_bytes(SMALL[:-1])
    if isinstance(store, ObjectFiles):
        with pytest.raises(ObjectDamagedError, match=name):
            store.path_of(name, compare=True)
    else:
        assert store.path_of(name, compare=True).read_bytes() == SMALL  # fetched anew


def test_many_write_and_read_at_once(place: Place) -> None:
    store, other = place.open(), place.elsewhere()
    contents = [os.urandom(50_000) for _ in range(16)]
    failed: list[BaseException] = []

    def work(content: bytes) -> None:
        try:
            sha256 = put(store, content)
            assert other.path_of(sha256).read_bytes() == content
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(content,)) for content in contents * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []


# What only S3 can do wrong.


@pytest.fixture
def bucket(server: S3Server) -> S3Store:
    return server.bucket("objects")


@pytest.mark.parametrize("wrong", [b"something else", SMALL[:-1], b""], ids=["other", "short", "empty"])
def test_wrong_bytes_are_named_and_never_shown(
    server: S3Server, bucket: S3Store, tmp_path: Path, wrong: bytes
) -> None:
    at = s3_place(server, tmp_path)
    sha256 = put(S3Objects.open(at, tmp_path / "here"), SMALL)
    obstore.put(bucket, f"{at.prefix}{sha256[:2]}/{sha256[2:4]}/{sha256}.dcm", wrong)
    there = S3Objects.open(at, tmp_path / "there")
    with pytest.raises(ObjectDamagedError, match=sha256):
        there.path_of(sha256)
    assert [path for path in (tmp_path / "there").rglob("*") if path.is_file()] == []


def test_while_the_server_is_away_nothing_is_acknowledged_and_what_is_at_hand_is_read(
    server: S3Server, tmp_path: Path
) -> None:
    at = s3_place(server, tmp_path)
    store = S3Objects.open(at, tmp_path / "here")
    sha256 = put(store, SMALL)
    server.stop()
    try:
        assert store.path_of(sha256).read_bytes() == SMALL
        with store.new_object() as sink:
            sink.write(LARGE[:1000])
            with pytest.raises(StoreUnavailableError) as refused:
                sink.commit()
        assert "\n" not in str(refused.value)
        assert SECRET not in str(refused.value)
        with pytest.raises(StoreUnavailableError):
            store.path_of("b" * 64)
    finally:
        server.start()
    assert put(store, LARGE[:1000]) == hashlib.sha256(LARGE[:1000]).hexdigest()


def test_the_copies_at_hand_keep_to_their_room(server: S3Server, tmp_path: Path) -> None:
    here = tmp_path / "here"
    store = S3Objects.open(s3_place(server, tmp_path, cache_bytes=250_000), here)
    names = [put(store, os.urandom(100_000)) for _ in range(2)]
    long_ago = time.time() - 3600
    for path in here.glob("??/*.dcm"):
        os.utime(path, (long_ago, long_ago))
    store.path_of(names[0])  # used last, so it stays
    names.append(put(store, os.urandom(100_000)))
    assert {path.stem for path in here.glob("??/*.dcm")} == {names[0], names[2]}
    assert len(store.path_of(names[1]).read_bytes()) == 100_000  # it comes again


def test_a_wrong_secret_is_said_at_the_start(server: S3Server, tmp_path: Path) -> None:
    wrong = tmp_path / "credentials"
    wrong.write_text("[default]\naws_access_key_id = tests\naws_secret_access_key = hunter2\n")
    at = S3Place(server.endpoint, "objects", "x/", "us-east-1", wrong, 0)
    with pytest.raises(StorageError, match="asking for an object failed") as refused:
        S3Objects.open(at, tmp_path / "here")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "[default]\n", "aws_secret_access_key = hunter2\n", "[default\n"])
def test_a_credentials_file_that_is_none_is_said_without_quoting_it(
    server: S3Server, tmp_path: Path, content: str
) -> None:
    wrong = tmp_path / "credentials"
    wrong.write_text(content)
    at = S3Place(server.endpoint, "objects", "x/", "us-east-1", wrong, 0)
    with pytest.raises(StorageError, match="aws_access_key_id") as refused:
        S3Objects.open(at, tmp_path / "here")
    assert "hunter2" not in str(refused.value)
