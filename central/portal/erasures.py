"""Erasing a study and legal hold, for administrators: what it would take, asked by one, confirmed by another.

Always true: of a study its date, modalities and numbers are shown, no image and nothing of its patient; nobody confirms
what they asked. What holds of every step is in `central.portal.study_steps`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import peewee
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.on_record import admit
from central.access.policy import Principal, managed
from central.access.problems import problem
from central.access.web import principal_of
from central.archive.archive import Archive
from central.archive.erasure_requests import ErasureRequests, Waiting
from central.archive.errors import StorageError
from central.archive.readmissions import Readmissions
from central.audit.events import Action
from central.audit.record import Audit
from central.portal.requests_desk import RequestsDesk, asked_json
from central.portal.study_steps import (
    NOT_HERE,
    may_not,
    nothing,
    reason_of,
    step,
    study_of,
    whose,
    with_times,
)
from central.portal.templating import page
from central.portal.wishes import NO_STORE, WrongWishError, with_wish

_LISTED: Final = 200  # of the erased ones, the newest
_log = logging.getLogger(__name__)


def routes(
    requests: ErasureRequests, readmissions: Readmissions, archive: Archive, audit: Audit
) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`."""
    desk = _Desk(requests, readmissions, archive, audit)
    return [
        Route("/erasing", desk.show, methods=["GET"]),
        Route("/api/erasures", desk.listed, methods=["GET"]),
        Route("/api/erasures", with_wish(desk.ask), methods=["POST"]),
        Route("/api/erasures/preview", with_wish(desk.preview), methods=["POST"]),
        Route("/api/erasures/waiting", desk.waiting, methods=["GET"]),
        Route("/api/erasures/{request_id}", desk.withdraw, methods=["DELETE"]),
        Route("/api/erasures/{request_id}/confirmation", with_wish(desk.confirm), methods=["POST"]),
        Route("/api/legal-holds", with_wish(desk.hold), methods=["POST"]),
        Route("/api/legal-holds/end", with_wish(desk.release), methods=["POST"]),
    ]


class _Desk(RequestsDesk[Waiting]):
    def __init__(
        self, requests: ErasureRequests, readmissions: Readmissions, archive: Archive, audit: Audit
    ) -> None:
        super().__init__(requests, audit, asking=Action.ERASE_REQUEST, doing=Action.ERASE)
        self._requests = requests
        self._readmissions = readmissions
        self._removal = archive.removal
        self._erasures = archive.erasures

    def show(self, request: Request) -> Response:
        principal = principal_of(request)
        if may_not(principal):
            return page("refused.html", principal, 403, path="/erasing")
        return page("erasing.html", principal, path="/erasing", whole_central=managed(principal) is None)

    def listed(self, request: Request) -> Response:
        """What waits for a confirmation, what is held, what was erased, and what of it is to be taken in again."""
        principal = principal_of(request)
        own = managed(principal)
        answer = admit(self._audit, request, may_not(principal), Action.SEARCH, "erasures and legal holds")
        if answer is not None:
            return answer
        return JSONResponse(
            {
                "waiting": [self._waiting_json(one, principal) for one in self._requests.listed(own)],
                "holds": [
                    with_times(asdict(one))
                    for one in reversed(self._erasures.holds())
                    if own in (None, one.institution)
                ],
                "erased": [
                    with_times(asdict(one))
                    for one in reversed(self._erasures.erased())
                    if own in (None, one.institution)
                ][:_LISTED],
                "readmissions": [asked_json(one, principal) for one in self._readmissions.listed(own)],
            },
            headers=NO_STORE,
        )

    def waiting(self, request: Request) -> Response:
        """How many requests wait for whoever asks this."""
        principal = principal_of(request)
        if (refusal := may_not(principal)) is not None:
            return refusal
        own = managed(principal)
        asked_by = [one.asked_by_id for one in self._requests.listed(own)]
        asked_by += [one.asked_by_id for one in self._readmissions.listed(own)]
        waiting = sum(asker != principal.user_id for asker in asked_by)
        return JSONResponse({"waiting": waiting}, headers=NO_STORE)

    def preview(self, request: Request, wish: Mapping[str, Any]) -> Response:
        study = study_of(wish)
        holder = whose(request, wish, self._erasures.holders(study))

        def show(institution: str) -> Response:
            extent = self._requests.extent(study, institution)
            if extent is None:
                return problem(404, NOT_HERE)
            hold = with_times(asdict(extent.hold)) if extent.hold is not None else None
            return JSONResponse({**asdict(extent), "hold": hold}, headers=NO_STORE)

        return step(
            self._audit, request, Action.SEARCH, study, holder, "what erasing would take", nothing, show
        )

    def ask(self, request: Request, wish: Mapping[str, Any]) -> Response:
        study, instances, reason = study_of(wish), _instances(wish), reason_of(wish)
        holder = whose(request, wish, self._erasures.holders(study))
        principal = principal_of(request)

        def check(institution: str) -> None:
            self._requests.require_askable(study, institution, instances)

        def ask(institution: str) -> Response:
            asked = self._requests.ask(
                study,
                institution,
                instances=instances,
                asked_by_id=principal.user_id,
                asked_by=principal.username,
                reason=reason,
            )
            return JSONResponse(self._waiting_json(asked, principal), 201, headers=NO_STORE)

        detail = f"asked: {instances} instances: {reason}"
        return step(self._audit, request, Action.ERASE_REQUEST, study, holder, detail, check, ask)

    def confirm(self, request: Request, wish: Mapping[str, Any]) -> Response:
        instances, principal = _instances(wish), principal_of(request)
        asked = self._asked(request)
        if asked is None:
            return self._no_such_request(request)

        def check(_institution: str) -> None:
            self._requests.require_confirmable(asked, principal.user_id, instances)

        def erase(_institution: str) -> Response:
            objects = self._requests.confirm(asked, principal.user_id, principal.username, instances)
            # Nothing opens them any more: the answer does not wait until the store has let them go.
            return JSONResponse(
                {"objects": objects}, headers=NO_STORE, background=BackgroundTask(self._remove)
            )

        detail = f"confirmed: {instances} instances, asked by {asked.asked_by}: {asked.reason}"
        return self._confirm(request, asked, detail, check, erase)

    def hold(self, request: Request, wish: Mapping[str, Any]) -> Response:
        study, reason = study_of(wish), reason_of(wish)
        holder = whose(request, wish, self._erasures.holders(study))

        def hold(institution: str) -> Response:
            self._erasures.hold(study, principal_of(request).username, reason, institution=institution)
            return Response(status_code=204)

        return step(self._audit, request, Action.LEGAL_HOLD, study, holder, f"set: {reason}", nothing, hold)

    def release(self, request: Request, wish: Mapping[str, Any]) -> Response:
        study, reason = study_of(wish), reason_of(wish)
        held = [one.institution for one in self._erasures.holds() if one.study_instance_uid == study]
        holder = whose(request, wish, held)

        def release(institution: str) -> Response:
            self._erasures.release(study, institution=institution)
            return Response(status_code=204)

        return step(
            self._audit, request, Action.LEGAL_HOLD, study, holder, f"ended: {reason}", nothing, release
        )

    def _waiting_json(self, one: Waiting, principal: Principal) -> dict[str, Any]:
        extent = self._requests.extent(one.study_instance_uid, one.institution)
        return {
            **asked_json(one, principal),
            "study_date": extent.study_date if extent else "",
            "modalities": extent.modalities if extent else (),
            "instances_now": extent.instances if extent else 0,
            "is_held": extent is not None and extent.hold is not None,
        }

    def _remove(self) -> None:
        try:
            self._removal.run()
        except (StorageError, OSError, peewee.PeeweeException) as error:
            _log.warning("event=erased-objects-stay error=%s; they are removed later", type(error).__name__)


def _instances(wish: Mapping[str, Any]) -> int:
    instances = wish.get("instances")
    if not isinstance(instances, int) or isinstance(instances, bool) or instances < 0:
        raise WrongWishError('send "instances": how many were shown to you')
    return instances
