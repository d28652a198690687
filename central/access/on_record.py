"""A step of a signed-in caller, on record before it is taken; a refusal is on record as well.

Always true: where the record cannot be written, nothing is done.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response

from central.access.problems import problem
from central.access.web import audit_event
from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, Outcome
from central.audit.record import Audit


def admit(
    audit: Audit,
    request: Request,
    refusal: Response | None,
    action: Action,
    detail: str,
    study_instance_uid: str | None = None,
    institutions: Iterable[str] = (),
) -> Response | None:
    """Record what the caller is about to do, or was refused; the answer if it may not or cannot go on.

    `institutions` are concerned besides the caller's own.
    """
    outcome: Outcome = "success" if refusal is None else "refused"
    try:
        audit.record(
            audit_event(request, action, outcome, detail, study_instance_uid, institutions=institutions)
        )
    except AuditUnavailableError:
        return unrecorded()
    return refusal


def unrecorded() -> Response:
    """The answer where the record cannot be written."""
    return problem(503, "the audit record cannot be written; try again later", {"Retry-After": "10"})
