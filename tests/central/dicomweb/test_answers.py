"""How bodies leave: short ones whole, long ones read ahead; closed once, whatever ends them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from central.dicomweb.multipart import CHUNK_BYTES, ClosingResponse, FilePart, answered, multipart_of_files

BOUND_S = 60


class Body:
    """Pieces, and what became of them."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.closed: list[str] = []
        self.body = self._body(pieces)

    def _body(self, pieces: Iterator[bytes]) -> Generator[bytes, None, None]:
        try:
            yield from pieces
        finally:
            self.closed.append("body")

    def close(self) -> None:
        self.closed.append("file")


async def sent(response: Response, gone: asyncio.Event | None = None) -> list[dict[str, Any]]:
    """What the server is given to send; the client hangs up when `gone` is set."""
    messages: list[dict[str, Any]] = []
    leaving = gone or asyncio.Event()

    async def receive() -> dict[str, Any]:
        await leaving.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        messages.append(message)

    await response({"type": "http", "method": "GET", "headers": []}, receive, send)
    return messages


@pytest.mark.parametrize("pieces", [[], [b""], [b"short"], [b"a" * 10, b"b" * 10]])
def test_a_short_body_leaves_whole(pieces: list[bytes]) -> None:
    given = Body(iter(pieces))
    response = answered(given.body, 206, {"ETag": '"x"'}, given.close)
    assert given.closed == ["body", "file"]
    assert (response.body, response.status_code, response.headers["etag"]) == (b"".join(pieces), 206, '"x"')
    assert response.headers["content-length"] == str(len(b"".join(pieces)))


@pytest.mark.parametrize("more", [[], [b"end"], [b"b" * CHUNK_BYTES, b"c" * CHUNK_BYTES, b"end"]])
def test_a_long_one_leaves_piece_by_piece(more: list[bytes]) -> None:
    pieces = [b"a" * CHUNK_BYTES, *more]
    given = Body(iter(pieces))
    response = answered(given.body, close=given.close)
    assert isinstance(response, ClosingResponse)
    messages = asyncio.run(sent(response))
    assert [one["body"] for one in messages[1:]] == [*pieces, b""]
    assert [one["more_body"] for one in messages[1:]] == [True] * len(pieces) + [False]
    assert given.closed == ["body", "file"]


def test_what_cannot_be_read_shows_before_the_answer_begins() -> None:
    def broken() -> Iterator[bytes]:
        yield b"a"
        raise OSError("the file is cut short")

    given = Body(broken())
    with pytest.raises(OSError, match="cut short"):
        answered(given.body, close=given.close)
    assert given.closed == ["body", "file"]


def test_who_goes_away_while_a_piece_is_read_ends_it_after_that_piece() -> None:
    reading, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[bytes]:
        yield b"a" * CHUNK_BYTES
        reading.set()
        assert go_on.wait(BOUND_S)
        yield b"b"

    given = Body(slow())

    async def leave() -> None:
        gone = asyncio.Event()
        answer = asyncio.ensure_future(sent(answered(given.body, close=given.close), gone))
        assert await asyncio.to_thread(reading.wait, BOUND_S)
        gone.set()
        await asyncio.sleep(0)
        assert given.closed == [], "it is being read"
        go_on.set()
        await asyncio.wait_for(answer, BOUND_S)

    asyncio.run(leave())
    assert given.closed == ["body", "file"]


@pytest.mark.parametrize("size_bytes", [0, CHUNK_BYTES // 3, CHUNK_BYTES - 1, CHUNK_BYTES, 3 * CHUNK_BYTES])
def test_files_go_into_pieces_that_are_full(size_bytes: int, tmp_path: Path) -> None:
    contents = [os.urandom(size_bytes) for _ in range(3)]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    files = [FilePart("a/b", partial(Path, tmp_path / str(number)), size_bytes) for number in range(3)]
    response = multipart_of_files("a/b", files)
    pieces = [one["body"] for one in asyncio.run(sent(response))[1:]]
    body = b"".join(pieces)
    boundary = response.headers["content-type"].partition("boundary=")[2]
    head = f"--{boundary}\r\nContent-Type: a/b\r\nContent-Length: {size_bytes}\r\n\r\n".encode()
    expected = [head + content + b"\r\n" for content in contents]
    assert body == b"".join(expected) + f"--{boundary}--\r\n".encode()
    assert response.headers["content-length"] == str(len(body))
    full, last = divmod(len(body), CHUNK_BYTES)
    assert list(filter(None, map(len, pieces))) == [CHUNK_BYTES] * full + [last] * bool(last)


def test_a_file_shorter_than_its_row_says_ends_no_answer(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(10))
    with pytest.raises(OSError, match="shorter"):
        multipart_of_files("a/b", [FilePart("a/b", partial(Path, tmp_path / "x"), 11)])
