"""Refusals as problem details (RFC 9457), alike in every room that answers programs.

`detail` is for the person who reads a log of the client; it never says more than the caller may know.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match, Route


def problem(status: int, detail: str = "", headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An ``application/problem+json`` answer of type ``about:blank`` (RFC 9457 section 4.2.1)."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(body, status, dict(headers or {}), media_type="application/problem+json")


def unrecorded() -> JSONResponse:
    """The answer where the audit record cannot be written."""
    return problem(503, "the audit record cannot be written; try again later", {"Retry-After": "10"})


async def router_problem(request: Request, error: Exception) -> JSONResponse:
    """Exception handler for what no route answers itself: no such route, no such method, more than the record can hold.

    Starlette says in ``Allow`` what the first route of a path takes; here it is what all of them take, as RFC 9110
    section 10.2.1 wants it.
    """
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = {
            method
            for route in request.scope["app"].routes
            if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
            for method in route.methods or ()
        }
        headers["Allow"] = ", ".join(sorted(allowed))
    said = "" if error.detail == HTTPStatus(error.status_code).phrase else error.detail
    return problem(error.status_code, said, headers)
