"""``multipart/related`` answers (RFC 2387, PS3.18 section 8.6.1.2), streamed part by part.

What is always true: no file is held whole in memory, and when the sizes are known beforehand the answer says
its length, so that a cut line is noticed. What is read from a file is copied once before it is sent: into the piece
that leaves, beside the heads of its parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Final, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from central.archive.sealed_file import ObjectFile
from contract.identifiers import InvalidIdentifierError, check_uid

CHUNK_BYTES: Final = 1 << 20
Piece = bytes | memoryview


class Part(Protocol):
    """One part of an answer."""

    @property
    def content_type(self) -> str: ...

    @property
    def content_location(self) -> str:
        """The URI of what the part holds; "" to say none."""

    @property
    def size_bytes(self) -> int: ...

    def opened(self) -> AbstractContextManager[BinaryIO]:
        """Where its bytes are read, from the first one on."""


@dataclass(frozen=True)
class FilePart:
    """A whole file as one part."""

    content_type: str
    locate: Callable[[], ObjectFile]  # asked when its turn has come: from a remote store it comes only then
    size_bytes: int
    content_location: str = ""

    def opened(self) -> AbstractContextManager[BinaryIO]:
        return self.locate().open("rb")


@dataclass(frozen=True)
class OpenPart:
    """`size_bytes` of an open file, from `offset` on."""

    content_type: str
    file: BinaryIO
    offset: int
    size_bytes: int
    content_location: str = ""

    def opened(self) -> AbstractContextManager[BinaryIO]:
        self.file.seek(self.offset)
        return contextlib.nullcontext(self.file)


@dataclass(frozen=True)
class BytesPart:
    """A part that is in memory already, such as a frame."""

    content_type: str
    content: bytes
    content_location: str = ""

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def opened(self) -> AbstractContextManager[BinaryIO]:
        return BytesIO(self.content)


def answered(
    body: Generator[Piece, None, None],
    status: int = 200,
    headers: dict[str, str] | None = None,
    close: Callable[[], None] = lambda: None,
) -> Response:
    """`body` as an answer; `close` is called when it is over. Reads its beginning: to be called on a thread.

    A short one leaves at once: to stream it would cost several changes of threads more than it takes to read. Whatever
    keeps the beginning from being read is raised here, before the answer begins, and `close` is called.
    """
    try:
        first = next(body, b"")
        while len(first) < CHUNK_BYTES:
            piece = next(body, None)
            if piece is None:
                close()
                return Response(first, status, headers)
            first = b"".join((first, piece))
    except BaseException:
        body.close()
        close()
        raise
    return ClosingResponse(first, body, status, headers, close)


class ClosingResponse(Response):
    """Reads each piece of its body while the one before leaves, and closes it when it is over, also when the client
    went away in the middle."""

    def __init__(
        self,
        first: Piece,
        following: Generator[Piece, None, None],
        status: int,
        headers: dict[str, str] | None,
        close: Callable[[], None],
    ) -> None:
        self.status_code = status
        self.background = None
        self.init_headers(headers)
        self._first = first
        self._following = following
        self._close = close
        self._reading = threading.Lock()

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await self._stream(send, gone)
        finally:
            gone.cancel()
            await run_in_threadpool(self.end)

    async def _stream(self, send: Send, gone: asyncio.Future[None]) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        piece = self._first
        while piece and not gone.done():
            following = asyncio.ensure_future(run_in_threadpool(self._next))
            try:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await following
            finally:
                following.cancel()  # the thread reads to its end all the same, and `end` waits for it
        if not gone.done():
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _next(self) -> Piece:
        with self._reading:
            return next(self._following, b"")

    def end(self) -> None:
        """Close the body; nothing more is read of it."""
        with self._reading:
            self._following.close()
        self._close()


async def _gone(receive: Receive) -> None:
    """Return when the client has gone away, or has all of its answer."""
    while (await receive())["type"] != "http.disconnect":
        pass


def typed(media_type: str, transfer_syntax_uid: str) -> str:
    """`media_type` with its transfer syntax, unless that is no UID: it comes from a file and goes into a header."""
    try:
        return f"{media_type}; transfer-syntax={check_uid(transfer_syntax_uid)}"
    except InvalidIdentifierError:
        return media_type


def file_chunks(path: ObjectFile, begin: int, end: int) -> Generator[bytes, None, None]:
    """The bytes of `path` from `begin` to before `end`, a mebibyte at a time."""
    with path.open("rb") as file:
        yield from open_chunks(file, begin, end)


def open_chunks(file: BinaryIO, begin: int, end: int) -> Generator[bytes, None, None]:
    """The bytes of an open file from `begin` to before `end`. OSError if it is shorter."""
    file.seek(begin)
    left = end - begin
    while left:
        chunk = file.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise OSError("a file is shorter than was said of it")
        left -= len(chunk)
        yield chunk


def multipart_of_files(media_type: str, parts: Sequence[FilePart]) -> Response:
    """An answer whose length is known from the sizes of the files."""
    boundary = _new_boundary()
    length = sum(len(_head(boundary, part)) + part.size_bytes + 2 for part in parts) + len(_end(boundary))
    return _response(media_type, boundary, iter(parts), {"Content-Length": str(length)}, lambda: None)


def multipart_of_parts(
    media_type: str, parts: Iterator[Part], close: Callable[[], None] = lambda: None
) -> Response:
    """An answer whose parts are made while it is sent. `close` is called when it is over."""
    return _response(media_type, _new_boundary(), parts, {}, close)


def _response(
    media_type: str,
    boundary: str,
    parts: Iterator[Part],
    headers: dict[str, str],
    close: Callable[[], None],
) -> Response:
    headers["Content-Type"] = f'multipart/related; type="{media_type}"; boundary={boundary}'
    return answered(_filled(_contents(boundary, parts)), headers=headers, close=close)


def _contents(boundary: str, parts: Iterator[Part]) -> Generator[tuple[BinaryIO, int], None, None]:
    """What the answer is made of, one after the other, and how many bytes of each; to be read before the next."""
    before = b""
    for part in parts:
        head = before + _head(boundary, part)
        yield BytesIO(head), len(head)
        with part.opened() as file:
            yield file, part.size_bytes
        before = b"\r\n"
    end = before + _end(boundary)
    yield BytesIO(end), len(end)


def _filled(contents: Generator[tuple[BinaryIO, int], None, None]) -> Generator[Piece, None, None]:
    """All of it in pieces of `CHUNK_BYTES`, the last one shorter: each one costs a change of threads and a write.

    OSError if a file is shorter than was said of it.
    """
    with contextlib.closing(contents):
        piece, filled = memoryview(bytearray(CHUNK_BYTES)), 0
        for file, left in contents:
            while left:
                if filled == len(piece):
                    yield piece
                    # A new one, for the server may keep what it could not send yet.
                    piece, filled = memoryview(bytearray(CHUNK_BYTES)), 0
                read = _read_into(file, piece[filled : filled + left])
                filled, left = filled + read, left - read
        yield piece[:filled]


def _read_into(file: BinaryIO, room: memoryview) -> int:
    read: int = file.readinto(room)  # type: ignore[attr-defined]  # every binary file has it; the stubs leave it out
    if not read:
        raise OSError("a file is shorter than was said of it")
    return read


def _new_boundary() -> str:
    return secrets.token_hex(16)


def _head(boundary: str, part: Part) -> bytes:
    location = f"Content-Location: {part.content_location}\r\n" if part.content_location else ""
    return (
        f"--{boundary}\r\nContent-Type: {part.content_type}\r\nContent-Length: {part.size_bytes}\r\n{location}\r\n"
    ).encode()


def _end(boundary: str) -> bytes:
    return f"--{boundary}--\r\n".encode()
