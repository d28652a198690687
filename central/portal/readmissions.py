"""An erased study taken in again: asked for by one administrator, confirmed by another.

Always true: nobody confirms what they asked. What holds of every step is in `central.portal.study_steps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.web import principal_of
from central.archive.erasure import Erasures
from central.archive.errors import ErasureRefusedError, StorageError
from central.archive.readmissions import Readmissions
from central.archive.second_person import Asked
from central.audit.events import Action
from central.audit.record import Audit
from central.portal.requests_desk import RequestsDesk, asked_json
from central.portal.study_steps import reason_of, step, study_of, whose
from central.portal.wishes import NO_STORE, with_wish


def routes(readmissions: Readmissions, erasures: Erasures, audit: Audit) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`. What waits is listed with what was erased (`central.portal.erasures`)."""
    desk = _Desk(readmissions, erasures, audit)
    return [
        Route("/api/readmissions", with_wish(desk.ask), methods=["POST"]),
        Route("/api/readmissions/{request_id}", desk.withdraw, methods=["DELETE"]),
        Route("/api/readmissions/{request_id}/confirmation", desk.confirm, methods=["POST"]),
    ]


class _Desk(RequestsDesk[Asked]):
    def __init__(self, readmissions: Readmissions, erasures: Erasures, audit: Audit) -> None:
        super().__init__(readmissions, audit, asking=Action.READMIT_REQUEST, doing=Action.READMIT)
        self._readmissions = readmissions
        self._erasures = erasures

    def ask(self, request: Request, wish: Mapping[str, Any]) -> Response:
        study, reason, principal = study_of(wish), reason_of(wish), principal_of(request)
        erased = [one.institution for one in self._erasures.erased() if one.study_instance_uid == study]
        holder = whose(request, wish, erased)

        def check(institution: str) -> None:
            self._readmissions.require_askable(study, institution)

        def ask(institution: str) -> Response:
            asked = self._readmissions.ask(
                study,
                institution,
                asked_by_id=principal.user_id,
                asked_by=principal.username,
                reason=reason,
            )
            return JSONResponse(asked_json(asked, principal), 201, headers=NO_STORE)

        detail = f"asked: {reason}"
        return step(self._audit, request, Action.READMIT_REQUEST, study, holder, detail, check, ask)

    def confirm(self, request: Request) -> Response:
        """Take it in again."""
        asked, principal = self._asked(request), principal_of(request)
        if asked is None:
            return self._no_such_request(request)

        def check(_institution: str) -> None:
            self._readmissions.require_another(asked, principal.user_id)

        def allow(_institution: str) -> Response:
            try:
                self._readmissions.confirm(asked, principal.user_id)
            except (StorageError, OSError):
                raise ErasureRefusedError("erased objects are still in the store: try again later") from None
            return Response(status_code=204)

        detail = f"confirmed: asked by {asked.asked_by}: {asked.reason}"
        return self._confirm(request, asked, detail, check, allow)
