"""A step of a signed-in caller, on record before it is taken; a refusal is on record as well, also one that turns out
only as the step is taken (`central.access.refused`).

Always true: where the record cannot be written, nothing is done.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response

from central.access.problems import unrecorded
from central.access.web import audit_event, said_of
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
    event = audit_event(request, action, outcome, detail, study_instance_uid, institutions=institutions)
    try:
        audit.record(event)
    except AuditUnavailableError:
        return unrecorded()
    said_of(request).step = event if refusal is None else None
    return refusal
