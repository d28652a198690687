"""API tokens: their owner makes, lists and ends them; an administrator lists and ends everybody's.

Always true: making and ending are on record before they count; the secret is in one answer and nowhere else. Only who
signed in a short while ago makes one: it lets somebody in for as long as a year.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.account_directory import people_of
from central.access.api_tokens import DEFAULT_DAYS, Token
from central.access.doorkeeper import Doorkeeper
from central.access.errors import AccessRuleError, OvertakenError
from central.access.on_record import admit
from central.access.policy import Action, Privilege, delegable, has_privilege, managed
from central.access.problems import problem
from central.access.sessions import FRESH_S
from central.access.web import principal_of
from central.audit.record import Audit
from central.portal.account import fresh_session_of
from central.portal.templating import may_use_tokens, page
from central.portal.wishes import NO_STORE, WrongWishError, iso, with_wish

_STALE: Final = f"you signed in more than {FRESH_S // 60} minutes ago: sign in again to make a token"


def routes(doorkeeper: Doorkeeper, audit: Audit) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`."""
    desk = _Desk(doorkeeper, audit)
    return [
        Route("/tokens", desk.show, methods=["GET"]),
        Route("/api/tokens", desk.listed, methods=["GET"]),
        Route("/api/tokens", with_wish(desk.make), methods=["POST"]),
        Route("/api/tokens/{token_id}", desk.end, methods=["DELETE"]),
    ]


class _Desk:
    def __init__(self, doorkeeper: Doorkeeper, audit: Audit) -> None:
        self._doorkeeper = doorkeeper
        self._audit = audit

    def show(self, request: Request) -> Response:
        principal = principal_of(request)
        if not may_use_tokens(principal):
            return page("refused.html", principal, 403, path="/tokens")
        actions = sorted(delegable(principal))
        return page("tokens.html", principal, path="/tokens", actions=actions)

    def listed(self, request: Request) -> Response:
        principal = principal_of(request)
        if not may_use_tokens(principal):
            return problem(403, "your role has no tokens")
        everybodys = has_privilege(principal, Privilege.MANAGE_ACCESS)
        institution = managed(principal)
        owners = people_of(institution) if everybodys and institution is not None else None
        tokens = self._doorkeeper.tokens.listed(None if everybodys else principal.user_id, owners)
        return JSONResponse({"tokens": [self._json(token) for token in tokens]}, headers=NO_STORE)

    def make(self, request: Request, wish: Mapping[str, Any]) -> Response:
        label, days, names = wish.get("label"), wish.get("days", DEFAULT_DAYS), wish.get("actions")
        if not (isinstance(label, str) and type(days) is int and isinstance(names, list)):
            raise WrongWishError('send {"label": "…", "actions": ["search", "view", "export"], "days": 90}')
        try:
            actions = frozenset(Action(name) for name in names)
        except ValueError:
            raise WrongWishError("actions are search, view and export") from None
        label, principal = label.strip(), principal_of(request)
        here, refusal = fresh_session_of(request, self._doorkeeper), None
        if not actions <= delegable(principal):
            refusal = problem(403, "your role cannot pass this on")
        elif here is None:
            refusal = problem(403, _STALE)
        detail = f"make for {days} days to {' '.join(sorted(actions))}: {label}"
        answer = admit(self._audit, request, refusal, Action.TOKEN_CHANGE, detail)
        if answer is not None:
            return answer
        try:
            with self._doorkeeper.accounts.sessions.standing(here):
                token, secret = self._doorkeeper.tokens.make(principal.user_id, label, actions, days)
        except AccessRuleError as error:
            return problem(400, str(error))
        except OvertakenError as error:
            return problem(409, f"your session was {error}")
        return JSONResponse({**self._json(token), "token": secret}, 201, headers=NO_STORE)

    def end(self, request: Request) -> Response:
        principal = principal_of(request)
        token = self._doorkeeper.tokens.get(str(request.path_params["token_id"]))
        mine = token is not None and (
            token.user_id == principal.user_id
            or (
                has_privilege(principal, Privilege.MANAGE_ACCESS)
                and self._doorkeeper.accounts.is_of(token.user_id, managed(principal))
            )
        )
        if token is None or not mine:
            refusal = problem(404, "there is no such token of yours")
            return admit(self._audit, request, refusal, Action.TOKEN_CHANGE, "end") or refusal
        detail = f"end {token.token_id}: {token.label}"
        owner = self._doorkeeper.accounts.account(token.user_id)
        concerned = (owner.institution,) if owner is not None else ()
        answer = admit(self._audit, request, None, Action.TOKEN_CHANGE, detail, institutions=concerned)
        if answer is not None:
            return answer
        self._doorkeeper.tokens.end(token.token_id)
        return Response(status_code=204)

    def _json(self, token: Token) -> dict[str, Any]:
        owner = self._doorkeeper.accounts.account(token.user_id)
        used = token.last_used_at_utc
        return {
            "token_id": token.token_id,
            "owner": owner.username if owner is not None else "",
            "label": token.label,
            "actions": sorted(token.actions),
            "made_at_utc": iso(token.made_at_utc),
            "expires_at_utc": iso(token.expires_at_utc),
            "last_used_at_utc": iso(used) if used is not None else None,
        }
