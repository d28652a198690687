"""What a page asks for: a small JSON body, and how times are said in it and in the answer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from central.access.problems import problem
from central.bodies import body_within

NO_STORE: Final = {"Cache-Control": "no-store"}
_MAX_BODY_BYTES: Final = 4096


class WrongWishError(Exception):
    """A wish that cannot be; the sentence says why."""


def with_wish(
    answer: Callable[[Request, Mapping[str, Any]], Response],
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a route: what `answer`, on a thread, says to the request and its JSON object."""

    async def endpoint(request: Request) -> Response:
        wish = await _wish_of(request)
        try:
            return await run_in_threadpool(answer, request, wish)
        except WrongWishError as error:
            return problem(400, str(error))

    return endpoint


async def _wish_of(request: Request) -> dict[str, Any]:
    """The body's JSON object; empty if it is none, too large, or holds text that no file or database takes."""
    body = await body_within(request, _MAX_BODY_BYTES)
    try:
        wish = json.loads(body or b"{}")
        said = json.dumps(wish, ensure_ascii=False)
        said.encode()  # half a surrogate pair, which JSON can spell
    except (ValueError, RecursionError):
        return {}
    has_nul = "\\u0000" in said.replace("\\\\", "")
    return wish if isinstance(wish, dict) and not has_nul else {}


def iso(seconds: int) -> str:
    """Seconds since 1970 as an ISO 8601 time in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def seconds_of(text: object, name: str) -> int:
    """Seconds since 1970 of an ISO 8601 time that says its offset from UTC. ValueError: it is none."""
    with contextlib.suppress(ValueError, OverflowError):
        at = datetime.fromisoformat(str(text))
        if at.tzinfo is not None:
            return int(at.timestamp())
    raise ValueError(f"{name} is a time such as 2026-01-31T08:00:00+00:00")
