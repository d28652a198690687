"""The portal's routes: pages, the data they fetch, and their static files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from central.access.doorkeeper import Doorkeeper
from central.access.on_record import admit
from central.access.policy import Privilege, Role, has_privilege, managed
from central.access.problems import problem
from central.access.web import principal_of
from central.audit.events import Action
from central.audit.record import Audit
from central.portal.account import routes as account_routes
from central.portal.boxes import BoxView, box_json
from central.portal.enrolments import no_boxes, pairing_json
from central.portal.factors import routes as factor_routes
from central.portal.passkey_sign_in import routes as passkey_sign_in_routes
from central.portal.sign_in import COOKIE_LIFE_S, sign_in_pages
from central.portal.single_sign_on import SignOn
from central.portal.single_sign_on import routes as single_sign_on_routes
from central.portal.templating import FOLDER, may_find_studies, may_share, page
from central.portal.wishes import WrongWishError, with_wish
from contract.enrolment import Pairing
from contract.errors import PermanentError

FleetView = Callable[[str | None, Sequence[str] | None], Sequence[BoxView]]
PairNew = Callable[[str, str | None], Pairing]


def routes(
    doorkeeper: Doorkeeper,
    audit: Audit,
    fleet_view: FleetView,
    pair: PairNew,
    cookie_life_s: int = COOKIE_LIFE_S,
    sign_ons: Sequence[SignOn] = (),
) -> list[BaseRoute]:
    """Sign-in, accounts, study list, fleet and the audit page. Must be behind `RequireSignIn`.

    `fleet_view` gives the boxes of an institution (None: of all), or of those the ones with these ids. `pair` makes a
    one-time pairing for a box of that name ("" for none) and institution, or raises a PermanentError that says why not.
    """
    portal = _Portal(audit, fleet_view, pair)
    return [
        *sign_in_pages(doorkeeper, audit, cookie_life_s, {one.key: one.name for one in sign_ons}),
        *passkey_sign_in_routes(doorkeeper, audit, cookie_life_s),
        *single_sign_on_routes(doorkeeper, audit, sign_ons, cookie_life_s),
        *account_routes(doorkeeper, audit),
        *factor_routes(doorkeeper, audit),
        Route("/", portal.studies_page),
        Route("/fleet", portal.fleet_page),
        Route("/audit", portal.audit_page),
        Route("/api/fleet", portal.fleet),
        Route("/api/gateways/pairing", with_wish(portal.pairing), methods=["POST"]),
        Mount("/static", app=StaticFiles(directory=FOLDER / "static")),
    ]


class _Portal:
    def __init__(self, audit: Audit, fleet_view: FleetView, pair: PairNew) -> None:
        self._audit = audit
        self._fleet_view = fleet_view
        self._pair = pair

    def studies_page(self, request: Request) -> Response:
        principal = principal_of(request)
        if has_privilege(principal, Privilege.READ_FLEET) and not may_find_studies(principal):
            return RedirectResponse("/fleet", status_code=303)
        return page("studies.html", principal, path="/", may_share=may_share(principal))

    def fleet_page(self, request: Request) -> Response:
        principal = principal_of(request)
        if not has_privilege(principal, Privilege.READ_FLEET):
            return page("refused.html", principal, 403, path="/fleet")
        may_pair = has_privilege(principal, Privilege.PAIR_GATEWAY)
        may_command = has_privilege(principal, Privilege.COMMAND_GATEWAY)
        return page("fleet.html", principal, path="/fleet", may_pair=may_pair, may_command=may_command)

    def audit_page(self, request: Request) -> Response:
        principal = principal_of(request)
        if not has_privilege(principal, Privilege.READ_AUDIT):
            return page("refused.html", principal, 403, path="/audit")
        return page(
            "audit.html",
            principal,
            path="/audit",
            actions=[action.value for action in Action],
            roles=[role.value for role in Role],
            may_manage=has_privilege(principal, Privilege.MANAGE_ACCESS),
        )

    def fleet(self, request: Request) -> Response:
        principal = principal_of(request)
        if not has_privilege(principal, Privilege.READ_FLEET):
            return problem(403, "your role may not see the fleet")
        now = datetime.now(UTC).isoformat()
        only = principal.gateway_ids if principal.role is Role.TECHNICIAN else None
        boxes = self._fleet_view(managed(principal), only)
        return JSONResponse({"now_utc": now, "boxes": [box_json(box) for box in boxes]})

    def pairing(self, request: Request, wish: Mapping[str, Any]) -> Response:
        name = wish.get("name")
        if not isinstance(name, str):
            raise WrongWishError('send {"name": "<name of the box>"}')
        answer = admit(self._audit, request, no_boxes(request), Action.PAIR, name.strip())
        if answer is not None:
            return answer
        try:
            pairing = self._pair(name.strip(), managed(principal_of(request)))
        except PermanentError as error:
            raise WrongWishError(str(error)) from error
        return JSONResponse(pairing_json(pairing), 201)
