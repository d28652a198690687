"""The page of one study's access: who may see it now, and why, as the policy says; for who manages access.

Always true: of the study its date, modalities and numbers are told and whether consent is withdrawn, no image and
nothing of its patient. A patient's account is named where a rule names it, and people of another institution are as
well; else they are counted. The question is on record before it is answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.doorkeeper import Doorkeeper
from central.access.on_record import admit
from central.access.onlookers import HousePeer, Onlooker, onlookers
from central.access.policy import Principal, Privilege, Role, StudyFacts, has_privilege, managed, manages
from central.access.problems import problem
from central.access.web import principal_of
from central.archive.erasure_requests import Extent
from central.archive.reading import Reading
from central.audit.events import Action
from central.audit.record import Audit
from central.portal.study_steps import study_of, whose
from central.portal.templating import page
from central.portal.wishes import NO_STORE, iso, with_wish


def routes(
    doorkeeper: Doorkeeper,
    archive: Reading,
    audit: Audit,
    extent: Callable[[str, str], Extent | None],
    peers: Callable[[], Sequence[HousePeer]],
) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`. `extent`: what an institution has of a study; `peers`: who they are now."""
    desk = _Desk(doorkeeper, archive, audit, extent, peers)
    return [
        Route("/access", desk.show, methods=["GET"]),
        Route("/api/study-access", with_wish(desk.tell), methods=["POST"]),
    ]


class _Desk:
    def __init__(
        self,
        doorkeeper: Doorkeeper,
        archive: Reading,
        audit: Audit,
        extent: Callable[[str, str], Extent | None],
        peers: Callable[[], Sequence[HousePeer]],
    ) -> None:
        self._doorkeeper = doorkeeper
        self._archive = archive
        self._audit = audit
        self._extent = extent
        self._peers = peers

    def show(self, request: Request) -> Response:
        principal = principal_of(request)
        if not has_privilege(principal, Privilege.MANAGE_ACCESS):
            return page("refused.html", principal, 403, path="/access")
        # In the navigation it is under the page that it is reached from.
        return page("access.html", principal, path="/sharing", whole_central=managed(principal) is None)

    def tell(self, request: Request, wish: Mapping[str, Any]) -> Response:
        study, principal = study_of(wish), principal_of(request)
        held = self._held(study)
        holder = whose(request, wish, sorted(held))
        refusal = holder if isinstance(holder, Response) else None
        if not has_privilege(principal, Privilege.MANAGE_ACCESS):
            refusal = problem(403, "your role may not manage access")
        answer = admit(self._audit, request, refusal, Action.SEARCH, "who may see the study", study)
        if answer is not None or isinstance(holder, Response):
            return answer or problem(404)
        facts, extent = held[holder], self._extent(study, holder)
        if extent is None:  # erased at this very moment
            return problem(404, "there is no such study")
        found = onlookers(self._doorkeeper, facts, self._peers())
        told = asdict(extent)
        del told["hold"]  # which is another page's matter
        return JSONResponse(
            {**told, "consent_withdrawn": facts.consent_withdrawn, "people": people_json(found, principal)},
            headers=NO_STORE,
        )

    def _held(self, study: str) -> dict[str, StudyFacts]:
        facts = self._archive.facts(study)
        return {one.institution: one for one in (facts, *facts.elsewhere)} if facts is not None else {}


def people_json(found: Iterable[Onlooker], caller: Principal) -> list[dict[str, Any]]:
    """Those who are named, in their order, and behind them how many others there are of each kind."""
    named: list[dict[str, Any]] = []
    others: Counter[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = Counter()
    for one in found:
        said = one.explanation
        role, institution = one.principal.role, one.principal.institution
        if one.is_named or one.link or (role is not Role.PATIENT and manages(caller, institution)):
            named.append(
                {
                    "who": one.link.note if one.link else one.principal.username,
                    "count": 1,
                    "role": role.value,
                    "institution": institution,
                    "may": said.may,
                    "why": said.why,
                    "why_not": said.why_not,
                    "because": _because(one, caller),
                }
            )
        else:
            others[role.value, institution, said.may, said.why] += 1
    named.sort(key=lambda one: not one["because"])  # what is said of single people comes first
    return named + [
        {
            "who": "",
            "count": count,
            "role": role,
            "institution": institution,
            "may": may,
            "why": why,
            "why_not": None,
            "because": [],
        }
        for (role, institution, may, why), count in sorted(others.items())
    ]


def _because(one: Onlooker, caller: Principal) -> list[dict[str, Any]]:
    """What stands behind it, and the address that ends it; what is "by order" nobody gave by hand."""
    rules = [
        _reason(rule.kind, rule.until_utc, rule.made_at_utc, rule.made_by, rule.reason)
        | {"ends": f"/api/study-rules/{rule.rule_id}"}
        for rule in one.rules
    ]
    assignments = [
        _reason(
            "assigned-study" if kept.study_instance_uid else "assigned-patient",
            kept.until_utc,
            kept.made_at_utc,
            kept.made_by,
            "by order" if kept.by_order else "",
        )
        | {"ends": f"/api/assignments/{kept.assignment_id}"}
        for kept in one.assignments
    ]
    openings = [
        _reason("emergency", kept.until_utc, kept.opened_at_utc, kept.username, kept.reason)
        for kept in one.openings
    ]
    if one.link is None:
        return [*rules, *assignments, *openings]
    link, host = one.link, one.principal.invitation
    made_by = host.host.username if host is not None else ""
    used = f"opened {link.uses} of {link.max_uses} times, {'with' if link.has_pin else 'without'} PIN"
    guest = _reason("guest-link", link.ends_at_utc, link.made_at_utc, made_by, used)
    # A link of another institution's host is ended there, or here with the host's own access.
    ends = f"/api/guest-links/{link.link_id}" if manages(caller, one.principal.institution) else None
    return [guest | {"ends": ends}]


def _reason(what: str, until_utc: int | None, made_at_utc: int, made_by: str, said: str) -> dict[str, Any]:
    return {
        "what": what,
        "until_utc": iso(until_utc) if until_utc is not None else None,
        "made_at_utc": iso(made_at_utc),
        "made_by": made_by,
        "said": said,
        "ends": None,
    }
