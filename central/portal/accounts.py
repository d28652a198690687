"""Accounts, for who manages access: who they are, where they are signed in, blocked and let in again, and which
departments and boxes they belong to.

Always true: each step is on record before it counts. An administrator of one institution reaches that one's accounts;
another's answer like those that are not there. Nobody blocks the own account. Accounts are not made here and get no
password: who could do that alone could make one that sees images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.account_directory import Listed
from central.access.claims import EXTERNAL
from central.access.doorkeeper import Doorkeeper
from central.access.errors import AccountError
from central.access.on_record import admit
from central.access.policy import Principal, Privilege, Role, has_privilege, managed
from central.access.problems import problem
from central.access.web import principal_of
from central.audit.events import Action
from central.audit.record import Audit
from central.portal.account import session_json
from central.portal.templating import page
from central.portal.wishes import NO_STORE, WrongWishError, with_wish

PAGE_ROWS: Final = 100
_MAX_NAME_CHARACTERS: Final = 64
_AT_PLACES: Final = (Role.DOCTOR, Role.TECHNICIAN)


def routes(
    doorkeeper: Doorkeeper, audit: Audit, is_box: Callable[[str, str | None], bool]
) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`. `is_box`: whether there is a gateway of that id, in that institution."""
    desk = _Desk(doorkeeper, audit, is_box)
    return [
        Route("/accounts", desk.show, methods=["GET"]),
        Route("/api/accounts/search", with_wish(desk.search), methods=["POST"]),
        Route("/api/accounts/sessions", with_wish(desk.sessions), methods=["POST"]),
        Route("/api/accounts/sign-out", with_wish(desk.sign_out), methods=["POST"]),
        Route("/api/accounts/block", with_wish(desk.block), methods=["POST"]),
        Route("/api/accounts/unblock", with_wish(desk.unblock), methods=["POST"]),
        Route("/api/accounts/places", with_wish(desk.place), methods=["POST"]),
    ]


class _Desk:
    def __init__(
        self, doorkeeper: Doorkeeper, audit: Audit, is_box: Callable[[str, str | None], bool]
    ) -> None:
        self._accounts = doorkeeper.accounts
        self._audit = audit
        self._is_box = is_box

    def show(self, request: Request) -> Response:
        principal = principal_of(request)
        if _may_not(principal):
            return page("refused.html", principal, 403, path="/accounts")
        return page("accounts.html", principal, path="/accounts")

    def search(self, request: Request, wish: Mapping[str, Any]) -> Response:
        """A page of accounts by name, of those whose name has this in it."""
        part, after = _text(wish, "name"), _text(wish, "after", optional=True)
        principal = principal_of(request)
        answer = admit(self._audit, request, _may_not(principal), Action.SEARCH, f"accounts: {part}".strip())
        if answer is not None:
            return answer
        found = self._accounts.listed(
            part=part, institution=managed(principal), after=after, limit=PAGE_ROWS + 1
        )
        shown = found[:PAGE_ROWS]
        return JSONResponse(
            {
                "accounts": [_json(one, principal) for one in shown],
                "next_after": shown[-1].username if len(found) > PAGE_ROWS else None,
            },
            headers=NO_STORE,
        )

    def sessions(self, request: Request, wish: Mapping[str, Any]) -> Response:
        username = _text(wish, "username")

        def tell(one: Listed) -> Response:
            sessions = [session_json(session) for session in self._accounts.sessions.of(one.user_id)]
            return JSONResponse({"sessions": sessions}, headers=NO_STORE)

        return self._step(request, username, Action.SEARCH, f"sessions of {username}", tell)

    def sign_out(self, request: Request, wish: Mapping[str, Any]) -> Response:
        """End one session, or all of them and the API tokens."""
        username, session_id = _text(wish, "username"), _text(wish, "session_id", optional=True)

        def end(one: Listed) -> Response:
            if not session_id:
                self._accounts.sign_out(one.username)
            elif not self._accounts.sessions.end_one(one.user_id, session_id):
                return problem(404, "this session has ended already")
            return Response(status_code=204)

        what = f"session {session_id[:16]} of {username}" if session_id else username
        return self._step(request, username, Action.USER_CHANGE, f"sign out {what}", end)

    def block(self, request: Request, wish: Mapping[str, Any]) -> Response:
        username = _text(wish, "username")

        def block(one: Listed) -> Response:
            self._accounts.block(one.username)
            return Response(status_code=204)

        return self._step(request, username, Action.USER_CHANGE, f"block {username}", block, _not_oneself)

    def unblock(self, request: Request, wish: Mapping[str, Any]) -> Response:
        username = _text(wish, "username")

        def unblock(one: Listed) -> Response:
            self._accounts.unblock(one.username)
            return Response(status_code=204)

        return self._step(request, username, Action.USER_CHANGE, f"unblock {username}", unblock)

    def place(self, request: Request, wish: Mapping[str, Any]) -> Response:
        """Say which departments and boxes somebody belongs to."""
        username = _text(wish, "username")
        departments, boxes = _names(wish, "departments"), _names(wish, "gateway_ids")

        def place(one: Listed) -> Response:
            try:
                self._accounts.change(one.username, departments=departments, gateway_ids=boxes)
            except AccountError as error:
                return problem(400, str(error))
            changed = self._accounts.named(one.username)
            assert changed is not None, "accounts stay"
            return JSONResponse(_json(changed, principal_of(request)), headers=NO_STORE)

        def why_not(_principal: Principal, one: Listed) -> Response | None:
            if one.role not in _AT_PLACES:
                return problem(409, "departments and boxes are for doctors and technicians")
            # The boxes of the account's own institution: another one's are not there for it.
            unknown = [box for box in boxes if not self._is_box(box, one.institution)]
            return problem(404, f"there is no box {unknown[0]}") if unknown else None

        detail = f"change {username}: departments {departments}, gateway_ids {boxes}"
        return self._step(request, username, Action.USER_CHANGE, detail, place, why_not)

    def _step(
        self,
        request: Request,
        username: str,
        action: Action,
        detail: str,
        do: Callable[[Listed], Response],
        why_not: Callable[[Principal, Listed], Response | None] = lambda _principal, _one: None,
    ) -> Response:
        """Do something with an account, on record before; of one that is not to be had nothing is told."""
        principal = principal_of(request)
        refusal, one = _may_not(principal), None
        if refusal is None:
            one = self._accounts.named(username, managed(principal))
            refusal = problem(404, f"there is no user {username}") if one is None else why_not(principal, one)
        concerned = (one.institution,) if one is not None and refusal is None else ()
        answer = admit(self._audit, request, refusal, action, detail, institutions=concerned)
        if answer is not None:
            return answer
        assert one is not None, "who is not there was refused"
        return do(one)


def _may_not(principal: Principal) -> Response | None:
    if has_privilege(principal, Privilege.MANAGE_ACCESS):
        return None
    return problem(403, "your role may not manage accounts")


def _not_oneself(principal: Principal, one: Listed) -> Response | None:
    if one.user_id == principal.user_id:
        return problem(409, "nobody blocks the own account: ask another administrator")
    return None


def _text(wish: Mapping[str, Any], name: str, *, optional: bool = False) -> str:
    value = wish.get(name, "" if optional else None)
    if not isinstance(value, str) or len(value) > _MAX_NAME_CHARACTERS:
        raise WrongWishError(f'send "{name}", at most {_MAX_NAME_CHARACTERS} characters')
    return value.strip().lower()


def _names(wish: Mapping[str, Any], name: str) -> list[str]:
    names = wish.get(name)
    if not (isinstance(names, list) and all(isinstance(one, str) for one in names)):
        raise WrongWishError(f'send "{name}": a list, which may be empty')
    return [one.strip() for one in names if one.strip()]


def _json(one: Listed, caller: Principal) -> dict[str, Any]:
    return {
        "username": one.username,
        "role": one.role.value,
        "institution": one.institution,
        "is_blocked": one.is_blocked,
        "is_own": one.user_id == caller.user_id,
        "is_of_a_provider": one.user_id.startswith(EXTERNAL),
        "departments": one.departments,
        "gateway_ids": one.gateway_ids,
        "has_places": one.role in _AT_PLACES,
        "second_factors": str(one.held),
    }
