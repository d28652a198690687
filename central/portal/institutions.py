"""Institutions and their agreements: administrators of the whole central add and end them, those of one see their own.

Always true: each change is on record before it counts, for the auditors of both sides; what was refused for those of
who asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.doorkeeper import Doorkeeper
from central.access.errors import AccessRuleError
from central.access.institutions import Opened
from central.access.on_record import admit
from central.access.policy import Privilege, Sharing, has_privilege, managed
from central.access.problems import problem
from central.access.web import principal_of
from central.audit.events import Action
from central.audit.record import Audit
from central.portal.templating import page
from central.portal.wishes import NO_STORE, WrongWishError, iso, with_wish


def routes(doorkeeper: Doorkeeper, audit: Audit) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`."""
    desk = _Desk(doorkeeper, audit)
    return [
        Route("/institutions", desk.show, methods=["GET"]),
        Route("/api/institutions", desk.listed, methods=["GET"]),
        Route("/api/institutions", with_wish(desk.add), methods=["POST"]),
        Route("/api/agreements", desk.agreements, methods=["GET"]),
        Route("/api/agreements", with_wish(desk.agree), methods=["POST"]),
        Route("/api/agreements/{agreement_id}", desk.end, methods=["DELETE"]),
    ]


class _Desk:
    def __init__(self, doorkeeper: Doorkeeper, audit: Audit) -> None:
        self._institutions = doorkeeper.institutions
        self._audit = audit

    def show(self, request: Request) -> Response:
        principal = principal_of(request)
        if not has_privilege(principal, Privilege.MANAGE_ACCESS):
            return page("refused.html", principal, 403, path="/institutions")
        return page(
            "institutions.html",
            principal,
            path="/institutions",
            may_change=managed(principal) is None,
            sharings=[sharing.value for sharing in Sharing],
        )

    def listed(self, request: Request) -> Response:
        if (refusal := managers_only(request)) is not None:
            return refusal
        own = managed(principal_of(request))
        found = [
            {"institution": institution, "name": name}
            for institution, name in self._institutions.listed().items()
            if own in (None, institution)
        ]
        return JSONResponse({"institutions": found}, headers=NO_STORE)

    def add(self, request: Request, wish: Mapping[str, Any]) -> Response:
        institution, name = wish.get("institution"), wish.get("name", "")
        if not (isinstance(institution, str) and isinstance(name, str)):
            raise WrongWishError('send {"institution": "north-clinic", "name": "North Clinic"}')
        institution, name = institution.strip()[:64], name.strip()
        detail = f"institution {institution}: {name}"
        answer = admit(self._audit, request, whole_central_only(request), Action.ACCESS_CHANGE, detail)
        if answer is not None:
            return answer
        try:
            self._institutions.add(institution, name)
        except AccessRuleError as error:
            return problem(400, str(error))
        return JSONResponse({"institution": institution, "name": name}, 201, headers=NO_STORE)

    def agreements(self, request: Request) -> Response:
        if (refusal := managers_only(request)) is not None:
            return refusal
        own = managed(principal_of(request))
        found = [
            _json(one)
            for one in self._institutions.agreements()
            if own is None or own in (one.opened_by, one.opened_to)
        ]
        return JSONResponse({"agreements": found}, headers=NO_STORE)

    def agree(self, request: Request, wish: Mapping[str, Any]) -> Response:
        opened_by, opened_to = wish.get("opened_by"), wish.get("opened_to")
        try:
            sharing = Sharing(str(wish.get("sharing")))
        except ValueError:
            sharing = None
        if sharing is None or not (isinstance(opened_by, str) and isinstance(opened_to, str)):
            kinds = " or ".join(Sharing)
            raise WrongWishError(f'send {{"sharing": {kinds}, "opened_by": "…", "opened_to": "…"}}')
        opened_by, opened_to = opened_by[:64], opened_to[:64]
        detail = f"agreement on {sharing}: {opened_by} opens to {opened_to}"
        refusal = whole_central_only(request)
        # Who may not say so puts nothing on the record of others.
        concerned = (opened_by, opened_to) if refusal is None else ()
        answer = admit(self._audit, request, refusal, Action.ACCESS_CHANGE, detail, institutions=concerned)
        if answer is not None:
            return answer
        try:
            agreement_id = self._institutions.agree(
                sharing, opened_by=opened_by, opened_to=opened_to, made_by=principal_of(request).username
            )
        except AccessRuleError as error:
            return problem(400, str(error))
        return JSONResponse({"agreement_id": agreement_id}, 201, headers=NO_STORE)

    def end(self, request: Request) -> Response:
        agreement_id = str(request.path_params["agreement_id"])
        found = next(
            (one for one in self._institutions.agreements() if one.agreement_id == agreement_id), None
        )
        refusal = whole_central_only(request)
        if refusal is None and found is None:
            refusal = problem(404, "there is no such agreement that holds")
        said = f"{found.sharing}: {found.opened_by} to {found.opened_to}" if found else agreement_id[:64]
        concerned = (found.opened_by, found.opened_to) if found and refusal is None else ()
        answer = admit(
            self._audit,
            request,
            refusal,
            Action.ACCESS_CHANGE,
            f"end the agreement on {said}" if refusal is None else "end an agreement",
            institutions=concerned,
        )
        if answer is not None:
            return answer
        self._institutions.end(agreement_id)
        return Response(status_code=204)


def managers_only(request: Request) -> Response | None:
    """A refusal for everybody but administrators."""
    allowed = has_privilege(principal_of(request), Privilege.MANAGE_ACCESS)
    return None if allowed else problem(403, "your role may not manage access")


def whole_central_only(request: Request) -> Response | None:
    """A refusal for everybody but administrators of the whole central."""
    allowed = (
        has_privilege(principal_of(request), Privilege.MANAGE_ACCESS)
        and managed(principal_of(request)) is None
    )
    return None if allowed else problem(403, "this is for administrators of the whole central")


def _json(one: Opened) -> dict[str, Any]:
    return {
        "agreement_id": one.agreement_id,
        "sharing": one.sharing.value,
        "opened_by": one.opened_by,
        "opened_to": one.opened_to,
        "made_by": one.made_by,
        "made_at_utc": iso(one.made_at_utc),
    }
