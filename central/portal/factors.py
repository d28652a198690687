"""Second factors and passkeys: their owner sets them up and removes them; an administrator resets somebody's.

Always true: only who signed in a short while ago (`sessions.FRESH_S`) changes anything, so that a screen left open is
no way to stay in, and whose session has not ended meanwhile; what is set up ends every other session of its owner; keys
and recovery codes are in one answer and nowhere else; changes are on record before they count.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

import segno
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access import totp
from central.access.doorkeeper import Doorkeeper
from central.access.errors import AccountError, FactorChangeError, OvertakenError, PasskeyRefusedError
from central.access.on_record import admit
from central.access.policy import Privilege, has_privilege, managed
from central.access.problems import problem
from central.access.sessions import Session
from central.access.web import principal_of
from central.audit.events import Action
from central.audit.record import Audit
from central.portal.account import fresh_session_of, passkey_json, signs_in_here
from central.portal.wishes import NO_STORE, WrongWishError, with_wish

_STALE: Final = "sign in again to change what you sign in with"


def routes(doorkeeper: Doorkeeper, audit: Audit) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`."""
    desk = _Desk(doorkeeper, audit)
    return [
        Route("/api/account/app", desk.begin_app, methods=["POST"]),
        Route("/api/account/app", desk.remove_app, methods=["DELETE"]),
        Route("/api/account/app/confirmation", with_wish(desk.confirm_app), methods=["POST"]),
        Route("/api/account/app/recovery-codes", desk.renew_recovery_codes, methods=["POST"]),
        Route("/api/account/passkeys", with_wish(desk.add_passkey), methods=["POST"]),
        Route("/api/account/passkeys/options", desk.passkey_options, methods=["POST"]),
        Route("/api/account/passkeys/{passkey_id}", desk.remove_passkey, methods=["DELETE"]),
        Route("/api/factor-resets", with_wish(desk.reset), methods=["POST"]),
    ]


class _Desk:
    def __init__(self, doorkeeper: Doorkeeper, audit: Audit) -> None:
        self._doorkeeper = doorkeeper
        self._accounts = doorkeeper.accounts
        self._factors = doorkeeper.accounts.factors
        self._passkeys = doorkeeper.passkeys
        self._audit = audit

    # An authenticator app --------------------------------------------------------------------------------------

    def begin_app(self, request: Request) -> Response:
        principal = principal_of(request)
        answer = self._admit(request, "begin to set up an authenticator app")
        if isinstance(answer, Response):
            return answer
        try:
            secret = self._factors.begin_app(principal.user_id)
        except FactorChangeError as error:
            return problem(409, str(error))
        shown = {"key": totp.secret_text(secret), "qr_svg": _qr_code(totp.uri(secret, principal.username))}
        return JSONResponse(shown, 201, headers=NO_STORE)

    def confirm_app(self, request: Request, wish: Mapping[str, Any]) -> Response:
        code = wish.get("code")
        if not isinstance(code, str):
            raise WrongWishError('send {"code": "123456"}')
        user_id = principal_of(request).user_id
        here = self._admit(request, "set up an authenticator app")
        if isinstance(here, Response):
            return here
        try:
            with self._accounts.sessions.standing(here):
                codes = self._factors.confirm_app(user_id, code)
                self._accounts.sessions.end_all(user_id, but=here.session_id)
        except (FactorChangeError, OvertakenError) as error:
            return _conflict(error)
        return JSONResponse({"recovery_codes": codes}, headers=NO_STORE)

    def renew_recovery_codes(self, request: Request) -> Response:
        here = self._admit(request, "new recovery codes")
        if isinstance(here, Response):
            return here
        try:
            with self._accounts.sessions.standing(here):
                codes = self._factors.renew_recovery_codes(here.user_id)
        except (FactorChangeError, OvertakenError) as error:
            return _conflict(error)
        return JSONResponse({"recovery_codes": codes}, 201, headers=NO_STORE)

    def remove_app(self, request: Request) -> Response:
        here = self._admit(request, "remove the authenticator app")
        if isinstance(here, Response):
            return here
        try:
            with self._accounts.sessions.standing(here):
                self._factors.remove_app(here.user_id)
        except OvertakenError as error:
            return _conflict(error)
        return Response(status_code=204)

    # Passkeys --------------------------------------------------------------------------------------------------

    def passkey_options(self, request: Request) -> Response:
        here = self._admit(request, "begin to add a passkey")
        if isinstance(here, Response):
            return here
        try:
            options = self._passkeys.registration_options(principal_of(request), here.session_id)
        except FactorChangeError as error:
            return problem(409, str(error))
        return JSONResponse(options, headers=NO_STORE)

    def add_passkey(self, request: Request, wish: Mapping[str, Any]) -> Response:
        name, credential = wish.get("name"), wish.get("credential")
        if not (isinstance(name, str) and isinstance(credential, dict)):
            raise WrongWishError('send {"name": "…", "credential": {…}}')
        name, user_id = name.strip(), principal_of(request).user_id
        here = self._admit(request, f"add a passkey: {name}")
        if isinstance(here, Response):
            return here
        try:
            standing = self._accounts.sessions.standing(here)
            kept = self._passkeys.register(user_id, name, credential, here.session_id, standing)
        except (FactorChangeError, OvertakenError) as error:
            return _conflict(error)
        except PasskeyRefusedError as error:
            refusal = problem(400, "the browser's answer proves no passkey: try again")
            return admit(self._audit, request, refusal, Action.USER_CHANGE, str(error)) or refusal
        self._accounts.sessions.end_all(user_id, but=here.session_id)
        return JSONResponse(passkey_json(kept), 201, headers=NO_STORE)

    def remove_passkey(self, request: Request) -> Response:
        passkey_id = str(request.path_params["passkey_id"])[:64]
        here = self._admit(request, f"remove passkey {passkey_id}")
        if isinstance(here, Response):
            return here
        try:
            with self._accounts.sessions.standing(here):
                if not self._passkeys.remove(here.user_id, passkey_id):
                    return problem(404, "there is no such passkey of yours")
        except OvertakenError as error:
            return _conflict(error)
        return Response(status_code=204)

    # For administrators ----------------------------------------------------------------------------------------

    def reset(self, request: Request, wish: Mapping[str, Any]) -> Response:
        username = wish.get("username")
        if not (isinstance(username, str) and username):
            raise WrongWishError('send {"username": "…"}')
        refusal: Response | None = None
        username, principal = username.strip(), principal_of(request)
        institution, theirs = managed(principal), self._accounts.institution_of(username)
        if not has_privilege(principal, Privilege.MANAGE_ACCESS):
            refusal = problem(403, "your role may not do this")
        elif institution is not None and theirs != institution:  # somebody else's people, or nobody
            refusal = problem(404, f"there is no user {username.lower()}")
        elif fresh_session_of(request, self._doorkeeper) is None:
            refusal = problem(403, _STALE)
        detail = f"reset the second factors of {username[:64]}"
        concerned = (theirs,) if refusal is None and theirs is not None else ()
        answer = admit(self._audit, request, refusal, Action.USER_CHANGE, detail, institutions=concerned)
        if answer is not None:
            return answer
        try:
            self._accounts.reset_factors(username)
        except AccountError as error:
            return problem(404, str(error))
        return Response(status_code=204)

    def _admit(self, request: Request, detail: str) -> Session | Response:
        """The session in which the caller may change this, which is on record then; or what they get instead."""
        here = fresh_session_of(request, self._doorkeeper)
        if not signs_in_here(principal_of(request)):
            refusal = problem(403, "what you sign in with is not kept here")
            return admit(self._audit, request, refusal, Action.USER_CHANGE, detail) or refusal
        if here is None:
            refusal = problem(403, _STALE)
            return admit(self._audit, request, refusal, Action.USER_CHANGE, detail) or refusal
        return admit(self._audit, request, None, Action.USER_CHANGE, detail) or here


def _conflict(error: FactorChangeError | OvertakenError) -> Response:
    return problem(409, f"your session was {error}" if isinstance(error, OvertakenError) else str(error))


def _qr_code(text: str) -> str:
    drawn = io.BytesIO()
    segno.make_qr(text, error="m").save(
        drawn, kind="svg", omitsize=True, dark="#000", light="#fff", xmldecl=False, nl=False
    )
    return drawn.getvalue().decode("ascii")
