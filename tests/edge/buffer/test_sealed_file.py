"""Bytes reach the disk whole, in blocks, past the page cache or through it; a disk that refuses is told of at once."""

from __future__ import annotations

import contextlib
import errno
import io
import mmap
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from contract.identifiers import new_object_id
from edge.buffer.label import BLOCK_BYTES, Label, is_sound, read_label
from edge.buffer.sealed_file import BUFFER_BYTES, AlignedBuffers, SealedBytes, SealedFile, takes_direct_writes
from tests.edge.buffer.instances import ORIGIN, identity

pytestmark = pytest.mark.disk

BUFFER = BUFFER_BYTES
SIZES = [0, 1, BLOCK_BYTES, BUFFER - 700, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER + 12_345]


@pytest.fixture(params=[True, False], ids=["direct", "ordinary"])
def direct(request: pytest.FixtureRequest, tmp_path: Path) -> bool:
    if request.param and not takes_direct_writes(tmp_path):
        pytest.skip("this file system takes no direct writes")
    return bool(request.param)


def label_of(size: int) -> Label:
    return Label(new_object_id(), ORIGIN, identity(1), "00" * 32, size, size, datetime.now(UTC))


def new_file(
    folder: Path, direct: bool, buffers: AlignedBuffers | None = None, name: str = "one"
) -> SealedFile:
    path = folder / f"{name}.sealed"
    path.touch()
    return SealedFile(path, buffers or AlignedBuffers(), direct=direct)


def open_below(folder: Path) -> list[str]:
    """Files there that this process holds open. Others of its descriptors come and go with earlier tests' threads."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(str(link.readlink()))
    return [name for name in found if name.startswith(f"{folder}/")]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [BUFFER + 16, 100_003])
def test_what_was_written_is_there_with_its_label(
    size: int, piece: int, direct: bool, tmp_path: Path
) -> None:
    data = os.urandom(size)
    file = new_file(tmp_path, direct)
    for at in range(0, size, piece):
        file.write(data[at : at + piece])
    label = label_of(size)
    file.finish(label)

    assert file.path.stat().st_size % BLOCK_BYTES == 0
    with file.path.open("rb") as written:
        found = read_label(written)
        assert found.label == label
        assert is_sound(written, found)
        with SealedBytes(written, size) as sealed:
            assert sealed.readall() == data


def test_a_buffer_that_was_used_before_shows_through_nowhere(direct: bool, tmp_path: Path) -> None:
    buffers = AlignedBuffers()
    first = new_file(tmp_path, direct, buffers)
    first.write(b"secret" * 400_000)
    first.finish(label_of(2_400_000))
    second = new_file(tmp_path, direct, buffers, "two")
    second.write(b"x")
    second.finish(label_of(1))
    assert b"secret" not in second.path.read_bytes()
    assert len(buffers._idle) == 2


def test_short_writes_are_gone_on_with(direct: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.write
    calls = []

    def short(descriptor: int, data: Any) -> int:
        calls.append(len(data))
        with memoryview(data)[: max(BLOCK_BYTES, len(data) // 3 // BLOCK_BYTES * BLOCK_BYTES)] as part:
            return original(descriptor, part)

    monkeypatch.setattr(os, "write", short)
    data = os.urandom(2 * BUFFER + 5)
    file = new_file(tmp_path, direct)
    file.write(data)
    file.finish(label_of(len(data)))
    assert len(calls) > 6
    with file.path.open("rb") as written:
        assert is_sound(written, read_label(written))


def fails_at(number: int, error: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def failing(original: Callable[..., Any]) -> Callable[..., Any]:
        calls = 0

        def run(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                raise OSError(error, os.strerror(error))
            return original(*arguments)

        return run

    return failing


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(("call", "number"), [("write", 1), ("write", 2), ("write", 3), ("fdatasync", 1)])
def test_a_disk_that_refuses_is_told_of_and_nothing_is_left(
    call: str, number: int, error: int, direct: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two full buffers and the rest with the label: three writes, one sync."""
    buffers = AlignedBuffers()
    file = new_file(tmp_path, direct, buffers)
    monkeypatch.setattr(os, call, fails_at(number, error)(getattr(os, call)))
    data = os.urandom(2 * BUFFER + 9)
    with pytest.raises(OSError, match=os.strerror(error)):  # noqa: PT012 (which of the two it is depends on the case)
        file.write(data)
        file.finish(label_of(len(data)))
    file.discard()
    file.discard()

    assert list(tmp_path.iterdir()) == []
    assert len(buffers._idle) == 2
    assert open_below(tmp_path) == []


def test_a_write_of_nothing_is_an_error_and_no_endless_loop(
    direct: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = new_file(tmp_path, direct)
    monkeypatch.setattr(os, "write", lambda *_: 0)
    file.write(bytes(BUFFER))
    with pytest.raises(OSError, match="took nothing"):
        file.finish(label_of(BUFFER))


def test_there_is_one_sync_and_it_comes_last(
    direct: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = new_file(tmp_path, direct)
    seen: list[str] = []
    for name in ("write", "fsync", "fdatasync", "close"):
        original = getattr(os, name)

        def run(*arguments: Any, name: str = name, original: Callable[..., Any] = original) -> Any:
            seen.append(name)
            return original(*arguments)

        monkeypatch.setattr(os, name, run)
    file.write(os.urandom(BUFFER + 1))
    file.finish(label_of(BUFFER + 1))
    assert seen == ["write", "write", "fdatasync", "close"]


def test_a_file_that_cannot_be_opened_costs_no_buffer_and_no_descriptor(tmp_path: Path) -> None:
    buffers = AlignedBuffers()
    with pytest.raises(FileNotFoundError):
        SealedFile(tmp_path / "never named", buffers, direct=False)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").touch()
    with pytest.raises(OSError, match="symbolic links"):
        SealedFile(tmp_path / "link", buffers, direct=False)
    assert open_below(tmp_path) == []


def test_without_memory_for_a_buffer_no_descriptor_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> mmap.mmap:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    buffers = AlignedBuffers()
    monkeypatch.setattr(buffers, "take", refuse)
    with pytest.raises(OSError, match="allocate"):
        new_file(tmp_path, direct=False, buffers=buffers)
    assert open_below(tmp_path) == []


def test_whether_direct_writes_are_taken_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes_direct_writes(tmp_path)
    assert list(tmp_path.iterdir()) == []
    original = os.open

    def refuse_direct(path: Any, flags: int, *mode: int) -> int:
        descriptor = original(path, flags & ~os.O_DIRECT, *mode)
        if flags & os.O_DIRECT:
            os.close(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")  # as Linux does: after the file was made
        return descriptor

    monkeypatch.setattr(os, "open", refuse_direct)
    assert takes_direct_writes(tmp_path) is False
    assert list(tmp_path.iterdir()) == []


# What travels ------------------------------------------------------------------------------------------------


def sealed_bytes(content: bytes, stored_bytes: int) -> io.BufferedReader:
    return io.BufferedReader(SealedBytes(io.BytesIO(content), stored_bytes), 64)


def test_reading_ends_before_the_label() -> None:
    content = bytes(range(200)) + b"label"
    with sealed_bytes(content, 200) as file:
        assert file.read() == content[:200]
        assert file.read() == b""
        assert file.seek(190) == 190
        assert file.read(50) == content[190:200]
        assert file.seek(-5, os.SEEK_END) == 195
        assert file.read() == content[195:200]
        assert file.seek(0, os.SEEK_END) == file.tell() == 200
        assert file.seek(10_000) == 10_000
        assert file.read() == b""
        file.seek(3)
        assert file.seek(4, os.SEEK_CUR) == 7
        assert file.read(3) == content[7:10]


def test_closing_closes_the_file_beneath() -> None:
    beneath = io.BytesIO(b"x")
    with io.BufferedReader(SealedBytes(beneath, 1)):
        pass
    assert beneath.closed


def test_a_file_that_was_cut_gives_what_is_there() -> None:
    with sealed_bytes(b"abc", 200) as file:
        assert file.read() == b"abc"
