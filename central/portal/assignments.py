"""Studies and patients assigned to doctors, on the sharing page.

Always true: each change is on record before it counts. Who assigns a study may show it at that moment; who assigns a
patient may show all of the patient's studies of the institution, or manages access. An assignment is of one
institution, the doctor's, and is seen and ended by who made it and by who manages access there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.assignments import Assigned
from central.access.doorkeeper import Doorkeeper
from central.access.errors import AccessRuleError
from central.access.on_record import admit
from central.access.policy import (
    Grant,
    PatientKey,
    Principal,
    Privilege,
    authorize,
    has_privilege,
    managed,
    manages,
)
from central.access.problems import problem
from central.access.web import principal_of
from central.archive.reading import Reading
from central.audit.events import Action
from central.audit.record import Audit
from central.portal.wishes import NO_STORE, WrongWishError, iso, seconds_of, with_wish
from contract.identifiers import InvalidIdentifierError, check_uid

_MAX_KEY_CHARACTERS: Final = 256
_SEND: Final = (
    'send {"username": "…", "until_utc": "2026-01-31T08:00:00+00:00"} with "study_instance_uid", or with "patient_id" '
    'and "issuer_of_patient_id"'
)
_NOT_HERE: Final = "there is no such study or patient"


def routes(doorkeeper: Doorkeeper, archive: Reading, audit: Audit) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`."""
    desk = _Desk(doorkeeper, archive, audit)
    return [
        Route("/api/assignments", desk.listed, methods=["GET"]),
        Route("/api/assignments", with_wish(desk.add), methods=["POST"]),
        Route("/api/assignments/{assignment_id}", desk.end, methods=["DELETE"]),
    ]


class _Desk:
    def __init__(self, doorkeeper: Doorkeeper, archive: Reading, audit: Audit) -> None:
        self._doorkeeper = doorkeeper
        self._assignments = doorkeeper.assignments
        self._archive = archive
        self._audit = audit

    def listed(self, request: Request) -> Response:
        principal = principal_of(request)
        refusal = None
        if not has_privilege(principal, Privilege.GIVE_ACCESS):
            refusal = problem(403, "your role may not give access")
        answer = admit(self._audit, request, refusal, Action.SEARCH, "assignments")
        if answer is not None:
            return answer
        all_of_them = has_privilege(principal, Privilege.MANAGE_ACCESS)
        found = self._assignments.listed(managed(principal), None if all_of_them else principal.username)
        return JSONResponse({"assignments": [_json(one) for one in found]}, headers=NO_STORE)

    def add(self, request: Request, wish: Mapping[str, Any]) -> Response:
        username, study = wish.get("username"), wish.get("study_instance_uid") or ""
        patient_id, issuer = wish.get("patient_id") or "", wish.get("issuer_of_patient_id") or ""
        texts = (username, study, patient_id, issuer)
        if not all(isinstance(text, str) for text in texts) or bool(study) == bool(patient_id):
            raise WrongWishError(_SEND)
        try:
            until_utc = seconds_of(wish.get("until_utc"), "until_utc")
            what: str | PatientKey = (
                check_uid(str(study), "study_instance_uid")
                if study
                else PatientKey(
                    str(issuer).strip(" ")[:_MAX_KEY_CHARACTERS],
                    str(patient_id).strip(" ")[:_MAX_KEY_CHARACTERS],
                )
            )
        except (InvalidIdentifierError, ValueError) as error:
            raise WrongWishError(str(error)) from error
        username, principal = str(username).strip()[:64], principal_of(request)
        # Whose doctor it is says for which institution somebody of the whole central speaks.
        institution = managed(principal) or self._doorkeeper.accounts.institution_of(username) or ""
        said = what if isinstance(what, str) else f"patient {what.patient_id} of {what.issuer or 'no issuer'}"
        detail = f"assign {said} to {username} until {iso(until_utc)}"
        refusal = self._why_not(principal, what, institution)
        study = what if isinstance(what, str) else None
        concerned = (institution,) if refusal is None else ()
        answer = admit(
            self._audit, request, refusal, Action.ACCESS_CHANGE, detail, study, institutions=concerned
        )
        if answer is not None:
            return answer
        try:
            made = self._assignments.assign(
                what,
                username,
                institution=institution,
                until_utc=until_utc,
                made_by=principal.username,
            )
        except AccessRuleError as error:
            return problem(400, str(error))
        return JSONResponse(_json(made), 201, headers=NO_STORE)

    def _why_not(self, principal: Principal, what: str | PatientKey, institution: str) -> Response | None:
        if not has_privilege(principal, Privilege.GIVE_ACCESS):
            return problem(403, "your role may not give access")
        studies = [what] if isinstance(what, str) else self._archive.studies_of(what, institution)
        if has_privilege(principal, Privilege.MANAGE_ACCESS):
            here = all(self._archive.arrival(study, institution) for study in studies)
            return None if studies and here else problem(404, _NOT_HERE)
        may_show_all = studies and all(self._may_show(principal, study, institution) for study in studies)
        return None if may_show_all else problem(404, _NOT_HERE)

    def _may_show(self, principal: Principal, study: str, institution: str) -> bool:
        facts = self._archive.facts(study)
        decision = authorize(principal, Action.SHARE, facts) if facts else None
        return isinstance(decision, Grant) and institution in decision.institutions

    def end(self, request: Request) -> Response:
        principal, assignment_id = principal_of(request), str(request.path_params["assignment_id"])
        found = self._assignments.get(assignment_id)
        mine = found is not None and (
            manages(principal, found.institution)
            if has_privilege(principal, Privilege.MANAGE_ACCESS)
            else has_privilege(principal, Privilege.GIVE_ACCESS) and found.made_by == principal.username
        )
        if found is None or not mine:
            refusal = (
                problem(404, "there is no such assignment of yours")
                if has_privilege(principal, Privilege.GIVE_ACCESS)
                else problem(403, "your role may not give access")
            )
            detail = f"end assignment {assignment_id[:64]}"
            return admit(self._audit, request, refusal, Action.ACCESS_CHANGE, detail) or refusal
        study = found.study_instance_uid or None
        detail = f"end the assignment to {found.username}"
        answer = admit(
            self._audit,
            request,
            None,
            Action.ACCESS_CHANGE,
            detail,
            study,
            institutions=(found.institution,),
        )
        if answer is not None:
            return answer
        self._assignments.end(assignment_id)
        return Response(status_code=204)


def _json(one: Assigned) -> dict[str, Any]:
    times = ("until_utc", "made_at_utc")
    return {name: iso(value) if name in times else value for name, value in vars(one).items()}
