"""The sign-in page and its cookies (HttpOnly, SameSite=Strict, Secure over TLS): `dicomnet_session`, and
`dicomnet_known`, by which somebody who is known in this browser is not locked out by strangers.

What is always true: the answer to a failed sign-in is the same for known and unknown users, and the page that is
opened afterwards is one of ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.claims import EXTERNAL
from central.access.doorkeeper import Doorkeeper
from central.access.errors import OvertakenError, ThrottledError
from central.access.known_browsers import LIFE_S
from central.access.on_record import admit
from central.access.policy import Principal
from central.access.sessions import Arrival, Sessions
from central.access.sign_in import FormError, check_sign_in, overtaken, small_form, told_to_wait
from central.access.web import COOKIE_NAME, arrival_of, audit_event, page_of, principal_of, source_address
from central.audit.errors import AuditUnavailableError
from central.audit.events import Action
from central.audit.record import Audit
from central.audit.refusals import OF_A_STRANGER, Refusals
from central.portal.templating import page

COOKIE_LIFE_S: Final = 12 * 3600
_KNOWN_COOKIE: Final = "dicomnet_known"
_WRONG: Final = "Wrong username, password or code."
_LOCAL_PATH: Final = re.compile(r"/(?![/\\])[^\x00-\x20\x7f\\]*")


def sign_in_pages(
    doorkeeper: Doorkeeper,
    audit: Audit,
    cookie_life_s: int = COOKIE_LIFE_S,
    providers: Mapping[str, str] = MappingProxyType({}),
) -> list[BaseRoute]:
    """`/signin` and `/signout`. A session lives `cookie_life_s` seconds; `providers` are those of single sign-on."""
    accounts, browsers = doorkeeper.accounts, doorkeeper.browsers
    refusals = Refusals(audit, role="", of_an_address=OF_A_STRANGER)

    def form_page(status: int, next_path: str, message: str = "", username: str = "") -> Response:
        return page(
            "signin.html",
            None,
            status,
            next_path=next_path,
            message=message,
            username=username[:64],
            passkeys=doorkeeper.passkeys.are_possible,
            providers=ways_out(providers, next_path),
        )

    def show(request: Request) -> Response:
        return form_page(200, local_path(request.query_params.get("next", "")))

    async def sign_in(request: Request) -> Response:
        try:
            form = await small_form(request)
        except FormError:
            return form_page(400, "/", "This form could not be read.")
        next_path = local_path(form.get("next", ""))
        if page_of(request) == "foreign":  # somebody else's page would sign this browser in as somebody else
            return form_page(403, next_path, "Sign in from this page, please.")
        return await run_in_threadpool(attempt, request, form, next_path)

    def attempt(request: Request, form: Mapping[str, str], next_path: str) -> Response:
        username, password, code = (form.get(name, "") for name in ("username", "password", "code"))
        shown, mark = request.cookies.get(_KNOWN_COOKIE, ""), accounts.passwords.mark_of(username)
        address, browser = source_address(request), browsers.name_of(shown, mark)
        try:
            admitted = check_sign_in(accounts, audit, username, password, code, address, browser)
        except ThrottledError as error:
            told_to_wait(refusals, username, address)
            minutes = -(-error.retry_after_s // 60)
            refusal = form_page(
                429, next_path, f"Too many failed sign-ins. Try again in {minutes} min.", username
            )
            refusal.headers["Retry-After"] = str(error.retry_after_s)
            return refusal
        except AuditUnavailableError:
            return form_page(
                503, next_path, "Nobody can sign in right now: the audit record is not writable."
            )
        if admitted is None:
            return form_page(401, next_path, _WRONG, username)
        response = RedirectResponse(next_path, status_code=303)
        arrival = arrival_of(request, admitted.means)
        try:
            let_in(request, response, accounts.sessions, admitted.principal, cookie_life_s, arrival)
        except OvertakenError as error:
            overtaken(refusals, admitted, address, error)
            return form_page(401, next_path, _WRONG, username)
        _set_cookie(request, response, _KNOWN_COOKIE, browsers.remember(shown, mark), LIFE_S, "/signin")
        return response

    def sign_out(request: Request) -> Response:
        token = request.cookies.get(COOKIE_NAME, "")
        session = accounts.sessions.find(token, "cookie")
        accounts.sessions.end(token)
        with suppress(AuditUnavailableError):  # signing out must work, recorded or not
            audit.record(audit_event(request, Action.SIGN_OUT, "success"))
        external = principal_of(request).user_id.startswith(EXTERNAL)
        provider = session.arrival.provider if session is not None else ""
        out = at_provider("/signin/oidc/out", provider) if external else "/signin"
        response = RedirectResponse(out, status_code=303)
        response.delete_cookie(COOKIE_NAME, path="/", httponly=True, samesite="strict")
        return response

    def sign_out_everywhere(request: Request) -> Response:
        answer = admit(audit, request, None, Action.SIGN_OUT, "everywhere")
        if answer is not None:
            return answer
        accounts.sessions.end_all(principal_of(request).user_id)
        return Response(status_code=204)

    return [
        Route("/api/me/sessions", sign_out_everywhere, methods=["DELETE"]),
        Route("/signin", show, methods=["GET"]),
        Route("/signin", sign_in, methods=["POST"]),
        Route("/signout", sign_out, methods=["POST"]),
    ]


def let_in(
    request: Request,
    response: Response,
    sessions: Sessions,
    principal: Principal,
    life_s: int,
    arrival: Arrival,
) -> None:
    """Begin a session in the browser that made `request`; the one it had ends. OvertakenError: as `Sessions.start`."""
    sessions.end(request.cookies.get(COOKIE_NAME, ""))
    token = sessions.start(principal, "cookie", life_s, arrival)
    set_session_cookie(request, response, token, life_s)


def ways_out(providers: Mapping[str, str], next_path: str) -> list[tuple[str, str]]:
    """For each provider what its button says, and where it leads; afterwards to `next_path`."""
    return [
        (name, at_provider(f"/signin/oidc?next={quote(next_path, safe='')}", key))
        for key, name in providers.items()
    ]


def at_provider(path: str, key: str) -> str:
    """`path` for the provider of that key; the first one's is "" and is not said."""
    return f"{path}{'&' if '?' in path else '?'}provider={key}" if key else path


def set_session_cookie(request: Request, response: Response, token: str, life_s: int) -> None:
    """Give the browser that made `request` its session."""
    _set_cookie(request, response, COOKIE_NAME, token, life_s, "/")


def _set_cookie(request: Request, response: Response, name: str, value: str, life_s: int, path: str) -> None:
    response.set_cookie(
        name,
        value,
        max_age=life_s,
        path=path,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


def local_path(text: str) -> str:
    """`text` if it is a path on this server, else ``/``. Browsers read ``//host`` and ``/\\host`` as other servers."""
    return text if _LOCAL_PATH.fullmatch(text) else "/"
