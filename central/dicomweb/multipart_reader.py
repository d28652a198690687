"""``multipart/related`` requests (RFC 2387, RFC 2046 section 5.1), taken apart while they come in.

What is always true: bytes go in as they arrive and come out as the parts they belong to; nothing is kept but what may
still be the beginning of a boundary, and the head of one part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from enum import Enum, auto
from typing import Final

from central.dicomweb.errors import BadRequestError, UnsupportedMediaTypeError

MAX_HEAD_BYTES: Final = 8 << 10
MAX_PREAMBLE_BYTES: Final = 64 << 10
# RFC 2046 section 5.1.1: up to 70 characters of bchars, the last one no space.
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")


@dataclass(frozen=True)
class PartBegin:
    """The head of a part; header names are in lower case."""

    headers: Mapping[str, str]


@dataclass(frozen=True)
class PartEnd:
    """A part is whole: a boundary came behind it."""


class _State(Enum):
    PREAMBLE = auto()
    HEAD = auto()
    BODY = auto()
    EPILOGUE = auto()


def boundary_of(content_type: str, part_type: str) -> bytes:
    """The boundary that a request's Content-Type names, when its parts are of `part_type`.

    Raises
    ------
    UnsupportedMediaTypeError : it is another media type.
    BadRequestError : it names no boundary, or one that is none.
    """
    message = Message()
    message["Content-Type"] = content_type
    said_type = str(message.get_param("type", "")).lower()
    if message.get_content_type() != "multipart/related" or said_type not in ("", part_type):
        raise UnsupportedMediaTypeError(f'send multipart/related; type="{part_type}"')
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not _BOUNDARY.fullmatch(boundary):
        raise BadRequestError(
            "the Content-Type names no boundary, or one that is none (RFC 2046 section 5.1.1)"
        )
    return boundary.encode("ascii")


class MultipartReader:
    """Takes one request body apart."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._held = b"\r\n"  # so that a boundary at the very beginning is found like the others
        self._state = _State.PREAMBLE
        self._passed_over = 0

    @property
    def is_finished(self) -> bool:
        """Whether the closing boundary came."""
        return self._state is _State.EPILOGUE

    def feed(self, data: bytes) -> Iterator[PartBegin | bytes | PartEnd]:
        """What `data` adds: heads of parts, bytes of parts, ends of parts, in their order.

        Raises
        ------
        BadRequestError : this is no multipart body, or one whose heads are too large.
        """
        self._held += data
        while True:
            match self._state:
                case _State.PREAMBLE:
                    before, found = self._up_to_delimiter()
                    self._passed_over += len(before)
                    if self._passed_over > MAX_PREAMBLE_BYTES:
                        raise BadRequestError(
                            "the body does not begin with the boundary that the Content-Type names"
                        )
                    if not found:
                        return
                    self._state = _State.HEAD
                case _State.HEAD if self._held.startswith(b"--"):
                    self._state = _State.EPILOGUE
                case _State.HEAD:
                    head = self._head()
                    if head is None:
                        return
                    self._state = _State.BODY
                    yield head
                case _State.BODY:
                    content, found = self._up_to_delimiter()
                    if content:
                        yield content
                    if not found:
                        return
                    yield PartEnd()
                    self._state = _State.HEAD
                case _State.EPILOGUE:
                    self._held = b""
                    return

    def _up_to_delimiter(self) -> tuple[bytes, bool]:
        """What stands before the next delimiter, which is taken away; what cannot be part of one, if none came yet."""
        at = self._held.find(self._delimiter)
        if at >= 0:
            before, self._held = self._held[:at], self._held[at + len(self._delimiter) :]
            return before, True
        keep = len(self._delimiter) - 1
        before, self._held = self._held[:-keep], self._held[-keep:]
        return before, False

    def _head(self) -> PartBegin | None:
        """The head behind a delimiter; None: it is not whole yet."""
        end = self._held.find(b"\r\n\r\n")
        if end > MAX_HEAD_BYTES or (end < 0 and len(self._held) > MAX_HEAD_BYTES):
            raise BadRequestError(f"a part's headers are longer than {MAX_HEAD_BYTES} bytes")
        if end < 0:
            return None
        padding, *lines = self._held[:end].split(b"\r\n")
        if padding.strip(b" \t"):
            raise BadRequestError("the boundary also stands inside a part: choose another")
        self._held = self._held[end + 4 :]
        return PartBegin(_headers(lines))


def _headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise BadRequestError("a part's header has no colon")
        headers[name.strip().lower()] = value.strip()
    return headers
