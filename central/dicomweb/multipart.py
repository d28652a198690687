"""``multipart/related`` answers (RFC 2387, PS3.18 section 8.6.1.2), streamed part by part.

What is always true: no part is held whole in memory, and when the sizes are known beforehand the answer says
its length, so that a cut line is noticed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.responses import StreamingResponse

from contract.identifiers import InvalidIdentifierError, check_uid

CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class FilePart:
    """A whole file as one part."""

    content_type: str
    path: Path
    size_bytes: int

    def chunks(self) -> Iterator[bytes]:
        yield from file_chunks(self.path)


@dataclass(frozen=True)
class BytesPart:
    """A part that is in memory already, such as a frame."""

    content_type: str
    content: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def chunks(self) -> Iterator[bytes]:
        yield self.content


def typed(media_type: str, transfer_syntax_uid: str) -> str:
    """`media_type` with its transfer syntax, unless that is no UID: it comes from a file and goes into a header."""
    try:
        return f"{media_type}; transfer-syntax={check_uid(transfer_syntax_uid)}"
    except InvalidIdentifierError:
        return media_type


def file_chunks(path: Path) -> Iterator[bytes]:
    """The bytes of `path`, a mebibyte at a time."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def multipart_of_files(media_type: str, parts: Sequence[FilePart]) -> StreamingResponse:
    """An answer whose length is known from the sizes of the files."""
    boundary = _new_boundary()
    length = sum(len(_head(boundary, part)) + part.size_bytes + 2 for part in parts) + len(_end(boundary))
    return _response(media_type, boundary, iter(parts), {"Content-Length": str(length)})


def multipart_of_bytes(media_type: str, parts: Iterator[BytesPart]) -> StreamingResponse:
    """An answer whose parts are made while it is sent."""
    return _response(media_type, _new_boundary(), parts, {})


def _response(
    media_type: str, boundary: str, parts: Iterator[FilePart] | Iterator[BytesPart], headers: dict[str, str]
) -> StreamingResponse:
    def body() -> Iterator[bytes]:
        for part in parts:
            yield _head(boundary, part)
            yield from part.chunks()
            yield b"\r\n"
        yield _end(boundary)

    headers["Content-Type"] = f'multipart/related; type="{media_type}"; boundary={boundary}'
    return StreamingResponse(body(), headers=headers)


def _new_boundary() -> str:
    return secrets.token_hex(16)


def _head(boundary: str, part: FilePart | BytesPart) -> bytes:
    return (
        f"--{boundary}\r\nContent-Type: {part.content_type}\r\nContent-Length: {part.size_bytes}\r\n\r\n"
    ).encode()


def _end(boundary: str) -> bytes:
    return f"--{boundary}--\r\n".encode()
