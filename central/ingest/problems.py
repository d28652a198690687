"""Problem details (RFC 9457) on the gateways' routes."""

from __future__ import annotations

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from central.ingest.errors import IngestError
from contract.transfer import PROBLEM_CONTENT_TYPE, TUS_VERSION, Problem, ProblemDetails


def problem_response(
    problem: Problem, status: int, detail: str, headers: dict[str, str] | None = None
) -> Response:
    """The answer for `problem`."""
    title = "Checksum Mismatch" if problem is Problem.CHECKSUM else HTTPStatus(status).phrase
    details = ProblemDetails(type=problem, title=title, status=status, detail=detail)
    return Response(
        details.model_dump_json(),
        status,
        {"Tus-Resumable": TUS_VERSION, **(headers or {})},
        PROBLEM_CONTENT_TYPE,
    )


async def ingest_error(_request: Request, error: Exception) -> Response:
    """Exception handler for `IngestError`."""
    assert isinstance(error, IngestError)
    return problem_response(error.problem, error.status, error.detail, error.headers)


async def http_error(_request: Request, error: Exception) -> Response:
    """Exception handler for Starlette's own refusals: no such route, no such method."""
    assert isinstance(error, HTTPException)
    return problem_response(Problem.INVALID, error.status_code, error.detail, dict(error.headers or {}))


async def unexpected_error(_request: Request, _error: Exception) -> Response:
    """Exception handler for everything else: says nothing of the inside. The log has the traceback."""
    return problem_response(
        Problem.UNAVAILABLE, 500, "central could not do this; it is in central's log. Try again later."
    )
