"""Signing in with a passkey: a challenge for this browser, and the answer to it.

Always true: the challenge is bound to a cookie of the browser that asked for it, so an answer that was taken elsewhere
signs nobody in here; every answer is on record before a session exists; why one was refused is in the record only.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.challenges import LIFE_S
from central.access.doorkeeper import Doorkeeper
from central.access.errors import FactorChangeError, OvertakenError, PasskeyRefusedError, ThrottledError
from central.access.problems import problem, unrecorded
from central.access.sign_in import sign_in_event, told_to_wait
from central.access.web import arrival_of, page_of, source_address
from central.audit.errors import AuditUnavailableError
from central.audit.record import Audit
from central.audit.refusals import OF_A_STRANGER, Refusals
from central.portal.sign_in import let_in
from central.portal.wishes import NO_STORE, WrongWishError, with_wish

_COOKIE_NAME: Final = "dicomnet_passkey"
_PATH: Final = "/api/signin/passkey"
_REFUSED: Final = "This passkey does not sign you in. Try again, or sign in with your password."


def routes(doorkeeper: Doorkeeper, audit: Audit, cookie_life_s: int) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`, which lets everybody reach them. A session lives `cookie_life_s` seconds."""
    refusals = Refusals(audit, role="", of_an_address=OF_A_STRANGER)

    def options(request: Request) -> Response:
        if page_of(request) == "foreign":
            return problem(403, "sign in from our own page, please")
        binding = secrets.token_urlsafe(32)
        try:
            asked = doorkeeper.passkeys.sign_in_options(binding)
        except FactorChangeError as error:
            return problem(404, str(error))
        response = JSONResponse(asked, headers=NO_STORE)
        response.set_cookie(
            _COOKIE_NAME,
            binding,
            max_age=LIFE_S,
            path=_PATH,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response

    def enter(request: Request, wish: Mapping[str, Any]) -> Response:
        if page_of(request) == "foreign":
            return problem(403, "sign in from our own page, please")
        credential = wish.get("credential")
        if not isinstance(credential, dict):
            raise WrongWishError('send {"credential": {…}}')
        address = source_address(request)
        try:
            binding = request.cookies.get(_COOKIE_NAME, "")
            user_id = doorkeeper.passkeys.prove(credential, binding, address)
            admitted = doorkeeper.accounts.admit_passkey(user_id)
            audit.record(sign_in_event(admitted.principal.username, admitted.principal, address, "passkey"))
        except FactorChangeError as error:
            return problem(404, str(error))
        except ThrottledError as error:
            told_to_wait(refusals, "", address)
            return problem(429, str(error), {"Retry-After": str(error.retry_after_s)})
        except PasskeyRefusedError as error:
            return refuse(address, error)
        except AuditUnavailableError:
            return unrecorded()
        response = Response(status_code=204)
        response.delete_cookie(_COOKIE_NAME, path=_PATH)
        sessions, arrival = doorkeeper.accounts.sessions, arrival_of(request, admitted.means)
        try:
            let_in(request, response, sessions, admitted.principal, cookie_life_s, arrival)
        except OvertakenError as error:
            return refuse(address, PasskeyRefusedError(str(error), user_id))
        return response

    def refuse(address: str, error: PasskeyRefusedError) -> Response:
        owner = doorkeeper.accounts.account(error.user_id)
        try:
            audit.record(sign_in_event(owner.username if owner else "", None, address, f"passkey: {error}"))
        except AuditUnavailableError:
            return unrecorded()
        return problem(403, _REFUSED)

    return [
        Route(f"{_PATH}/options", options, methods=["POST"]),
        Route(_PATH, with_wish(enter), methods=["POST"]),
    ]
