"""Refusals as problem details (RFC 9457), alike in every room that answers programs.

`detail` is for the person who reads a log of the client; it never says more than the caller may know.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse


def problem(status: int, detail: str = "", headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An ``application/problem+json`` answer of type ``about:blank`` (RFC 9457 section 4.2.1)."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(body, status, dict(headers or {}), media_type="application/problem+json")
