"""Erasing a study and legal hold, for administrators: what it would take, asked by one, confirmed by another.

Always true: each step, with its reason, is on record before it is done, and what is refused is on record as well. Of a
study its date, modalities and numbers are shown, no image and nothing of its patient. An administrator of one
institution reaches that one's studies alone; of another one's it is not said whether there are any.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import peewee
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.policy import Principal, Privilege, has_privilege, managed
from central.access.problems import problem
from central.access.web import principal_of
from central.archive.archive import Archive
from central.archive.erasure_requests import ErasureRequests, Waiting, check_reason
from central.archive.errors import ErasureRefusedError, StorageError
from central.audit.record import Action, Audit
from central.portal.templating import page
from central.portal.wishes import NO_STORE, admit, iso, wish_of
from contract.identifiers import InvalidIdentifierError, check_uid

_LISTED: Final = 200  # of the erased ones, the newest
_NOT_HERE: Final = "there is no such study"
_log = logging.getLogger(__name__)


class _WrongError(Exception):
    """A wish that cannot be; the sentence says why."""


def routes(requests: ErasureRequests, archive: Archive, audit: Audit) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`."""
    desk = _Desk(requests, archive, audit)
    return [
        Route("/erasing", desk.show, methods=["GET"]),
        Route("/api/erasures", desk.listed, methods=["GET"]),
        Route("/api/erasures", desk.ask, methods=["POST"]),
        Route("/api/erasures/preview", desk.preview, methods=["POST"]),
        Route("/api/erasures/waiting", desk.waiting, methods=["GET"]),
        Route("/api/erasures/{request_id}", desk.withdraw, methods=["DELETE"]),
        Route("/api/erasures/{request_id}/confirmation", desk.confirm, methods=["POST"]),
        Route("/api/legal-holds", desk.hold, methods=["POST"]),
        Route("/api/legal-holds/end", desk.release, methods=["POST"]),
    ]


class _Desk:
    def __init__(self, requests: ErasureRequests, archive: Archive, audit: Audit) -> None:
        self._requests = requests
        self._removal = archive.removal
        self._erasures = archive.erasures
        self._audit = audit

    def show(self, request: Request) -> Response:
        principal = principal_of(request)
        if _may_not(principal):
            return page("refused.html", principal, 403, path="/erasing")
        return page("erasing.html", principal, path="/erasing", whole_central=managed(principal) is None)

    def listed(self, request: Request) -> Response:
        """What waits for a confirmation, what is held, and what was erased."""
        principal = principal_of(request)
        own = managed(principal)
        answer = admit(self._audit, request, _may_not(principal), Action.SEARCH, "erasures and legal holds")
        if answer is not None:
            return answer
        return JSONResponse(
            {
                "waiting": [self._waiting_json(one, principal) for one in self._requests.listed(own)],
                "holds": [
                    _with_times(asdict(one))
                    for one in reversed(self._erasures.holds())
                    if own in (None, one.institution)
                ],
                "erased": [
                    _with_times(asdict(one))
                    for one in reversed(self._erasures.erased())
                    if own in (None, one.institution)
                ][:_LISTED],
            },
            headers=NO_STORE,
        )

    def waiting(self, request: Request) -> Response:
        """How many requests wait for whoever asks this."""
        principal = principal_of(request)
        if (refusal := _may_not(principal)) is not None:
            return refusal
        listed = self._requests.listed(managed(principal))
        return JSONResponse(
            {"waiting": sum(one.asked_by_id != principal.user_id for one in listed)}, headers=NO_STORE
        )

    async def preview(self, request: Request) -> Response:
        return await _with_wish(request, self._preview)

    async def ask(self, request: Request) -> Response:
        return await _with_wish(request, self._ask)

    async def confirm(self, request: Request) -> Response:
        return await _with_wish(request, self._confirm)

    async def hold(self, request: Request) -> Response:
        return await _with_wish(request, self._hold)

    async def release(self, request: Request) -> Response:
        return await _with_wish(request, self._release)

    def _preview(self, request: Request, wish: Mapping[str, Any]) -> Response:
        study = _study(wish)
        whose = self._whose(request, wish, self._erasures.holders(study))

        def show(institution: str) -> Response:
            extent = self._requests.extent(study, institution)
            if extent is None:
                return problem(404, _NOT_HERE)
            hold = _with_times(asdict(extent.hold)) if extent.hold is not None else None
            return JSONResponse({**asdict(extent), "hold": hold}, headers=NO_STORE)

        return self._step(request, Action.SEARCH, study, whose, "what erasing would take", _nothing, show)

    def _ask(self, request: Request, wish: Mapping[str, Any]) -> Response:
        study, instances, reason = _study(wish), _instances(wish), _reason(wish)
        whose = self._whose(request, wish, self._erasures.holders(study))
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
        return self._step(request, Action.ERASE, study, whose, detail, check, ask)

    def _confirm(self, request: Request, wish: Mapping[str, Any]) -> Response:
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
        return self._step(
            request, Action.ERASE, asked.study_instance_uid, asked.institution, detail, check, erase
        )

    def withdraw(self, request: Request) -> Response:
        """Take a request back, one's own or somebody else's."""
        asked = self._asked(request)
        if asked is None:
            return self._no_such_request(request)

        def withdraw(_institution: str) -> Response:
            if not self._requests.withdraw(asked.request_id):
                raise ErasureRefusedError("it was confirmed or taken back meanwhile")
            return Response(status_code=204)

        detail = f"taken back: asked by {asked.asked_by}: {asked.reason}"
        return self._step(
            request, Action.ERASE, asked.study_instance_uid, asked.institution, detail, _nothing, withdraw
        )

    def _hold(self, request: Request, wish: Mapping[str, Any]) -> Response:
        study, reason = _study(wish), _reason(wish)
        whose = self._whose(request, wish, self._erasures.holders(study))

        def hold(institution: str) -> Response:
            self._erasures.hold(study, principal_of(request).username, reason, institution=institution)
            return Response(status_code=204)

        return self._step(request, Action.LEGAL_HOLD, study, whose, f"set: {reason}", _nothing, hold)

    def _release(self, request: Request, wish: Mapping[str, Any]) -> Response:
        study, reason = _study(wish), _reason(wish)
        held = [one.institution for one in self._erasures.holds() if one.study_instance_uid == study]
        whose = self._whose(request, wish, held)

        def release(institution: str) -> Response:
            self._erasures.release(study, institution=institution)
            return Response(status_code=204)

        return self._step(request, Action.LEGAL_HOLD, study, whose, f"ended: {reason}", _nothing, release)

    def _step(
        self,
        request: Request,
        action: Action,
        study: str,
        whose: str | Response,
        detail: str,
        check: Callable[[str], None],
        do: Callable[[str], Response],
    ) -> Response:
        """Do something about the study of an institution, on record before; what is refused is on record, too.

        Parameters
        ----------
        whose : the institution, or the answer where there is none.
        check, do : either may raise ErasureRefusedError.
        """
        refusal = _may_not(principal_of(request))
        concerned: tuple[str, ...] = ()
        if isinstance(whose, Response):
            refusal = refusal or whose
        elif refusal is None:
            concerned = (whose,)
            try:
                check(whose)
            except ErasureRefusedError as error:
                refusal, detail = problem(409, str(error)), f"{error}; {detail}"
        answer = admit(self._audit, request, refusal, action, detail, study, institutions=concerned)
        if answer is not None:
            return answer
        assert isinstance(whose, str), "an answer is a refusal"
        try:
            return do(whose)
        except ErasureRefusedError as error:
            refusal = problem(409, str(error))
            refused = f"{error}; {detail}"
            return (
                admit(self._audit, request, refusal, action, refused, study, institutions=concerned)
                or refusal
            )

    def _whose(self, request: Request, wish: Mapping[str, Any], have: Sequence[str]) -> str | Response:
        """The institution whose study is meant, of those that have it: the own, the named one, or the only one."""
        own = managed(principal_of(request))
        named = wish.get("institution") or own
        if own is not None:
            have = [one for one in have if one == own]
        if named is not None:
            return str(named) if named in have else problem(404, _NOT_HERE)
        if len(have) > 1:
            return problem(
                409, f"several institutions have this study ({', '.join(have)}): say whose is meant"
            )
        return have[0] if have else problem(404, _NOT_HERE)

    def _asked(self, request: Request) -> Waiting | None:
        principal = principal_of(request)
        if _may_not(principal) is not None:
            return None
        return self._requests.get(str(request.path_params["request_id"]), managed(principal))

    def _no_such_request(self, request: Request) -> Response:
        refusal = _may_not(principal_of(request)) or problem(404, "there is no such request that waits")
        detail = f"request {str(request.path_params['request_id'])[:64]}"
        return admit(self._audit, request, refusal, Action.ERASE, detail) or refusal

    def _waiting_json(self, one: Waiting, principal: Principal) -> dict[str, Any]:
        extent = self._requests.extent(one.study_instance_uid, one.institution)
        said = {name: value for name, value in asdict(one).items() if name != "asked_by_id"}
        return {
            **_with_times(said),
            "until_utc": iso(int(one.until_s)),
            "is_mine": one.asked_by_id == principal.user_id,
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


async def _with_wish(request: Request, answer: Callable[[Request, Mapping[str, Any]], Response]) -> Response:
    wish = await wish_of(request)
    try:
        return await run_in_threadpool(answer, request, wish)
    except _WrongError as error:
        return problem(400, str(error))


def _may_not(principal: Principal) -> Response | None:
    if has_privilege(principal, Privilege.ERASE_STUDIES):
        return None
    return problem(403, "your role may not erase studies, or hold them")


def _study(wish: Mapping[str, Any]) -> str:
    try:
        return check_uid(str(wish.get("study_instance_uid", "")).strip(), "study_instance_uid")
    except InvalidIdentifierError as error:
        raise _WrongError(str(error)) from error


def _reason(wish: Mapping[str, Any]) -> str:
    try:
        return check_reason(str(wish.get("reason", "")))
    except ErasureRefusedError as error:
        raise _WrongError(str(error)) from error


def _instances(wish: Mapping[str, Any]) -> int:
    instances = wish.get("instances")
    if not isinstance(instances, int) or isinstance(instances, bool) or instances < 0:
        raise _WrongError('send "instances": how many were shown to you')
    return instances


def _nothing(_institution: str) -> None: ...


def _with_times(said: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds since 1970 as ISO 8601 times; ``…_at_s`` becomes ``…_at_utc``."""
    return {
        name.removesuffix("_s") + "_utc" if name.endswith("_at_s") else name: (
            iso(int(value)) if name.endswith("_at_s") else value
        )
        for name, value in said.items()
    }
