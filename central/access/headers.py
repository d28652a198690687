"""Headers that every answer of the people listener carries unless its route set its own.

What is always true: nothing is sniffed, framed, referred or stored in a cache by accident. Routes that may be
cached (static files) or need more (the viewer's policy) say so themselves, and are not overruled.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; object-src 'none'; form-action 'self'"
)
_DEFAULTS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


def with_safe_headers(send: Send) -> Send:
    """`send`, adding the headers that the answer lacks."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _DEFAULTS:
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
