"""The provider tells central that somebody is signed out there (OpenID Connect Back-Channel Logout 1.0).

Always true: whoever the provider says is signed out is so here from the next request on, recorded or not; a token that
does not verify ends nobody's session, is on record, and costs its sender a wait after a few.
"""

from __future__ import annotations

from contextlib import suppress

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from central.access.doorkeeper import Doorkeeper
from central.access.errors import ThrottledError
from central.access.logout_tokens import SignedOut, signed_out
from central.access.oidc import Provider, ProviderAwayError, SignOnRefusedError
from central.access.problems import problem
from central.access.sign_in import FormError, small_form
from central.access.throttle import SignInThrottle
from central.access.web import source_address
from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, AuditEvent, Outcome
from central.audit.record import Audit
from central.portal.wishes import NO_STORE


class BackChannel:
    """What `provider` says to, over its own connection and not through a browser."""

    def __init__(self, doorkeeper: Doorkeeper, audit: Audit, provider: Provider) -> None:
        self._accounts = doorkeeper.accounts
        self._once = doorkeeper.once
        self._audit = audit
        self._provider = provider
        self._throttle = SignInThrottle()

    async def hear(self, request: Request) -> Response:
        """`POST` of a form with `logout_token` (section 2.5)."""
        try:
            form = await small_form(request)
        except FormError as error:
            return _refusal(str(error))
        return await run_in_threadpool(self._hear, form.get("logout_token", ""), source_address(request))

    def has_ended(self, provider_session: str) -> bool:
        """Whether this session at the provider has ended lately: what was begun by it a moment ago counts no more."""
        return bool(provider_session) and self._once.is_taken(provider_session)

    def _hear(self, logout_token: str, address: str) -> Response:
        try:
            self._throttle.require_open(f"logout {address}", address)
            said = signed_out(self._provider, logout_token)
        except ThrottledError as error:
            return problem(429, str(error), {"Retry-After": str(error.retry_after_s)})
        except SignOnRefusedError as error:
            return self._refuse(address, str(error))
        except ProviderAwayError as error:
            return problem(503, str(error), {"Retry-After": "10"})
        if not self._once.take(said.token_id, said.ends_at_utc):
            return self._refuse(address, "the logout token was used before")
        self._end(said, address)
        return Response(status_code=200, headers=NO_STORE)

    def _end(self, said: SignedOut, address: str) -> None:
        if said.provider_session:  # before the sessions end, so that one that begins just now finds it
            self._once.take(said.provider_session, said.ends_at_utc)
        ended = self._accounts.sessions.end_of_provider(said.user_id, said.provider_session)
        for user_id in ended:
            self._record(user_id, address, "success", "signed out at the provider")
        if not ended:
            self._record(said.user_id or "", address, "success", "signed out at the provider; had no session")

    def _refuse(self, address: str, why: str) -> Response:
        with suppress(ThrottledError):
            self._throttle.begin(f"logout {address}", address)
        self._record("", address, "refused", why)
        return _refusal("the logout token is not taken")

    def _record(self, user_id: str, address: str, outcome: Outcome, detail: str) -> None:
        who = self._accounts.account(user_id)
        name, role = (who.username, who.role.value) if who is not None else (user_id, "")
        concerned = frozenset({who.institution} if who is not None else ())
        with suppress(AuditUnavailableError):  # signing out must work, recorded or not
            detail = f"OpenID Connect back-channel: {detail}"
            self._audit.record(
                AuditEvent(
                    name, role, Action.SIGN_OUT, outcome, address, detail=detail, institutions=concerned
                )
            )


def _refusal(description: str) -> Response:
    """Section 2.8."""
    return JSONResponse({"error": "invalid_request", "error_description": description}, 400, headers=NO_STORE)
