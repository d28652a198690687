"""What pages do alike with requests that a second person confirms: found, told of, taken back, each on record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Generic

from starlette.requests import Request
from starlette.responses import Response

from central.access.on_record import admit
from central.access.policy import Principal, managed
from central.access.problems import problem
from central.access.web import principal_of
from central.archive.errors import ErasureRefusedError
from central.archive.second_person import Asked, AskedT, Requests
from central.audit.events import Action
from central.audit.record import Audit
from central.portal.study_steps import may_not, nothing, step, with_times
from central.portal.wishes import iso


def asked_json(one: Asked, principal: Principal) -> dict[str, Any]:
    """A request that waits, as `principal` is told it."""
    said = {name: value for name, value in asdict(one).items() if name != "asked_by_id"}
    return {
        **with_times(said),
        "until_utc": iso(int(one.until_s)),
        "is_mine": one.asked_by_id == principal.user_id,
    }


class RequestsDesk(Generic[AskedT]):
    """The routes that name a request.

    Parameters
    ----------
    asking, doing : what it is on record to ask for it or take that back, and what to confirm it, which does it.
    """

    def __init__(self, requests: Requests[AskedT], audit: Audit, *, asking: Action, doing: Action) -> None:
        self._of_two = requests
        self._audit = audit
        self._asking = asking
        self._doing = doing

    def withdraw(self, request: Request) -> Response:
        """Take a request back, one's own or somebody else's."""
        asked = self._asked(request)
        if asked is None:
            return self._no_such_request(request)

        def withdraw(_institution: str) -> Response:
            if not self._of_two.withdraw(asked.request_id):
                raise ErasureRefusedError("it was confirmed or taken back meanwhile")
            return Response(status_code=204)

        detail = f"taken back: asked by {asked.asked_by}: {asked.reason}"
        return self._step(request, self._asking, asked, detail, nothing, withdraw)

    def _confirm(
        self,
        request: Request,
        asked: AskedT,
        detail: str,
        check: Callable[[str], None],
        do: Callable[[str], Response],
    ) -> Response:
        """Do what was asked for."""
        return self._step(request, self._doing, asked, detail, check, do)

    def _step(
        self,
        request: Request,
        action: Action,
        asked: AskedT,
        detail: str,
        check: Callable[[str], None],
        do: Callable[[str], Response],
    ) -> Response:
        """See `study_steps.step`."""
        return step(
            self._audit,
            request,
            action,
            asked.study_instance_uid,
            asked.institution,
            detail,
            check,
            do,
        )

    def _asked(self, request: Request) -> AskedT | None:
        principal = principal_of(request)
        if may_not(principal) is not None:
            return None
        return self._of_two.get(str(request.path_params["request_id"]), managed(principal))

    def _no_such_request(self, request: Request) -> Response:
        refusal = may_not(principal_of(request)) or problem(404, "there is no such request that waits")
        detail = f"request {str(request.path_params['request_id'])[:64]}"
        return admit(self._audit, request, refusal, self._asking, detail) or refusal
