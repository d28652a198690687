"""The door of the people listener: nobody passes who has not signed in.

Why it exists: authentication in one middleware in front of the router, so that a new route is closed the moment
it is written, known or unknown path alike.

What is always true
-------------------
- Only `PUBLIC` answers an anonymous caller. Everything behind finds `request.state.principal`.
- A request that carries a bearer token is judged by that token alone; its cookie is not looked at.
- A cookie counts on an unsafe method only when the browser says that our own page sent it (Sec-Fetch-Site or
  Origin; the cookie itself is SameSite=Strict).
- An API token reaches DICOMweb and `/api/me`, whatever its owner may.
- Who must have a second factor and has none reaches what sets one up, and nothing else.
- What is refused to somebody who is signed in is on record, whoever refuses it (`central.access.refused`).
- What the record could not hold whole is not done.
- An answer that takes long ends early when what it gives out may not be had any more (`central.access.ongoing`).
- Programs (under ``/api`` and ``/dicom-web``) get 401 as a problem; people get the sign-in page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Literal
from urllib.parse import quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from central.access.doorkeeper import Doorkeeper
from central.access.headers import with_safe_headers
from central.access.ongoing import AccessEndedError, Ongoing
from central.access.policy import Principal, Role
from central.access.problems import problem
from central.access.refused import Said, putting_on_record
from central.access.sessions import Arrival, SessionKind, browser_of
from central.audit.events import Action, AuditEvent, Outcome
from central.audit.record import Audit

COOKIE_NAME: Final = "dicomnet_session"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_READ: Final = frozenset({"GET", "HEAD"})
PUBLIC: Final[dict[str, frozenset[str]]] = {
    "/healthz": _READ,
    "/signin": _READ | {"POST"},
    "/signin/oidc": _READ,
    "/signin/oidc/callback": _READ,
    "/signin/oidc/out": _READ,
    "/signin/oidc/back-channel": frozenset({"POST"}),
    "/api/signin/passkey": frozenset({"POST"}),
    "/api/signin/passkey/options": frozenset({"POST"}),
    "/api/auth/token": frozenset({"POST"}),
    "/guest": _READ,
    "/api/guest/session": frozenset({"POST"}),
}
PUBLIC_FOLDERS: Final = ("/static/", "/viewer/")  # built files, the same for everybody; no data in them
_FOR_ENROLMENT: Final = frozenset({"/account", "/api/account", "/api/me", "/signout"})
_ENROLMENT_FOLDERS: Final = ("/api/account/app", "/api/account/passkeys")
_PROGRAM_FOLDERS: Final = ("/api/", "/dicom-web/")
_MAX_TOKEN_CHARACTERS: Final = 256


def is_public(method: str, path: str) -> bool:
    """Whether an anonymous caller is answered."""
    return method in PUBLIC.get(path, frozenset()) or (method in _READ and path.startswith(PUBLIC_FOLDERS))


def _is_for_enrolment(path: str) -> bool:
    return path in _FOR_ENROLMENT or path.startswith(_ENROLMENT_FOLDERS)


def _is_for_api_tokens(path: str) -> bool:
    return path == "/api/me" or path.startswith("/dicom-web/")


def source_address(connection: HTTPConnection) -> str:
    """The caller's address for throttle and audit."""
    return connection.client.host if connection.client else "unknown"


def arrival_of(request: HTTPConnection, means: str) -> Arrival:
    """How the session came about that the answer to `request` begins."""
    return Arrival(means, source_address(request), browser_of(request.headers.get("user-agent", "")))


def authenticate(request: HTTPConnection, doorkeeper: Doorkeeper) -> Principal | None:
    """Whose request this is. Reads the database."""
    shown = token_of(request)
    return doorkeeper.principal_of(*shown) if shown is not None else None


def token_of(request: HTTPConnection) -> tuple[str, SessionKind] | None:
    """What `request` shows: by ``Authorization: Bearer`` (RFC 6750), else by cookie."""
    authorization = request.headers.get("authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or len(token) > _MAX_TOKEN_CHARACTERS:
            return None
        return token.strip(), "bearer"
    token = request.cookies.get(COOKIE_NAME, "")
    return (token, "cookie") if token and len(token) <= _MAX_TOKEN_CHARACTERS else None


def session_of(request: HTTPConnection) -> str:
    """What tells the session of `request` from others in memory, and is not its token; "" without one."""
    shown = token_of(request)
    return hashlib.sha256("\0".join(shown).encode()).hexdigest() if shown is not None else ""


def page_of(request: HTTPConnection) -> Literal["own", "foreign", "unsaid"]:
    """Whose page made this request, as the browser says it; other programs say nothing.

    Sec-Fetch-Site comes first: our own forms have ``Origin: null``, because our pages send no referrer.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return "own" if site in ("same-origin", "none") else "foreign"
    origin = request.headers.get("origin")
    if origin is None:
        return "unsaid"
    asked_host = request.headers.get("host", "").lower()
    return "own" if urlsplit(origin).netloc.lower() == asked_host else "foreign"


def principal_of(request: Request) -> Principal:
    """The principal that `RequireSignIn` put there; a route outside of it fails loudly."""
    principal = request.state.principal
    if not isinstance(principal, Principal):
        raise TypeError("this route is not behind RequireSignIn")
    return principal


def ongoing_of(request: Request) -> Ongoing:
    """What the answer to `request` gives out, as `RequireSignIn` watches it."""
    ongoing = request.state.ongoing
    assert isinstance(ongoing, Ongoing), "this route is not behind RequireSignIn"
    return ongoing


def said_of(request: Request) -> Said:
    """What is on record of `request`."""
    said = request.state.said
    assert isinstance(said, Said), "this route is not behind RequireSignIn"
    return said


def audit_event(
    request: Request,
    action: Action,
    outcome: Outcome,
    detail: str = "",
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    institutions: Iterable[str] = (),
) -> AuditEvent:
    """What the signed-in caller of `request` does or tries, for the record. `institutions` are concerned besides the
    caller's own.

    Raises
    ------
    HTTPException : it is more than the record can hold, and so must not be done; the door records the refusal.
    """
    principal, said = principal_of(request), said_of(request)
    said.anything = True
    if principal.delegation is not None:
        detail = f"API token {principal.delegation.token_id}: {detail}"
    event = AuditEvent(
        actor=principal.username,
        actor_role=principal.role.value,
        action=action,
        outcome=outcome,
        source_address=source_address(request),
        study_instance_uid=study_instance_uid,
        series_instance_uid=series_instance_uid,
        sop_instance_uid=sop_instance_uid,
        detail=detail,
        institutions=frozenset({principal.institution, *institutions}),
    )
    if outcome == "success" and not event.is_whole:
        said.step = event
        raise HTTPException(413, "ask for less at once: the audit record could not hold all of it")
    return event


class RequireSignIn:
    """ASGI middleware: default deny. Wraps the whole application of the people listener.

    Parameters
    ----------
    at_once : answers what it can on the thread that has found out who asks, which spares a change of threads; None is
        for `app`.
    """

    def __init__(
        self,
        app: ASGIApp,
        doorkeeper: Doorkeeper,
        audit: Audit,
        at_once: Callable[[Request], Response | None] = lambda _request: None,
    ) -> None:
        self._app = app
        self._doorkeeper = doorkeeper
        self._audit = audit
        self._at_once = at_once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(Request(scope), receive, with_safe_headers(send))
        else:
            raise RuntimeError(f"the people listener has no {scope['type']} routes")

    async def _answer(self, request: Request, receive: Receive, send: Send) -> None:
        scope = request.scope
        # The path the router will see: request.url would cut a decoded "?" off it.
        if is_public(request.method, scope["path"]):
            await self._app(scope, receive, send)
            return
        if "\0" in scope["path"]:  # which no database takes, and no route has
            await problem(404)(scope, receive, send)
            return
        answer, ongoing = await run_in_threadpool(self._begun, request)
        if ongoing is None:
            await answer(scope, receive, send)
            return
        try:
            await answer(scope, receive, ongoing.sending(send))
        except AccessEndedError:
            return  # without the answer's end, which makes the server close the connection
        except Exception:
            # What is erased may fail to be read before it is asked about.
            await run_in_threadpool(ongoing.has_ended)
            raise

    def _begun(self, request: Request) -> tuple[ASGIApp, Ongoing | None]:
        """What answers this request, and what is watched while it does: nothing where nobody is signed in. Reads the
        database."""
        principal = authenticate(request, self._doorkeeper)
        if principal is None:
            return _not_signed_in(request), None
        ongoing = Ongoing(partial(self._caller, principal, request), self._audit.record)
        said = Said()
        request.scope.setdefault("state", {}).update(principal=principal, ongoing=ongoing, said=said)
        answer = self._why_not(principal, request) or self._at_once(request) or self._app
        refusal = partial(_refusal, request)
        return putting_on_record(answer, said, refusal, self._audit.record), ongoing

    def _why_not(self, principal: Principal, request: Request) -> Response | None:
        """The answer in place of the route's own; None: the route is to answer."""
        path = str(request.scope["path"])
        if principal.delegation is not None and not _is_for_api_tokens(path):
            return problem(403, "an API token is for DICOMweb, under /dicom-web")
        if not _is_for_enrolment(path) and self._doorkeeper.must_enrol(principal):
            return _to_enrolment(request)
        by_cookie = "authorization" not in request.headers
        if by_cookie and request.method not in SAFE_METHODS and page_of(request) != "own":
            return problem(403, "a request with a session cookie must come from one of our own pages")
        return None

    def _caller(self, before: Principal, request: Request) -> Principal | str:
        """Who calls now, or why it is nobody any more."""
        now = authenticate(request, self._doorkeeper)
        if now is not None:
            return now
        if self._doorkeeper.principal(before.user_id) is None:
            return "the link has ended" if before.role is Role.GUEST else "the account is blocked"
        return "the API token has ended" if before.delegation is not None else "the session has ended"


def _refusal(request: Request) -> AuditEvent:
    return audit_event(
        request, Action.REQUEST_REFUSED, "refused", f"{request.method} {request.scope['path']}"
    )


def _to_enrolment(request: Request) -> Response:
    path = str(request.scope["path"])
    if request.method not in _READ or path.startswith(_PROGRAM_FOLDERS):
        return problem(403, "your role needs a second factor: set one up on the page /account first")
    return RedirectResponse("/account", status_code=303)


def _not_signed_in(request: Request) -> Response:
    path = str(request.scope["path"])
    if request.method not in _READ or path.startswith(_PROGRAM_FOLDERS):
        headers = {"WWW-Authenticate": 'Bearer realm="dicomnet"'}
        return problem(401, "sign in first: POST /api/auth/token, or /signin in a browser", headers)
    target = quote(path) + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse("/signin?next=" + quote(target, safe=""), status_code=303)
