"""How bodies leave: short ones whole, long ones read ahead; closed once, whatever ends them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from starlette.responses import Response

from central.dicomweb.multipart import CHUNK_BYTES, ClosingResponse, answered

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
