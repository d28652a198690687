"""Bodies of requests that are taken whole, because they are small: read within a limit, whoever sends them."""

from __future__ import annotations

from starlette.requests import Request


async def body_within(request: Request, limit_bytes: int) -> bytes | None:
    """The whole body; None as soon as it is longer than that."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit_bytes:
            return None
    return bytes(body)
