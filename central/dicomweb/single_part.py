"""Answers of one part: whole, a range of it, or the word that it has not changed (RFC 9110 sections 8.8, 13 and 14).

What is always true: an entity tag is strong where it comes from the hash of the very bytes, be they archived or a
rendition that is kept; what is made anew each time has a weak one, from the hash of what it is made from, and no
ranges, since a later version of this program may make it otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from central.access.problems import problem
from central.dicomweb.conversion import WrittenFile
from central.dicomweb.multipart import answered, open_chunks

_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@dataclass(frozen=True)
class Content:
    """`size_bytes` that `chunks` gives out from one offset to before another.

    `etag` is quoted as in RFC 9110 section 8.8.3. `close` is called once nothing more is read.
    """

    media_type: str
    size_bytes: int
    etag: str
    chunks: Callable[[int, int], Generator[bytes, None, None]]
    close: Callable[[], None] = lambda: None


def written_content(media_type: str, written: WrittenFile, etag: str) -> Content:
    """All that a worker wrote; its file goes when the answer is over."""

    def chunks(begin: int, end: int) -> Generator[bytes, None, None]:
        return open_chunks(written.opened, begin, end)

    return Content(media_type, written.size_bytes, etag, chunks, written.close)


def strong_etag(sha256: str, *what: object) -> str:
    """For bytes with this hash: all of them, or the part or form that `what` names."""
    return '"' + "-".join([sha256, *map(str, what)]) + '"'


def weak_etag(sha256: str, *what: object) -> str:
    """For what is made from the archived content."""
    return "W/" + strong_etag(sha256, *what)


def not_modified(request: Request, etag: str, vary: str = "") -> Response | None:
    """304 if the client says that it has `etag`; None otherwise. `vary`: what the answer would say of itself, too."""
    said = request.headers.get("if-none-match")
    if said is None:
        return None
    tags = [tag.strip().removeprefix("W/") for tag in said.split(",")]
    if said.strip() == "*" or etag.removeprefix("W/") in tags:
        return Response(status_code=304, headers={"ETag": etag} | ({"Vary": vary} if vary else {}))
    return None


def single_part(request: Request, content: Content) -> Response:
    """What the request wants of `content`."""
    answer = not_modified(request, content.etag)
    if answer is not None:
        content.close()
        return answer
    return _whole_or_range(request, content)


def _whole_or_range(request: Request, content: Content) -> Response:
    headers = {"ETag": content.etag, "Content-Type": content.media_type}
    begin, end, status = 0, content.size_bytes, 200
    if not content.etag.startswith("W/"):
        headers["Accept-Ranges"] = "bytes"
        wanted = _range(request, content)
        if wanted is not None:
            begin, end, status = *wanted, 206
            if begin >= end:
                content.close()
                refusal = {"Content-Range": f"bytes */{content.size_bytes}"}
                return problem(416, f"this has {content.size_bytes} bytes", refusal)
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{content.size_bytes}"
    headers["Content-Length"] = str(end - begin)
    if request.method == "HEAD":
        content.close()
        return Response(status_code=status, headers=headers)
    return answered(content.chunks(begin, end), status, headers, content.close)


def _range(request: Request, content: Content) -> tuple[int, int] | None:
    """From where to before where; an empty one cannot be satisfied. None: the whole, as for several ranges at once."""
    match = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if match is None or match[0] == "bytes=-":
        return None
    if request.headers.get("if-range", content.etag) != content.etag:
        return None
    size = content.size_bytes
    if not match[1]:
        return max(0, size - int(match[2])), size
    if not match[2]:
        return int(match[1]), size
    if int(match[2]) < int(match[1]):
        return None  # not a range at all (section 14.1.1)
    return int(match[1]), min(size, int(match[2]) + 1)
