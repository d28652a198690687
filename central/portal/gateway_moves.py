"""Boxes that change hands: an administrator of the whole central makes one another institution's.

Always true: a move is on record for both institutions before it is made, and it is the one that was confirmed: the wish
names the institution that the person saw, and a box that is another's by now is not moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.errors import AccessRuleError
from central.access.institutions import Institutions
from central.access.on_record import admit
from central.access.policy import managed
from central.access.problems import problem
from central.access.web import principal_of
from central.audit.events import Action
from central.audit.record import Audit
from central.identity.gateways import Gateways
from central.portal.institutions import managers_only, whole_central_only
from central.portal.wishes import NO_STORE, WrongWishError, with_wish


def routes(institutions: Institutions, gateways: Gateways, audit: Audit) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`."""
    desk = _Desk(institutions, gateways, audit)
    return [
        Route("/api/gateways/institutions", desk.listed, methods=["GET"]),
        Route("/api/gateways/institution", with_wish(desk.move), methods=["POST"]),
    ]


class _Desk:
    def __init__(self, institutions: Institutions, gateways: Gateways, audit: Audit) -> None:
        self._institutions = institutions
        self._gateways = gateways
        self._audit = audit

    def listed(self, request: Request) -> Response:
        if (refusal := managers_only(request)) is not None:
            return refusal
        found = [
            {
                "gateway_id": one.gateway_id,
                "name": one.name,
                "institution": one.institution,
                "is_revoked": one.revoked_at_utc is not None,
            }
            for one in self._gateways.listed(managed(principal_of(request)))
        ]
        return JSONResponse({"gateways": found}, headers=NO_STORE)

    def move(self, request: Request, wish: Mapping[str, Any]) -> Response:
        names = [wish.get(key) for key in ("gateway_id", "former", "institution")]
        said = [name.strip()[:64] for name in names if isinstance(name, str)]
        if len(said) < len(names):
            raise WrongWishError(
                'send {"gateway_id": "…", "former": "<whose it is>", "institution": "<whose it becomes>"}'
            )
        gateway_id, former, institution = said
        refusal = whole_central_only(request) or self._why_not(gateway_id, former, institution)
        answer = admit(
            self._audit,
            request,
            refusal,
            Action.ACCESS_CHANGE,
            f"gateway {gateway_id} is moved from {former} to institution {institution}",
            institutions=(former, institution) if refusal is None else (),
        )
        if answer is not None:
            return answer
        if not self._gateways.move(gateway_id, institution, former=former):
            return problem(409, f"{gateway_id} was moved meanwhile; look whose it is now")
        return JSONResponse({"gateway_id": gateway_id, "institution": institution}, headers=NO_STORE)

    def _why_not(self, gateway_id: str, former: str, institution: str) -> Response | None:
        if not self._gateways.is_known(gateway_id):
            return problem(404, "there is no such gateway")
        try:
            self._institutions.require(institution)
        except AccessRuleError as error:
            return problem(400, str(error))
        if not self._gateways.is_known(gateway_id, former):
            return problem(409, f"{gateway_id} is not {former}'s; look whose it is now")
        if institution == former:
            return problem(400, f"{gateway_id} is {former}'s already")
        return None
