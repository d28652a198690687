"""The worklist for administrators and for a RIS with an account of role service, on the people's listener.

    GET    /api/worklist?after_date=&after_time=&after_id=    → 200 {"items": [{"item_id", "gateways", "item"}]}
    PUT    /api/worklist/{item_id}     {"item": <DICOM JSON>, "gateways": [<gateway id>...]} → 201, or 200 if replaced
    DELETE /api/worklist/{item_id}     → 204, 404

Who may only read the worklist reads what is for the own boxes (policy.Principal.gateway_ids), and for every box. An
administrator of the whole central says with ``?institution=`` whose worklist is meant, or means the default one.

Always true: each is on record before it happens, refusals too; without the privilege nothing is said of what is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.on_record import admit
from central.access.policy import Privilege, has_privilege, managed
from central.access.problems import problem, unrecorded
from central.access.web import audit_event, principal_of
from central.audit.errors import AuditUnavailableError
from central.audit.events import Action
from central.audit.record import Audit
from central.bodies import body_within
from central.institution import DEFAULT_INSTITUTION
from central.workflow.data_sets import Scheduled, scheduled_item
from central.workflow.errors import UnusableItemError, WorklistFullError
from central.workflow.ordering import Ordering
from central.workflow.worklist import Entry, WorklistStore
from contract.identifiers import InvalidIdentifierError, check_gateway_id

PAGE_ITEMS: Final = 200
_MAX_BODY_BYTES: Final = 262_144
_MAX_GATEWAYS: Final = 256
_ITEM_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PLACE: Final = re.compile(r"[A-Za-z0-9._-]{0,64}")


def people_routes(worklist: WorklistStore, audit: Audit, ordering: Ordering) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`."""
    desk = _Desk(worklist, audit, ordering)
    return [
        Route("/api/worklist", desk.listed, methods=["GET"]),
        Route("/api/worklist/{item_id}", desk.put, methods=["PUT"]),
        Route("/api/worklist/{item_id}", desk.delete, methods=["DELETE"]),
    ]


class _Desk:
    def __init__(self, worklist: WorklistStore, audit: Audit, ordering: Ordering) -> None:
        self._worklist = worklist
        self._audit = audit
        self._ordering = ordering

    def listed(self, request: Request) -> Response:
        query = request.query_params
        after = (query.get("after_date", ""), query.get("after_time", ""), query.get("after_id", ""))
        refusal = self._admit(request, Action.WORKLIST_READ, "", None, Privilege.READ_WORKLIST)
        if refusal is not None:
            return refusal
        if not all(_PLACE.fullmatch(part) for part in after):
            return problem(400, "after_date, after_time and after_id are those of the last item of a page")
        principal = principal_of(request)
        everything = has_privilege(principal, Privilege.MANAGE_WORKLIST)
        entries = self._worklist.entries(
            limit=PAGE_ITEMS,
            after=after,
            institution=_institution(request),
            gateway_ids=None if everything else principal.gateway_ids,
        )
        return JSONResponse(
            {
                "items": [
                    {"item_id": entry.item_id, "gateways": list(entry.gateway_ids), "item": entry.item}
                    for entry in entries
                ],
                "page_items": PAGE_ITEMS,
            }
        )

    async def put(self, request: Request) -> Response:
        body = await body_within(request, _MAX_BODY_BYTES)
        if body is None:
            return problem(413, "the request is too large")
        return await run_in_threadpool(self._put, request, body)

    def _put(self, request: Request, body: bytes) -> Response:
        item_id = _item_id(request)
        if not has_privilege(principal_of(request), Privilege.MANAGE_WORKLIST):
            return self._admit(request, Action.WORKLIST_CHANGE, f"put {item_id}", None) or problem(403)
        try:
            entry = replace(_entry(item_id, body), institution=_institution(request))
            scheduled = scheduled_item(entry.item)
        except UnusableItemError as error:
            return problem(400, str(error))
        refusal = self._admit(request, Action.WORKLIST_CHANGE, f"put {item_id}", scheduled.study_instance_uid)
        if refusal is not None:
            return refusal
        try:
            is_new = self._worklist.put(entry, scheduled, datetime.now().astimezone().date())
            self._heed(request, scheduled)
        except WorklistFullError as error:
            return problem(507, str(error))
        except AuditUnavailableError:
            return unrecorded()
        return JSONResponse({"item_id": item_id}, 201 if is_new else 200)

    def _heed(self, request: Request, scheduled: Scheduled) -> None:
        study = scheduled.study_instance_uid

        def announce(usernames: Sequence[str]) -> None:
            detail = f"assigned by order to {', '.join(usernames)}"
            self._audit.record(audit_event(request, Action.ACCESS_CHANGE, "success", detail, study))

        self._ordering.heed(
            scheduled,
            institution=_institution(request),
            made_by=principal_of(request).username,
            announce=announce,
        )

    def delete(self, request: Request) -> Response:
        item_id = _item_id(request)
        refusal = self._admit(request, Action.WORKLIST_CHANGE, f"delete {item_id}", None)
        if refusal is not None:
            return refusal
        if self._worklist.remove(item_id, _institution(request)) is None:
            return problem(404, "there is no such item")
        return Response(status_code=204)

    def _admit(
        self,
        request: Request,
        action: Action,
        detail: str,
        study: str | None,
        needed: Privilege = Privilege.MANAGE_WORKLIST,
    ) -> Response | None:
        """Record what is to happen; the answer if it may not."""
        allowed = has_privilege(principal_of(request), needed)
        refusal = None if allowed else problem(403, "your role may not manage the worklist")
        concerned = (_institution(request),) if refusal is None else ()
        return admit(self._audit, request, refusal, action, detail, study, institutions=concerned)


def _institution(request: Request) -> str:
    """Whose worklist is meant: of an institution's people always their own."""
    own = managed(principal_of(request))
    return own if own is not None else request.query_params.get("institution", DEFAULT_INSTITUTION)


def _item_id(request: Request) -> str:
    return str(request.path_params["item_id"])


def _entry(item_id: str, body: bytes) -> Entry:
    if not _ITEM_ID.fullmatch(item_id):
        raise UnusableItemError("an item id has 1 to 64 of letters, digits, '.', '_' and '-'")
    try:
        wish: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnusableItemError("the body is not JSON") from error
    if not isinstance(wish, dict) or not isinstance(wish.get("item"), dict):
        raise UnusableItemError('send {"item": <DICOM JSON>, "gateways": [<gateway id>, ...]}')
    gateways = wish.get("gateways", [])
    if not isinstance(gateways, list) or len(gateways) > _MAX_GATEWAYS:
        raise UnusableItemError(f"gateways is a list of at most {_MAX_GATEWAYS} gateway ids")
    try:
        ids = tuple(check_gateway_id(str(gateway_id)) for gateway_id in gateways)
    except InvalidIdentifierError as error:
        raise UnusableItemError(str(error)) from error
    return Entry(item_id, ids, wish["item"])
