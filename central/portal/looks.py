"""Who looked: for a patient at the own studies, for who may read the audit record at anybody's.

What is always true
-------------------
- Reading is recorded before anything is answered, refusals as well.
- A patient is told when, in what role and in the institution's name, never a username, an address or a search; and of
  those studies alone that the policy shows to the patient (`scope_of`), or would but for the consent that the patient
  has withdrawn: who did that may ask all the more who had looked.
- What an auditor asks for comes in the body: a patient's ID is in no URL.
- Pages go by the records' ids, so that what is recorded meanwhile moves nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import peewee
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from central.access.on_record import admit
from central.access.policy import (
    DenialReason,
    PatientKey,
    Principal,
    Privilege,
    Role,
    Scope,
    has_privilege,
    managed,
    scope_of,
)
from central.access.problems import problem
from central.access.sign_in import FormError, small_form
from central.access.web import audit_event, ongoing_of, principal_of
from central.archive.query import StudyQuery
from central.archive.reading import Reading
from central.archive.rows import StudyRow
from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, AuditRow
from central.audit.formats import Format, lines
from central.audit.looks import LOOKED, Look, looks
from central.audit.reading import Wanted
from central.audit.record import Audit
from central.portal.templating import page
from central.portal.wishes import WrongWishError

PAGE_ROWS: Final = 100
PATIENT_PAGE_ROWS: Final = 1000  # records; they become few looks
_FILES: Final = {  # media type and file name
    Format.CSV: ("text/csv; charset=utf-8", "audit.csv"),
    Format.NDJSON: ("application/x-ndjson", "audit.ndjson"),
    Format.FHIR: ("application/fhir+ndjson", "audit-fhir.ndjson"),
}
_CONDITIONS: Final = (
    "actor", "action", "outcome", "actor_role", "patient_id", "issuer_of_patient_id", "study_instance_uid",
    "since", "until", "before_id",
)  # fmt: skip
_UNAVAILABLE: Final = "the audit record cannot be reached; try again later"


def routes(
    archive: Reading,
    audit: Audit,
    institution: str,
    delivery: Callable[[], Mapping[str, object] | None],
    central_id: str,
) -> list[BaseRoute]:
    """The patient's page and the auditor's search and export. Must be behind `RequireSignIn`.

    Parameters
    ----------
    delivery : how far audit messages are behind, as JSON; None where they go nowhere.
    central_id : who observed what is given out as FHIR.
    """
    desk = _Desk(archive, audit, institution, delivery, central_id)
    return [
        Route("/looks", desk.page),
        Route("/api/looks", desk.own),
        Route("/api/audit/records", _with_form(desk.records), methods=["POST"]),
        *(
            Route(
                f"/api/audit/records.{kind}",
                _with_form(partial(desk.export, kind)),
                methods=["POST"],
                name=f"export {kind}",
            )
            for kind in Format
        ),
    ]


class _Desk:
    def __init__(
        self,
        archive: Reading,
        audit: Audit,
        institution: str,
        delivery: Callable[[], Mapping[str, object] | None],
        central_id: str,
    ) -> None:
        self._archive = archive
        self._audit = audit
        self._institution = institution
        self._delivery = delivery
        self._central_id = central_id

    def page(self, request: Request) -> Response:
        principal = principal_of(request)
        if principal.role is not Role.PATIENT:
            return page("refused.html", principal, 403, path="/looks")
        return page("looks.html", principal, path="/looks", institution=self._institution)

    def own(self, request: Request) -> Response:
        """Looks at the studies of the patient who asks."""
        principal, refusal = principal_of(request), None
        if principal.role is not Role.PATIENT:
            refusal = problem(403, "only a patient has a list of looks at the own studies")
        try:
            before_id = _before_id(request.query_params)
            answer = admit(self._audit, request, refusal, Action.READ_AUDIT, "looks at the own studies")
            if answer is not None:
                return answer
            scope = scope_of(principal, Action.VIEW)
            scope = replace(scope, despite_withdrawal_of=scope.despite_withdrawal_of | scope.patients)
            held = self._studies(scope)
            studies = {row.study_instance_uid: row for row in held}
            rows = self._looked(held, before_id)
        except WrongWishError as error:
            return problem(400, str(error))
        except AuditUnavailableError:
            return problem(503, _UNAVAILABLE)
        told = [self._told(look, principal, studies[look.study_instance_uid]) for look in looks(rows)]
        return JSONResponse({"looks": told, "next_before_id": _next(rows, PATIENT_PAGE_ROWS)})

    def records(self, request: Request, form: Mapping[str, str]) -> Response:
        """A page of the records that are asked for, the newest first."""
        before_id = _before_id(form)
        wanted = self._wanted(request, form, Action.READ_AUDIT)
        if isinstance(wanted, Response):
            return wanted
        rows = self._audit.newest(wanted, limit=PAGE_ROWS, before_id=before_id)
        found = [_record_json(row) for row in rows]
        return JSONResponse(
            {"rows": found, "next_before_id": _next(rows, PAGE_ROWS), "audit_messages": self._delivery()}
        )

    def export(self, kind: Format, request: Request, form: Mapping[str, str]) -> Response:
        """All of them in that format, the oldest first."""
        wanted = self._wanted(request, form, Action.EXPORT, kind)
        if isinstance(wanted, Response):
            return wanted
        event = audit_event(request, Action.EXPORT, "success", f"audit record, {kind}")
        ongoing_of(request).gives_out(event, partial(_why_not, managed(principal_of(request))))
        media_type, name = _FILES[kind]
        return StreamingResponse(
            lines(self._audit, wanted, kind, self._central_id),
            media_type=media_type,
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    def _wanted(
        self, request: Request, form: Mapping[str, str], action: Action, kind: Format | None = None
    ) -> Wanted | Response:
        """What is asked for, on record; a refusal for who may not ask."""
        refusal = None
        if not has_privilege(principal_of(request), Privilege.READ_AUDIT):
            refusal = problem(403, "your role may not read the audit record")
        wanted, patient = (_conditions(form), _patient(form)) if refusal is None else (Wanted(), None)
        asked = " ".join(f"{name}={form[name]}" for name in _CONDITIONS if form.get(name))
        said = f"audit record, {kind} {asked}".strip() if kind else asked
        answer = admit(self._audit, request, refusal, action, said)
        if answer is not None:
            return answer
        institution = managed(principal_of(request))
        if institution is not None:
            wanted = replace(wanted, institutions=(institution,))
        if patient is None:
            return wanted
        return replace(wanted, studies=self._archive.studies_of(patient, institution))

    def _studies(self, scope: Scope) -> list[StudyRow]:
        return self._archive.find_studies(scope, StudyQuery(limit=None))

    def _looked(self, held: list[StudyRow], before_id: int | None) -> list[AuditRow]:
        """A page of the looks at these studies, the newest first. Of each institution only those that are its own: what
        another holds under the same Study Instance UID may be somebody else's."""
        found: dict[int, AuditRow] = {}
        for institution in {row.institution for row in held}:
            its = tuple(row.study_instance_uid for row in held if row.institution == institution)
            wanted = Wanted(studies=its, actions=LOOKED, outcome="success", institutions=(institution,))
            rows = self._audit.newest(wanted, limit=PATIENT_PAGE_ROWS, before_id=before_id)
            found |= {row.id: row for row in rows}
        return [found[at] for at in sorted(found, reverse=True)[:PATIENT_PAGE_ROWS]]

    def _told(self, look: Look, principal: Principal, study: StudyRow) -> dict[str, Any]:
        own = (look.actor, look.actor_role) == (principal.username, principal.role.value)
        return {
            "began_utc": look.began_utc.isoformat(),
            "ended_utc": look.ended_utc.isoformat(),
            "who": "you" if own else self._institution,
            "role": look.actor_role,
            "action": look.action.value,
            "study_instance_uid": study.study_instance_uid,
            "study_date": study.study_date,
            "study_description": study.study_description,
        }


def _with_form(
    answer: Callable[[Request, Mapping[str, str]], Response],
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a route: what `answer`, on a thread, says to the request and its form."""

    async def endpoint(request: Request) -> Response:
        try:
            return await run_in_threadpool(answer, request, await small_form(request))
        except (FormError, WrongWishError) as error:
            return problem(400, str(error))
        except (AuditUnavailableError, peewee.PeeweeException):
            return problem(503, _UNAVAILABLE)

    return endpoint


def _why_not(institution: str | None, auditor: Principal) -> str | None:
    """What keeps `auditor` from the records of `institution` (None: all) by now."""
    may = has_privilege(auditor, Privilege.READ_AUDIT) and managed(auditor) == institution
    return None if may else DenialReason.ROLE_MAY_NOT.value


def _conditions(query: Mapping[str, str]) -> Wanted:
    action = query.get("action") or None
    if action is not None and action not in set(Action):
        raise WrongWishError("there is no such action")
    outcome = query.get("outcome") or None
    if outcome not in (None, "success", "refused"):
        raise WrongWishError("an outcome is success or refused")
    return Wanted(
        actor=query.get("actor") or None,
        action=action,
        study_instance_uid=query.get("study_instance_uid") or None,
        since_utc=_time(query, "since"),
        until_utc=_time(query, "until"),
        actor_role=query.get("actor_role") or None,
        outcome="refused" if outcome == "refused" else "success" if outcome else None,
    )


def _patient(query: Mapping[str, str]) -> PatientKey | None:
    patient_id, issuer = query.get("patient_id", ""), query.get("issuer_of_patient_id", "")
    if issuer and not patient_id:
        raise WrongWishError("issuer_of_patient_id goes with a patient_id")
    return PatientKey(issuer, patient_id) if patient_id else None


def _time(query: Mapping[str, str], name: str) -> str | None:
    """As the record writes times; without a zone it is UTC."""
    text = query.get(name, "")
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise WrongWishError(f"{name} is a time such as 2026-01-31 or 2026-01-31T08:00, in UTC") from error
    return at.isoformat(timespec="microseconds")


def _before_id(query: Mapping[str, str]) -> int | None:
    text = query.get("before_id")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise WrongWishError("before_id is a whole number")
    return int(text)


def _next(rows: list[AuditRow], limit: int) -> int | None:
    return rows[-1].id if len(rows) == limit else None


def _record_json(row: AuditRow) -> dict[str, Any]:
    said = {name: value for name, value in vars(row.event).items() if name != "institutions"}
    return {**said, "id": row.id, "at_utc": row.at_utc.isoformat()}
