"""Emergency access: a doctor who is denied opens one study with a reason; administrators review it afterwards.

Always true: the opening, with its reason, is on record as an action of its own before anything is shown. Nobody reviews
what they opened themselves, whatever their role has become. What may not
be opened even so (refused, consent withdrawn) answers like what is not here. Nothing about a patient is told before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.doorkeeper import Doorkeeper
from central.access.emergencies import Opening, Verdict
from central.access.errors import AccessRuleError
from central.access.on_record import admit
from central.access.policy import (
    Denied,
    Grant,
    Principal,
    Privilege,
    authorize,
    has_privilege,
    managed,
    scope_of,
)
from central.access.problems import problem
from central.access.web import principal_of
from central.archive.query import StudyQuery
from central.archive.reading import Reading
from central.audit.events import Action
from central.audit.record import Audit
from central.portal.templating import may_break_glass, page
from central.portal.wishes import NO_STORE, WrongWishError, iso, with_wish
from contract.identifiers import InvalidIdentifierError, check_uid

_VERDICTS: Final = ("justified", "not-justified")
_MAX_COMMENT_CHARACTERS: Final = 1000
_ACCESSION_NUMBER: Final = re.compile(r"[^*?\\\x00-\x1f]{1,64}")
_NOT_HERE: Final = "there is no such study, or it is not opened in this way"


@dataclass(frozen=True)
class EmergencyTerms:
    """Whether studies are opened so at all, and for how long."""

    enabled: bool
    life_s: int


def routes(doorkeeper: Doorkeeper, archive: Reading, audit: Audit, terms: EmergencyTerms) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`."""
    desk = _Desk(doorkeeper, archive, audit, terms)
    return [
        Route("/emergency", desk.show, methods=["GET"]),
        Route("/api/emergencies", desk.listed, methods=["GET"]),
        Route("/api/emergencies", with_wish(desk.open), methods=["POST"]),
        Route("/api/emergencies/unreviewed", desk.unreviewed, methods=["GET"]),
        Route("/api/emergencies/{opening_id}/review", with_wish(desk.review), methods=["POST"]),
    ]


class _Desk:
    def __init__(self, doorkeeper: Doorkeeper, archive: Reading, audit: Audit, terms: EmergencyTerms) -> None:
        self._emergencies = doorkeeper.emergencies
        self._accounts = doorkeeper.accounts
        self._archive = archive
        self._audit = audit
        self._terms = terms

    def show(self, request: Request) -> Response:
        principal = principal_of(request)
        if not (may_break_glass(principal) or _may_review(principal)):
            return page("refused.html", principal, 403, path="/emergency")
        return page(
            "emergency.html",
            principal,
            path="/emergency",
            may_open=self._may_open(principal),
            minutes=self._terms.life_s // 60,
        )

    def listed(self, request: Request) -> Response:
        principal = principal_of(request)
        refusal = None
        if not (_may_review(principal) or may_break_glass(principal)):
            refusal = problem(403, "your role has no part in emergency access")
        answer = admit(self._audit, request, refusal, Action.SEARCH, "emergency openings")
        if answer is not None:
            return answer
        found = (
            self._emergencies.listed(institution=managed(principal))
            if _may_review(principal)
            else self._emergencies.listed(principal.user_id)
        )
        return JSONResponse({"openings": [_json(opening, principal) for opening in found]}, headers=NO_STORE)

    def unreviewed(self, request: Request) -> Response:
        if not _may_review(principal_of(request)):
            return problem(403, "your role may not review emergency access")
        return JSONResponse(
            {"unreviewed": self._emergencies.unreviewed(managed(principal_of(request)))}, headers=NO_STORE
        )

    def open(self, request: Request, wish: Mapping[str, Any]) -> Response:
        study, accession = wish.get("study_instance_uid", ""), wish.get("accession_number", "")
        reason = wish.get("reason")
        if not (isinstance(study, str) and isinstance(accession, str) and isinstance(reason, str)):
            raise WrongWishError(
                'send {"study_instance_uid" or "accession_number": "…", "reason": "…"}, all of it text'
            )
        try:
            if study:
                check_uid(study, "study_instance_uid")
            elif not _ACCESSION_NUMBER.fullmatch(accession):
                raise WrongWishError("give the Study Instance UID or the accession number, as a whole")
        except InvalidIdentifierError as error:
            raise WrongWishError(str(error)) from error
        reason, principal = reason.strip(), principal_of(request)
        if not study:
            study = self._study_of(principal, accession)
        refusal, why = self._why_not(principal, study, reason)
        held_by = self._held_by(principal, study) if refusal is None else ()
        asked = f"accession number {accession}, " if accession else ""
        detail = f"{asked}{why}: {reason}" if why else f"{asked}{reason}"
        answer = admit(
            self._audit, request, refusal, Action.BREAK_GLASS, detail, study or None, institutions=held_by
        )
        if answer is not None:
            return answer
        try:
            until_utc = self._emergencies.open_study(study, principal.user_id, reason, self._terms.life_s)
        except AccessRuleError as error:  # it was the last one of the day, asked for twice at once
            return problem(400, str(error))
        return JSONResponse({"study_instance_uid": study, "until_utc": iso(until_utc)}, 201, headers=NO_STORE)

    def _held_by(self, principal: Principal, study: str) -> tuple[str, ...]:
        """Whose study is opened: auditors of another institution that agreed to it are to know."""
        facts = self._archive.facts(study)
        decision = authorize(principal, Action.BREAK_GLASS, facts) if facts else None
        return decision.institutions if isinstance(decision, Grant) else ()

    def _study_of(self, principal: Principal, accession: str) -> str:
        """The one study with that accession number; "" if there is none, or more than one."""
        query = StudyQuery(accession_number=accession, limit=2)
        found = self._archive.find_studies(scope_of(principal, Action.BREAK_GLASS), query)
        return found[0].study_instance_uid if len({row.study_instance_uid for row in found}) == 1 else ""

    def _why_not(self, principal: Principal, study: str, reason: str) -> tuple[Response | None, str]:
        """The answer to who may not, and for the record why."""
        if not self._may_open(principal):
            return problem(403, "emergency access is not open to you"), "role-may-not"
        try:  # before the study: who gives no reason would learn for nothing what is here
            self._emergencies.check(principal.user_id, reason)
        except AccessRuleError as error:
            return problem(400, str(error)), str(error)
        facts = self._archive.facts(study) if study else None
        decision = authorize(principal, Action.BREAK_GLASS, facts) if facts else None
        if facts is None or isinstance(decision, Denied):
            return problem(404, _NOT_HERE), decision.reason.value if isinstance(
                decision, Denied
            ) else "not here"
        if isinstance(authorize(principal, Action.VIEW, facts), Grant):
            return problem(409, "you may see this study already: find it in the study list"), "in scope"
        return None, ""

    def review(self, request: Request, wish: Mapping[str, Any]) -> Response:
        verdict, comment = wish.get("verdict"), wish.get("comment", "")
        if verdict not in _VERDICTS or not isinstance(comment, str) or len(comment) > _MAX_COMMENT_CHARACTERS:
            raise WrongWishError('send {"verdict": "justified" or "not-justified", "comment": "…"}')
        verdict, comment = cast(Verdict, verdict), comment.strip()
        principal, opening_id = principal_of(request), str(request.path_params["opening_id"])
        refusal, detail, study = None, f"opening {opening_id[:64]}", None
        concerned: tuple[str, ...] = ()
        if not _may_review(principal):
            refusal = problem(403, "your role may not review emergency access")
        else:
            opening = self._emergencies.get(opening_id, managed(principal))
            if opening is None or opening.verdict is not None:
                refusal = problem(404, "there is no such opening that waits for a review")
            elif opening.username == principal.username:
                refusal = problem(409, "you opened it yourself: somebody else reviews it")
            else:
                detail, study = f"{verdict}, by {opening.username}: {comment}", opening.study_instance_uid
                concerned = tuple(filter(None, [self._accounts.institution_of(opening.username)]))
        answer = admit(
            self._audit,
            request,
            refusal,
            Action.BREAK_GLASS_REVIEW,
            detail,
            study,
            institutions=concerned,
        )
        if answer is not None:
            return answer
        if not self._emergencies.review(opening_id, principal.username, verdict, comment):
            return problem(409, "somebody else has reviewed it meanwhile")
        return Response(status_code=204)

    def _may_open(self, principal: Principal) -> bool:
        return self._terms.enabled and may_break_glass(principal)


def _may_review(principal: Principal) -> bool:
    return has_privilege(principal, Privilege.REVIEW_EMERGENCIES)


def _json(opening: Opening, principal: Principal) -> dict[str, Any]:
    times = ("opened_at_utc", "until_utc", "reviewed_at_utc")
    said = {
        name: iso(value) if name in times and value is not None else value
        for name, value in asdict(opening).items()
    }
    return {**said, "is_own": opening.username == principal.username}
