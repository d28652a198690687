"""The account page: how somebody signs in, where they are signed in, and their password.

Always true: people see and end their own sessions only; a new password needs the old one and ends every session; what
is done is on record before it counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.claims import EXTERNAL
from central.access.doorkeeper import Doorkeeper
from central.access.errors import AccountError, OvertakenError, ThrottledError
from central.access.on_record import admit
from central.access.passkeys import Kept
from central.access.policy import Principal, Privilege, Role, has_privilege
from central.access.problems import problem
from central.access.sessions import Session
from central.access.web import principal_of, source_address, token_of
from central.audit.events import Action
from central.audit.record import Audit
from central.portal.templating import has_account, page
from central.portal.wishes import NO_STORE, WrongWishError, iso, with_wish


def routes(doorkeeper: Doorkeeper, audit: Audit) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`."""
    desk = _Desk(doorkeeper, audit)
    return [
        Route("/account", desk.show, methods=["GET"]),
        Route("/api/account", desk.tell, methods=["GET"]),
        Route("/api/account/password", with_wish(desk.change_password), methods=["POST"]),
        Route("/api/account/sessions/{session_id}", desk.end_session, methods=["DELETE"]),
    ]


def session_of(request: Request, doorkeeper: Doorkeeper) -> Session | None:
    """The session that `request` is made in; None if it ended meanwhile."""
    shown = token_of(request)
    return doorkeeper.accounts.sessions.find(*shown) if shown is not None else None


def fresh_session_of(request: Request, doorkeeper: Doorkeeper) -> Session | None:
    """The session that `request` is made in, if it began a short while ago: a screen left open is no way to stay in."""
    here = session_of(request, doorkeeper)
    return here if here is not None and doorkeeper.accounts.sessions.is_fresh(here) else None


def signs_in_here(principal: Principal) -> bool:
    """Whether what this person signs in with is kept here, and not at a provider."""
    return has_account(principal) and not principal.user_id.startswith(EXTERNAL)


class _Desk:
    def __init__(self, doorkeeper: Doorkeeper, audit: Audit) -> None:
        self._doorkeeper = doorkeeper
        self._accounts = doorkeeper.accounts
        self._audit = audit

    def show(self, request: Request) -> Response:
        principal = principal_of(request)
        if not has_account(principal):
            return page("refused.html", principal, 403, path="/account")
        return page(
            "account.html",
            principal,
            path="/account",
            signs_in_here=signs_in_here(principal),
            must_enrol=self._doorkeeper.must_enrol(principal),
            passkeys=self._doorkeeper.passkeys.are_possible,
            may_reset=has_privilege(principal, Privilege.MANAGE_ACCESS),
        )

    def tell(self, request: Request) -> Response:
        principal = principal_of(request)
        here = session_of(request, self._doorkeeper)
        if not has_account(principal) or here is None:
            return problem(403, "a guest has no account")
        held = self._accounts.factors.held(principal.user_id)
        answer = {
            "is_fresh": self._accounts.sessions.is_fresh(here),
            "must_enrol": self._doorkeeper.must_enrol(principal),
            "app": held.app,
            "recovery_codes": held.recovery_codes,
            "passkeys": [passkey_json(one) for one in self._doorkeeper.passkeys.of(principal.user_id)],
            "sessions": [
                session_json(one) | {"is_this": one.session_id == here.session_id}
                for one in self._accounts.sessions.of(principal.user_id)
            ],
        }
        return JSONResponse(answer, headers=NO_STORE)

    def change_password(self, request: Request, wish: Mapping[str, Any]) -> Response:
        current, new = wish.get("current"), wish.get("new")
        if not (isinstance(current, str) and isinstance(new, str)):
            raise WrongWishError('send {"current": "…", "new": "…"}')
        principal, here = principal_of(request), session_of(request, self._doorkeeper)
        try:
            refusal = self._why_no_new_password(principal, current, source_address(request))
            if here is None:
                refusal = problem(403, "your session has ended")
        except ThrottledError as error:
            refusal = problem(429, str(error), {"Retry-After": str(error.retry_after_s)})
        answer = admit(self._audit, request, refusal, Action.USER_CHANGE, "the own password")
        if answer is not None:
            return answer
        try:
            self._accounts.set_password(principal.username, new, here)
        except AccountError as error:
            return problem(400, str(error))
        except OvertakenError as error:
            return problem(409, f"your session was {error}")
        return Response(status_code=204)

    def _why_no_new_password(self, principal: Principal, current: str, address: str) -> Response | None:
        if not signs_in_here(principal):
            return problem(403, "you have no password here")
        if not self._accounts.passwords.is_password_of(principal, current, address):
            return problem(403, "that is not your password")
        return None

    def end_session(self, request: Request) -> Response:
        principal, session_id = principal_of(request), str(request.path_params["session_id"])
        mine = {one.session_id for one in self._accounts.sessions.of(principal.user_id)}
        refusal = None
        if session_id not in mine or principal.role is Role.GUEST:
            refusal = problem(404, "there is no such session of yours")
        answer = admit(self._audit, request, refusal, Action.SIGN_OUT, f"end session {session_id[:16]}")
        if answer is not None:
            return answer
        self._accounts.sessions.end_one(principal.user_id, session_id)
        return Response(status_code=204)


def passkey_json(kept: Kept) -> dict[str, Any]:
    used = kept.last_used_at_utc
    return {
        "passkey_id": kept.passkey_id,
        "name": kept.name,
        "made_at_utc": iso(kept.made_at_utc),
        "last_used_at_utc": iso(used) if used is not None else None,
    }


def session_json(session: Session) -> dict[str, Any]:
    """Where somebody is signed in, for who may end it."""
    return {
        "session_id": session.session_id,
        "is_of_a_program": session.kind == "bearer",
        "started_at_utc": iso(session.started_at_utc),
        "expires_at_utc": iso(session.expires_at_utc),
        "means": session.arrival.means,
        "source_address": session.arrival.source_address,
        "browser": session.arrival.browser,
    }
