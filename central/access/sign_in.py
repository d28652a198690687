"""Sign-in for programs and the one check that both programs and the sign-in page use.

`POST /api/auth/token` is the OAuth 2 password form (RFC 6749 section 4.3), with a `code` of an authenticator app
for who has one; `GET /api/me` says who the caller is.
Every attempt is audited before its outcome is told; when that is impossible nobody is signed in. Of attempts that are
not looked at because there were too many, one a minute of each address is (`told_to_wait`): else whoever is shut out
could fill the disk that every look needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.accounts import Accounts
from central.access.errors import AccessError, OvertakenError, SecondFactorError, ThrottledError
from central.access.passwords import Admitted
from central.access.policy import Principal
from central.access.problems import problem, unrecorded
from central.access.web import arrival_of, principal_of, source_address
from central.audit.errors import AuditUnavailableError
from central.audit.events import MAX_NAME_CHARACTERS, Action, AuditEvent
from central.audit.record import Audit
from central.audit.refusals import OF_A_STRANGER, Refusals
from central.bodies import body_within

MAX_FORM_BYTES: Final = 8192
TOKEN_LIFE_S: Final = 3600
_WRONG: Final = "wrong username, password or code"


class FormError(AccessError):
    """Permanent: the body is not a small URL-encoded form."""


async def small_form(request: Request) -> Mapping[str, str]:
    """The fields of an ``application/x-www-form-urlencoded`` body of at most `MAX_FORM_BYTES`.

    Raises
    ------
    FormError : another content type, too large, not UTF-8, a field given twice, or NUL, which no database takes.
    """
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise FormError("send application/x-www-form-urlencoded")
    body = await body_within(request, MAX_FORM_BYTES)
    if body is None:
        raise FormError(f"the form is larger than {MAX_FORM_BYTES} bytes")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError as error:
        raise FormError("the form is not UTF-8 in URL encoding") from error
    if any("\0" in text for pair in pairs for text in pair):
        raise FormError("the form has a NUL character")
    if len(dict(pairs)) != len(pairs):
        raise FormError("a field is given twice")
    return dict(pairs)


def check_sign_in(
    accounts: Accounts,
    audit: Audit,
    username: str,
    password: str,
    code: str,
    address: str,
    browser: str = "",
) -> Admitted | None:
    """Verify and audit one attempt; None when username, password or code is wrong: which, only the record says.
    `browser` as for `Passwords.verify`.

    Raises
    ------
    ThrottledError : too many failures: for `told_to_wait` to audit.
    AuditUnavailableError : the attempt could not be recorded, so nobody is signed in.
    """
    admitted: Admitted | None = None
    detail = "wrong username or password"
    try:
        admitted = accounts.passwords.verify(username, password, address, code, browser)
    except SecondFactorError as error:
        detail = str(error)
    principal = admitted.principal if admitted is not None else None
    audit.record(sign_in_event(username, principal, address, admitted.means if admitted else detail))
    return admitted


def told_to_wait(
    refusals: Refusals, username: str, address: str, action: Action = Action.SIGN_IN_FAILED
) -> None:
    """An attempt was not looked at, because there were too many; the record names the first of those from there."""
    name = username[:MAX_NAME_CHARACTERS]
    refusals.record(action, name, address, "too many failed sign-ins", whoever=True)


def overtaken(refusals: Refusals, admitted: Admitted, address: str, error: OvertakenError) -> None:
    """A sign-in is on record, and its session does not begin: nor is that untold."""
    refusals.record(Action.SIGN_IN_FAILED, admitted.principal.username, address, f"{admitted.means}: {error}")


def sign_in_routes(accounts: Accounts, audit: Audit, token_life_s: int = TOKEN_LIFE_S) -> list[BaseRoute]:
    """`POST /api/auth/token` and `GET /api/me`. Tokens live `token_life_s` seconds."""
    refusals = Refusals(audit, role="", of_an_address=OF_A_STRANGER)

    async def token(request: Request) -> Response:
        try:
            form = await small_form(request)
        except FormError as error:
            return _oauth_error("invalid_request", str(error))
        if form.get("grant_type", "password") != "password":
            return _oauth_error("unsupported_grant_type", "only grant_type=password")
        if "username" not in form or "password" not in form:
            return _oauth_error("invalid_request", "username and password are missing")
        try:
            return await run_in_threadpool(_issue, request, form)
        except ThrottledError as error:
            await run_in_threadpool(told_to_wait, refusals, form["username"], source_address(request))
            return problem(429, str(error), {"Retry-After": str(error.retry_after_s)})
        except AuditUnavailableError:
            return unrecorded()

    def _issue(request: Request, form: Mapping[str, str]) -> Response:
        username, password, code = form["username"], form["password"], form.get("code", "")
        admitted = check_sign_in(accounts, audit, username, password, code, source_address(request))
        if admitted is None:
            return _oauth_error("invalid_grant", _WRONG)
        arrival = arrival_of(request, admitted.means)
        try:
            access_token = accounts.sessions.start(admitted.principal, "bearer", token_life_s, arrival)
        except OvertakenError as error:
            overtaken(refusals, admitted, source_address(request), error)
            return _oauth_error("invalid_grant", _WRONG)
        return JSONResponse(
            {"access_token": access_token, "token_type": "bearer", "expires_in": token_life_s}
        )

    def me(request: Request) -> Response:
        principal = principal_of(request)
        return JSONResponse({"username": principal.username, "role": principal.role.value})

    return [
        Route("/api/auth/token", token, methods=["POST"]),
        Route("/api/me", me, methods=["GET"]),
    ]


def _oauth_error(code: str, description: str) -> Response:
    """RFC 6749 section 5.2."""
    return JSONResponse({"error": code, "error_description": description}, 400)


def sign_in_event(username: str, principal: Principal | None, address: str, detail: str) -> AuditEvent:
    """An attempt to sign in; `principal` None: it failed, and concerns no one institution."""
    return AuditEvent(
        actor=principal.username if principal else username,
        actor_role=principal.role.value if principal else "",
        action=Action.SIGN_IN if principal else Action.SIGN_IN_FAILED,
        outcome="success" if principal else "refused",
        source_address=address,
        detail=detail,
        institutions=frozenset({principal.institution} if principal else ()),
    )
