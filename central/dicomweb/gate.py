"""The gate that every DICOMweb answer passes: who asks, may they, is it recorded.

What is always true: the policy decides first, the audit record is durable second, bytes leave third. A study
that is not here and one that the caller may not see end in the same error, and both are recorded. The policy decides
anew each time, and again while a long answer leaves (`central.access.ongoing`); a record may stand for what the same
session asks again, and for the frames of a series (`central.audit.spans`). While the record is written the answer is
prepared: `once_recorded` is around everything that answers through a `Gate`, and holds it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial, wraps
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.access.policy import (
    Action,
    DenialReason,
    Denied,
    Grant,
    Principal,
    Scope,
    authorize,
    renew,
    scope_of,
)
from central.access.web import audit_event, ongoing_of, principal_of, session_of
from central.archive.reading import Reading
from central.archive.rows import StoredInstance
from central.audit.events import AuditEvent, Outcome
from central.audit.record import Audit, Recording
from central.audit.spans import Spans
from central.dicomweb.errors import BadRequestError, NotHereError
from central.dicomweb.multipart import ClosingResponse
from contract.identifiers import InvalidIdentifierError, check_uid

MOUNTED_AT: Final = "/dicom-web"
STUDY: Final = "/studies/{study}"
SERIES: Final = STUDY + "/series/{series}"
INSTANCE: Final = SERIES + "/instances/{instance}"
_RECORDINGS: Final = "dicomnet.recordings"  # in a request's scope: what its answer waits for


class Gate:
    """Grants and scopes for requests, each of them on its way into the record when it is handed out.

    For endpoints of routes that went through `once_recorded` only.
    """

    def __init__(self, archive: Reading, audit: Audit) -> None:
        self._archive = archive
        self._audit = audit
        self._spans = Spans(audit)

    def scope(self, request: Request, detail: str, study_instance_uid: str | None = None) -> Scope:
        """What the caller's search may find; empty, and recorded as refused, for roles that may not search.

        What is found is given to `showing` before it leaves.
        """
        scope = scope_of(principal_of(request), Action.SEARCH)
        outcome: Outcome = "refused" if scope.is_nothing else "success"
        event = audit_event(request, Action.SEARCH, outcome, detail, study_instance_uid)
        if scope.is_nothing:
            self._record(request, event)
        else:
            self._record_span(request, event)
        return scope

    def showing(
        self, request: Request, scope: Scope, detail: str, study_instance_uid: str | None, found: bytes
    ) -> None:
        """A search that goes on is recorded anew when it finds something else than before."""
        if not scope.is_nothing:
            event = audit_event(request, Action.SEARCH, "success", detail, study_instance_uid)
            recording = self._spans.begin_shown(session_of(request), event, found)
            if recording is not None:
                _hold_back(request, recording)

    def grant(
        self, request: Request, action: Action, detail: str, *, goes_on: bool = False
    ) -> tuple[Grant, str | None, str | None]:
        """A grant for the study that the request's path names, and the UIDs of series and instance that it names.

        `goes_on`: one record stands for the same of every instance of the series for a while.

        Raises
        ------
        BadRequestError : a UID is not one.
        NotHereError : the study is not here, or the caller may not see it.
        """
        series_uid, sop_uid = (
            path_uid(request, level) if level in request.path_params else None
            for level in ("series", "instance")
        )
        study_uid = path_uid(request, "study")
        grant = self.grant_for(request, action, detail, study_uid, series_uid, sop_uid, goes_on=goes_on)
        return grant, series_uid, sop_uid

    def grant_for(
        self,
        request: Request,
        action: Action,
        detail: str,
        study_instance_uid: str,
        series_instance_uid: str | None = None,
        sop_instance_uid: str | None = None,
        *,
        goes_on: bool = False,
    ) -> Grant:
        """A grant for a study that is named otherwise than by the path. NotHereError as `grant`."""
        facts = self._archive.facts(study_instance_uid)
        decision = (
            authorize(principal_of(request), action, facts) if facts else Denied(DenialReason.NOT_IN_SCOPE)
        )
        uids = (study_instance_uid, series_instance_uid, sop_instance_uid)
        if isinstance(decision, Denied):
            why = decision.reason.value if facts else "not here"
            self._record(request, audit_event(request, action, "refused", f"{detail}: {why}", *uids))
            raise NotHereError
        if study_instance_uid in principal_of(request).emergency_studies:
            detail = f"{detail}, opened in an emergency"
        if goes_on:
            uids = (study_instance_uid, series_instance_uid, None)
        event = audit_event(request, action, "success", detail, *uids, institutions=decision.institutions)
        if goes_on:
            self._record_span(request, event)
        else:
            self._record(request, event)
        ongoing_of(request).gives_out(event, partial(self._why_not, decision))
        return decision

    def _why_not(self, grant: Grant, principal: Principal) -> str | None:
        """What keeps `principal` from what was granted, by now."""
        facts = self._archive.facts(grant.study_instance_uid)
        if facts is None:
            return "not here"
        decision = renew(grant, principal, facts)
        return decision.reason.value if isinstance(decision, Denied) else None

    def instance(
        self, request: Request, action: Action, detail: str, *, goes_on: bool = False
    ) -> StoredInstance:
        """The instance that the request's path names, granted; `goes_on` as in `grant`.

        Raises
        ------
        BadRequestError, NotHereError : as `grant`.
        NoSuchInstanceError : the study has no such instance.
        """
        grant, series_uid, sop_uid = self.grant(request, action, detail, goes_on=goes_on)
        assert series_uid is not None and sop_uid is not None, "for routes of instances only"  # noqa: PT018
        return self._archive.open_instance(grant, series_uid, sop_uid)

    def _record(self, request: Request, event: AuditEvent) -> None:
        _hold_back(request, self._audit.begin(event))

    def _record_span(self, request: Request, event: AuditEvent) -> None:
        _hold_back(request, self._spans.begin(session_of(request), event))


def _hold_back(request: Request, recording: Recording) -> None:
    recordings: list[Recording] = request.scope[_RECORDINGS]
    recordings.append(recording)


def once_recorded(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """The same routes, whose answers and errors leave when all that a `Gate` let through for them is on record.

    Else AuditUnavailableError takes their place.
    """
    for route in routes:
        assert isinstance(route, Route), "only endpoints answer"
        yield Route(route.path, _held_back(route.endpoint), methods=list(route.methods or ()))


def _held_back(endpoint: Callable[[Request], Response]) -> Callable[[Request], Response]:
    @wraps(endpoint)
    def answer(request: Request) -> Response:
        recordings: list[Recording] = []
        request.scope[_RECORDINGS] = recordings
        response = None
        try:
            response = endpoint(request)
        finally:
            try:
                for recording in recordings:
                    recording.wait()
            except BaseException:
                if isinstance(response, ClosingResponse):
                    response.end()
                raise
        return response

    return answer


def base_url(request: Request) -> str:
    """The service's own address as the client called it, without a slash at its end."""
    return str(request.base_url).rstrip("/") + MOUNTED_AT


def path_uid(request: Request, level: str) -> str:
    """The UID at `level` ("study", "series", "instance") of the request's path.

    Raises
    ------
    BadRequestError : it is not a UID.
    """
    return said_uid(request.path_params[level], f"the {level}'s UID")


def said_uid(text: str, what: str) -> str:
    """`text` if it is a UID.

    Raises
    ------
    BadRequestError : it is not; the text says what it should have been.
    """
    try:
        return check_uid(text, what)
    except InvalidIdentifierError as error:
        raise BadRequestError(str(error)) from error
