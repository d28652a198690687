"""Guest links: who may pass a study on makes and ends them; whoever has one opens it with a POST.

Always true: the token is in the link's fragment, which no browser sends, and in one request's body; never in an
address that is asked for, a log line or the record. A link that does not open says the same whatever the reason.
Opening is on record before a session exists.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.doorkeeper import Doorkeeper, guest_user_id
from central.access.errors import AccessRuleError, ThrottledError
from central.access.guest_links import DEFAULT_DAYS, DEFAULT_USES, Link, Shut
from central.access.on_record import admit
from central.access.policy import Denied, Grant, Privilege, Role, authorize, has_privilege, managed
from central.access.problems import problem, unrecorded
from central.access.sign_in import told_to_wait
from central.access.web import page_of, principal_of, source_address
from central.archive.reading import Reading
from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, AuditEvent, Outcome
from central.audit.record import Audit
from central.audit.refusals import OF_A_STRANGER, Refusals
from central.portal.sign_in import COOKIE_LIFE_S, set_session_cookie
from central.portal.templating import may_invite, page
from central.portal.wishes import NO_STORE, WrongWishError, iso, with_wish
from contract.identifiers import InvalidIdentifierError, check_uid

_SHUT: Final = (
    "This link does not open: it has ended or is used up, or the PIN is wrong. Ask whoever sent it to you."
)


def routes(
    doorkeeper: Doorkeeper, archive: Reading, audit: Audit, cookie_life_s: int = COOKIE_LIFE_S
) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`, which lets everybody reach `/guest` and `/api/guest/session`."""
    desk, door = _Desk(doorkeeper, archive, audit), _Door(doorkeeper, archive, audit, cookie_life_s)
    return [
        Route("/guest", door.show, methods=["GET"]),
        Route("/api/guest/session", with_wish(door.enter), methods=["POST"]),
        Route("/api/guest-links", desk.listed, methods=["GET"]),
        Route("/api/guest-links", with_wish(desk.make), methods=["POST"]),
        Route("/api/guest-links/{link_id}", desk.end, methods=["DELETE"]),
    ]


class _Desk:
    """For hosts."""

    def __init__(self, doorkeeper: Doorkeeper, archive: Reading, audit: Audit) -> None:
        self._doorkeeper = doorkeeper
        self._archive = archive
        self._audit = audit

    def listed(self, request: Request) -> Response:
        principal = principal_of(request)
        everybodys = has_privilege(principal, Privilege.MANAGE_ACCESS)
        refusal = None
        if not (everybodys or may_invite(principal)):
            refusal = problem(403, "your role may not invite guests")
        answer = admit(self._audit, request, refusal, Action.SEARCH, "guest links")
        if answer is not None:
            return answer
        guests = self._doorkeeper.guests
        links = (
            guests.listed(institution=managed(principal)) if everybodys else guests.listed(principal.user_id)
        )
        return JSONResponse({"links": [self._json(link) for link in links]}, headers=NO_STORE)

    def make(self, request: Request, wish: Mapping[str, Any]) -> Response:
        days, uses = wish.get("days", DEFAULT_DAYS), wish.get("max_uses", DEFAULT_USES)
        pin, note = wish.get("pin", ""), wish.get("note", "")
        if not (type(days) is type(uses) is int and isinstance(pin, str) and isinstance(note, str)):
            raise WrongWishError(
                'send {"study_instance_uid": "…", "days": 7, "max_uses": 5, "pin": "…", "note": "…"}'
            )
        try:
            study = check_uid(str(wish.get("study_instance_uid") or ""), "study_instance_uid")
        except InvalidIdentifierError as error:
            raise WrongWishError(str(error)) from error
        note, principal = note.strip(), principal_of(request)
        facts = self._archive.facts(study)
        decision = authorize(principal, Action.SHARE, facts) if facts is not None else None
        held_by = decision.institutions if isinstance(decision, Grant) else ()
        refusal = None if held_by else problem(404, "there is no such study")
        detail = f"guest link for {days} days and {uses} uses, {'with' if pin else 'without'} PIN: {note}"
        answer = admit(self._audit, request, refusal, Action.SHARE, detail, study, institutions=held_by)
        if answer is not None:
            return answer
        try:
            link, token = self._doorkeeper.guests.make(
                study, principal.user_id, days=days, max_uses=uses, pin=pin, note=note
            )
        except AccessRuleError as error:
            return problem(400, str(error))
        return JSONResponse({**self._json(link), "path": f"/guest#{token}"}, 201, headers=NO_STORE)

    def end(self, request: Request) -> Response:
        principal = principal_of(request)
        link = self._doorkeeper.guests.live(str(request.path_params["link_id"]))
        mine = link is not None and (
            link.host_user_id == principal.user_id
            or (
                has_privilege(principal, Privilege.MANAGE_ACCESS)
                and self._doorkeeper.accounts.is_of(link.host_user_id, managed(principal))
            )
        )
        if link is None or not mine:
            refusal = problem(404, "there is no such link of yours")
            return admit(self._audit, request, refusal, Action.SHARE, "end a guest link") or refusal
        detail, host = f"end guest link {link.link_id}", self._doorkeeper.accounts.account(link.host_user_id)
        answer = admit(
            self._audit,
            request,
            None,
            Action.SHARE,
            detail,
            link.study_instance_uid,
            institutions=(host.institution,) if host is not None else (),
        )
        if answer is not None:
            return answer
        self._doorkeeper.guests.end(link.link_id)
        return Response(status_code=204)

    def _json(self, link: Link) -> dict[str, Any]:
        host = self._doorkeeper.accounts.account(link.host_user_id)
        return {
            "link_id": link.link_id,
            "study_instance_uid": link.study_instance_uid,
            "host": host.username if host is not None else "",
            "note": link.note,
            "made_at_utc": iso(link.made_at_utc),
            "ends_at_utc": iso(link.ends_at_utc),
            "uses": link.uses,
            "max_uses": link.max_uses,
            "wrong_pins": link.wrong_pins,
            "has_pin": link.has_pin,
        }


class _Door:
    """For guests."""

    def __init__(self, doorkeeper: Doorkeeper, archive: Reading, audit: Audit, cookie_life_s: int) -> None:
        self._doorkeeper = doorkeeper
        self._archive = archive
        self._audit = audit
        self._cookie_life_s = cookie_life_s
        self._refusals = Refusals(audit, role=Role.GUEST.value, of_an_address=OF_A_STRANGER)

    def show(self, _request: Request) -> Response:
        return page("guest.html", None)

    def enter(self, request: Request, wish: Mapping[str, Any]) -> Response:
        if page_of(request) == "foreign":  # somebody else's page would sign this browser in as a guest
            return problem(403, "open the link itself, please")
        token, pin = wish.get("token"), wish.get("pin", "")
        if not (isinstance(token, str) and token and isinstance(pin, str)):
            raise WrongWishError('send {"token": "…", "pin": "…"}')
        address = source_address(request)
        try:
            link = self._doorkeeper.guests.knock(token, pin, address)
            grant = self._admissible(link) if isinstance(link, Link) else link
            if isinstance(grant, Shut):
                return self._refuse(address, grant)
            assert isinstance(link, Link), "a guest came by a link"
            guest = grant.principal
            concerned = (guest.institution, *grant.institutions)
            self._record(guest.username, "success", address, "", link.study_instance_uid, concerned)
            if not self._doorkeeper.guests.use(link.link_id):  # somebody else took the last one meanwhile
                return self._refuse(address, Shut("used up", link.link_id))
        except ThrottledError as error:
            told_to_wait(self._refusals, "", address, Action.GUEST_SIGN_IN)
            return problem(429, str(error), {"Retry-After": str(error.retry_after_s)})
        except AuditUnavailableError:
            return unrecorded()
        life_s = max(1, min(self._cookie_life_s, link.ends_at_utc - int(time.time())))
        session = self._doorkeeper.accounts.sessions.start(guest, "cookie", life_s)
        response = JSONResponse({"study_instance_uid": link.study_instance_uid}, headers=NO_STORE)
        set_session_cookie(request, response, session, life_s)
        return response

    def _admissible(self, link: Link) -> Grant | Shut:
        """What the guest may see, if the host could still show the study."""
        guest = self._doorkeeper.principal(guest_user_id(link.link_id))
        facts = self._archive.facts(link.study_instance_uid)
        if guest is None or facts is None:
            return Shut("host or study is gone", link.link_id)
        decision = authorize(guest, Action.VIEW, facts)
        return (
            Shut(f"the host may not show it: {decision.reason}", link.link_id)
            if isinstance(decision, Denied)
            else decision
        )

    def _refuse(self, address: str, shut: Shut) -> Response:
        guest = self._doorkeeper.principal(guest_user_id(shut.link_id))
        concerned = (guest.institution,) if guest is not None else ()
        self._record(guest_user_id(shut.link_id), "refused", address, shut.why, institutions=concerned)
        return problem(403, _SHUT)

    def _record(
        self,
        actor: str,
        outcome: Outcome,
        address: str,
        detail: str,
        study: str | None = None,
        institutions: tuple[str, ...] = (),
    ) -> None:
        role, concerned = Role.GUEST.value, frozenset(institutions)
        event = AuditEvent(
            actor, role, Action.GUEST_SIGN_IN, outcome, address, study, detail=detail, institutions=concerned
        )
        self._audit.record(event)
