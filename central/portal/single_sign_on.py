"""Signing on at an OpenID Connect provider of the house: out to it, back from it, and out of it.

There may be several. Each has a key, which is in its addresses (``?provider=key``), and so a redirect URI of its own:
an answer counts at the one that the browser was sent to (RFC 9700 section 4.4.2.2), by the claims that are set for it.

Always true: the way back needs the cookie of the very browser that went out (it is SameSite=Lax, because the provider's
redirect comes from elsewhere, and holds nothing that is of use without the provider's code); every attempt that came
back is on record before a session exists, and of the same refusal, which anybody can make up, one a minute. The
session's own cookie is SameSite=Strict, so it is not sent on a redirect that began elsewhere: a page of ours takes the
browser on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.claims import ClaimRules, principal_from, provider_session_of
from central.access.doorkeeper import Doorkeeper
from central.access.errors import AccountError, OvertakenError
from central.access.oidc import Attempt, Provider, ProviderAwayError, SignOnRefusedError
from central.access.policy import Principal
from central.access.problems import problem
from central.access.sign_in import sign_in_event
from central.access.web import arrival_of, source_address
from central.audit.errors import AuditUnavailableError
from central.audit.events import Action
from central.audit.record import Audit
from central.audit.refusals import OF_A_STRANGER, Refusals
from central.portal.back_channel import BackChannel
from central.portal.sign_in import let_in, local_path, ways_out
from central.portal.templating import page

_COOKIE_NAME: Final = "dicomnet_signon"
_COOKIE_PATH: Final = "/signin/oidc"
_ATTEMPT_LIFE_S: Final = 600
_MAX_NEXT_CHARACTERS: Final = 1024
_AWAY: Final = "The sign-on service of this house does not answer. Try again in a while."
_REFUSED: Final = (
    "You could not be signed in. Try again; if it stays so, ask the administrator of this system."
)


@dataclass(frozen=True)
class SignOn:
    """The provider, what its claims mean, what the button that leads there says, and how browsers reach central.

    `key` is "" for the first.
    """

    key: str
    provider: Provider
    rules: ClaimRules
    name: str
    public_url: str


def routes(
    doorkeeper: Doorkeeper, audit: Audit, sign_ons: Sequence[SignOn], cookie_life_s: int
) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`, which lets everybody reach them. A provider that is not there answers 404."""
    names = {one.key: one.name for one in sign_ons}
    desks = {one.key: _Desk(doorkeeper, audit, one, names, cookie_life_s) for one in sign_ons}

    def at(what: Callable[[_Desk, Request], Response]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            desk = desks.get(request.query_params.get("provider", ""))
            return what(desk, request) if desk is not None else _nothing()

        return answer

    async def hear(request: Request) -> Response:
        desk = desks.get(request.query_params.get("provider", ""))
        return await desk.back_channel.hear(request) if desk is not None else _nothing()

    return [
        Route("/signin/oidc", at(_Desk.leave), methods=["GET"]),
        Route("/signin/oidc/callback", at(_Desk.come_back), methods=["GET"]),
        Route("/signin/oidc/out", at(_Desk.sign_out), methods=["GET"]),
        Route("/signin/oidc/back-channel", hear, methods=["POST"]),
    ]


def _nothing() -> Response:
    return problem(404, "there is no such provider here")


class _Desk:
    def __init__(
        self,
        doorkeeper: Doorkeeper,
        audit: Audit,
        sign_on: SignOn,
        names: Mapping[str, str],
        cookie_life_s: int,
    ) -> None:
        self._names = names
        self.back_channel = BackChannel(doorkeeper, audit, sign_on.provider)
        self._accounts = doorkeeper.accounts
        self._audit = audit
        self._refusals = Refusals(audit, role="", of_an_address=OF_A_STRANGER)
        self._sign_on = sign_on
        self._cookie_life_s = cookie_life_s

    def leave(self, request: Request) -> Response:
        next_path = local_path(request.query_params.get("next", ""))
        fits = next_path.isascii() and len(next_path) <= _MAX_NEXT_CHARACTERS  # into a cookie
        attempt = Attempt.new(next_path if fits else "/", self._sign_on.key)
        try:
            url = self._sign_on.provider.authorization_url(attempt)
        except ProviderAwayError:
            return self._say(503, _AWAY)
        response = RedirectResponse(url, status_code=303)
        response.set_cookie(
            _COOKIE_NAME,
            attempt.cookie(),
            max_age=_ATTEMPT_LIFE_S,
            path=_COOKIE_PATH,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="lax",
        )
        return response

    def come_back(self, request: Request) -> Response:
        attempt = Attempt.from_cookie(request.cookies.get(_COOKIE_NAME, ""))
        address = source_address(request)
        try:
            principal, provider_session = self._proved(attempt, request)
            self._audit.record(sign_in_event(principal.username, principal, address, self._how(principal)))
            self._accounts.sign_on(principal)
        except (SignOnRefusedError, ProviderAwayError, AccountError) as error:
            away = isinstance(error, ProviderAwayError)
            return self._refuse(address, str(error), away=away)
        except AuditUnavailableError:
            return self._say(503, "Nobody can sign in right now: the audit record is not writable.")
        next_path = local_path(attempt.next_path) if attempt is not None else "/"
        response = page("signed_on.html", None, next_path=next_path)
        sessions, arrival = self._accounts.sessions, arrival_of(request, "single sign-on")
        arrival = replace(arrival, provider=self._sign_on.key, provider_session=provider_session)
        try:
            let_in(request, response, sessions, principal, self._cookie_life_s, arrival)
        except OvertakenError as error:
            return self._refuse(address, str(error), away=False)
        if self.back_channel.has_ended(provider_session):
            sessions.end_of_provider(None, provider_session)
        response.delete_cookie(_COOKIE_NAME, path=_COOKIE_PATH)
        return response

    def _proved(self, attempt: Attempt | None, request: Request) -> tuple[Principal, str]:
        """Who came back, and of which session at the provider."""
        if attempt is None:
            raise SignOnRefusedError("the answer comes without the cookie of its attempt")
        if attempt.provider != self._sign_on.key:
            raise SignOnRefusedError("the answer comes from another provider than the browser was sent to")
        claims = self._sign_on.provider.claims(attempt, dict(request.query_params))
        principal = self._accounts.check_sign_on(principal_from(claims, self._sign_on.rules))
        return principal, provider_session_of(claims["iss"], claims.get("sid"))

    def _how(self, principal: Principal) -> str:
        """Names follow the provider's; else nobody would know whose the records under the former name are."""
        before = self._accounts.account(principal.user_id)
        if before is None or before.username == principal.username:
            return "OpenID Connect"
        return f"OpenID Connect; was called {before.username}"

    def sign_out(self, _request: Request) -> Response:
        try:
            url = self._sign_on.provider.sign_out_url(self._sign_on.public_url + "/signin")
        except ProviderAwayError:
            url = None
        return page("signed_out.html", None, provider_name=self._sign_on.name, url=url)

    def _refuse(self, address: str, why: str, *, away: bool) -> Response:
        self._refusals.record(Action.SIGN_IN_FAILED, "", address, f"OpenID Connect: {why}")
        return self._say(503 if away else 403, _AWAY if away else _REFUSED)

    def _say(self, status: int, message: str) -> Response:
        response = page(
            "signin.html",
            None,
            status,
            next_path="/",
            message=message,
            username="",
            passkeys=False,
            providers=ways_out(self._names, "/"),
        )
        response.delete_cookie(_COOKIE_NAME, path=_COOKIE_PATH)
        return response
