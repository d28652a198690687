"""Access to single studies, given and refused, and withdrawn consent: what the sharing page lists and changes.

Always true: each change is on record before it counts. Who gives access may see the study at that moment, or manages
access and sees none; a study that the caller may not see answers like one that is not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.consent import EVERYWHERE, Withdrawal
from central.access.doorkeeper import Doorkeeper
from central.access.errors import AccessRuleError
from central.access.on_record import admit
from central.access.policy import (
    Grant,
    PatientKey,
    Privilege,
    authorize,
    has_privilege,
    managed,
    manages,
)
from central.access.problems import problem
from central.access.study_rules import Kind, Rule
from central.access.web import principal_of
from central.archive.reading import Reading
from central.audit.events import Action
from central.audit.record import Audit
from central.portal.templating import may_invite, may_share, page
from central.portal.wishes import NO_STORE, WrongWishError, iso, seconds_of, with_wish
from contract.identifiers import InvalidIdentifierError, check_uid

_KINDS: Final[dict[str, Kind]] = {"grant": "grant", "refusal": "refusal"}
_MAX_KEY_CHARACTERS: Final = 256


def routes(doorkeeper: Doorkeeper, archive: Reading, audit: Audit) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`."""
    rules, consents = _Rules(doorkeeper, archive, audit), _Consents(doorkeeper, archive, audit)
    return [
        Route("/sharing", _page, methods=["GET"]),
        Route("/api/study-rules", rules.listed, methods=["GET"]),
        Route("/api/study-rules", with_wish(rules.add), methods=["POST"]),
        Route("/api/study-rules/{rule_id}", rules.end, methods=["DELETE"]),
        Route("/api/consent-withdrawals", consents.listed, methods=["GET"]),
        Route("/api/consent-withdrawals", with_wish(consents.add), methods=["POST"]),
        Route("/api/consent-withdrawals/{withdrawal_id}", consents.end, methods=["DELETE"]),
    ]


def _page(request: Request) -> Response:
    principal = principal_of(request)
    if not may_share(principal):
        return page("refused.html", principal, 403, path="/sharing")
    return page(
        "sharing.html",
        principal,
        path="/sharing",
        may_invite=may_invite(principal),
        may_give=has_privilege(principal, Privilege.GIVE_ACCESS),
        may_manage=has_privilege(principal, Privilege.MANAGE_ACCESS),
    )


class _Rules:
    def __init__(self, doorkeeper: Doorkeeper, archive: Reading, audit: Audit) -> None:
        self._accounts = doorkeeper.accounts
        self._rules = doorkeeper.rules
        self._archive = archive
        self._audit = audit

    def listed(self, request: Request) -> Response:
        principal = principal_of(request)
        refusal = None
        if not has_privilege(principal, Privilege.GIVE_ACCESS):
            refusal = problem(403, "your role may not give access")
        answer = admit(self._audit, request, refusal, Action.SEARCH, "rules for single studies")
        if answer is not None:
            return answer
        all_of_them = has_privilege(principal, Privilege.MANAGE_ACCESS)
        rules = (
            self._rules.listed(institution=managed(principal))
            if all_of_them
            else self._rules.listed(made_by=principal.username)
        )
        return JSONResponse({"rules": [_rule_json(rule) for rule in rules]}, headers=NO_STORE)

    def add(self, request: Request, wish: Mapping[str, Any]) -> Response:
        kind, wanted = _KINDS.get(str(wish.get("kind"))), str(wish.get("institution") or "")
        username, reason, until = wish.get("username"), wish.get("reason"), wish.get("until_utc")
        if not (kind and isinstance(username, str) and isinstance(reason, str)):
            raise WrongWishError(
                'send {"kind": "grant" or "refusal", "study_instance_uid": "…", "username": "…", '
                '"reason": "…", "until_utc": "2026-01-31T08:00:00+00:00"}; a refusal may have no end'
            )
        try:
            study = check_uid(str(wish.get("study_instance_uid") or ""), "study_instance_uid")
            until_utc = seconds_of(until, "until_utc") if until is not None else None
        except (InvalidIdentifierError, ValueError) as error:
            raise WrongWishError(str(error)) from error
        username, reason = username.strip()[:64], reason.strip()
        ends = iso(until_utc) if until_utc is not None else "it is ended"
        detail = f"{kind} for {username} until {ends}: {reason}"
        holder = self._holder(request, kind, study, wanted)
        refusal = holder if isinstance(holder, Response) else None
        concerned = () if isinstance(holder, Response) else self._concerned(holder, username)
        answer = admit(
            self._audit, request, refusal, Action.ACCESS_CHANGE, detail, study, institutions=concerned
        )
        if answer is not None or isinstance(holder, Response):
            return answer or problem(404)
        try:
            rule = self._rules.add(
                kind,
                study,
                username,
                until_utc=until_utc,
                reason=reason,
                made_by=principal_of(request).username,
                institution=holder,
            )
        except AccessRuleError as error:
            return problem(400, str(error))
        return JSONResponse(_rule_json(rule), 201, headers=NO_STORE)

    def _holder(self, request: Request, kind: Kind, study: str, wanted: str) -> str | Response:
        """The institution whose study the rule will be about, `wanted` where several can be meant; or why none."""
        principal = principal_of(request)
        may_manage = has_privilege(principal, Privilege.MANAGE_ACCESS)
        if not has_privilege(principal, Privilege.GIVE_ACCESS) or (kind == "refusal" and not may_manage):
            return problem(403, "your role may not do this")
        facts = self._archive.facts(study)
        held_by: Sequence[str] = ()
        if facts and may_manage:
            held_by = [
                one.institution for one in (facts, *facts.elsewhere) if manages(principal, one.institution)
            ]
        elif facts:
            decision = authorize(principal, Action.SHARE, facts)
            held_by = decision.institutions if isinstance(decision, Grant) else ()
        if wanted:
            held_by = [one for one in held_by if one == wanted]
        if not held_by:
            return problem(404, "there is no such study")
        if len(held_by) > 1:
            return problem(400, f"several institutions hold it: say which ({', '.join(held_by)})")
        return held_by[0]

    def end(self, request: Request) -> Response:
        principal, rule_id = principal_of(request), str(request.path_params["rule_id"])
        rule = self._rules.get(rule_id)
        may_manage = has_privilege(principal, Privilege.MANAGE_ACCESS)
        if rule is not None and may_manage and not manages(principal, rule.institution):
            rule = None  # another institution's is not there
        mine = has_privilege(principal, Privilege.GIVE_ACCESS) and (
            may_manage or (rule is not None and rule.made_by == principal.username)
        )
        concerned: tuple[str, ...] = ()
        if rule is None or not mine:
            refusal = problem(404, "there is no such rule") if mine else problem(403, "this is not your rule")
            detail, study = f"end rule {rule_id[:64]}", None
        else:
            refusal, detail, study, concerned = (
                None,
                f"end the {rule.kind} for {rule.username}",
                rule.study_instance_uid,
                self._concerned(rule.institution, rule.username),
            )
        answer = admit(
            self._audit, request, refusal, Action.ACCESS_CHANGE, detail, study, institutions=concerned
        )
        if answer is not None:
            return answer
        self._rules.end(rule_id)
        return Response(status_code=204)

    def _concerned(self, holder: str, username: str) -> tuple[str, ...]:
        """Whose study it is, and whose person."""
        theirs = self._accounts.institution_of(username)
        return (holder,) if theirs is None else (holder, theirs)


class _Consents:
    def __init__(self, doorkeeper: Doorkeeper, archive: Reading, audit: Audit) -> None:
        self._consents = doorkeeper.consents
        self._institutions = doorkeeper.institutions
        self._archive = archive
        self._audit = audit

    def listed(self, request: Request) -> Response:
        answer = admit(self._audit, request, _manager_only(request), Action.SEARCH, "withdrawn consents")
        if answer is not None:
            return answer
        withdrawals = [
            self._json(withdrawal) for withdrawal in self._consents.listed(managed(principal_of(request)))
        ]
        return JSONResponse({"withdrawals": withdrawals}, headers=NO_STORE)

    def add(self, request: Request, wish: Mapping[str, Any]) -> Response:
        patient_id, issuer = wish.get("patient_id"), wish.get("issuer_of_patient_id", "")
        exceptions = wish.get("exceptions", [])
        if not (isinstance(patient_id, str) and isinstance(issuer, str) and _is_names(exceptions)):
            raise WrongWishError(
                'send {"patient_id": "…", "issuer_of_patient_id": "…", "exceptions": ["<username>", …]}'
            )
        patient = PatientKey(
            issuer.strip(" ")[:_MAX_KEY_CHARACTERS], patient_id.strip(" ")[:_MAX_KEY_CHARACTERS]
        )
        principal, exceptions = principal_of(request), list(dict.fromkeys(exceptions))
        but = f" but {', '.join(exceptions)}" if exceptions else ""
        detail = f"withdrawn: {_said(patient)}, nobody{but}"
        institution, refusal = managed(principal) or EVERYWHERE, _manager_only(request)
        concerned = self._concerned(institution) if refusal is None else ()
        answer = admit(self._audit, request, refusal, Action.CONSENT_CHANGE, detail, institutions=concerned)
        if answer is not None:
            return answer
        try:
            withdrawal_id = self._consents.withdraw(patient, principal.username, exceptions, institution)
        except AccessRuleError as error:
            return problem(400, str(error))
        studies = len(self._archive.studies_of(patient, managed(principal)))
        answer_json = {"withdrawal_id": withdrawal_id, "studies": studies}
        return JSONResponse(answer_json, 201, headers=NO_STORE)

    def end(self, request: Request) -> Response:
        withdrawal_id = str(request.path_params["withdrawal_id"])
        detail, refusal = f"given again: withdrawal {withdrawal_id[:64]}", _manager_only(request)
        concerned: Sequence[str] = ()
        if refusal is None:
            listed = self._consents.listed(managed(principal_of(request)))
            found = next((one for one in listed if one.withdrawal_id == withdrawal_id), None)
            if found is None:
                refusal = problem(404, "there is no such withdrawal that holds")
            else:
                detail = f"given again: {_said(found.patient)}"
                concerned = self._concerned(found.institution)
        answer = admit(self._audit, request, refusal, Action.CONSENT_CHANGE, detail, institutions=concerned)
        if answer is not None:
            return answer
        self._consents.end(withdrawal_id)
        return Response(status_code=204)

    def _concerned(self, institution: str) -> Sequence[str]:
        """Where the withdrawal holds."""
        return (institution,) if institution != EVERYWHERE else tuple(self._institutions.listed())

    def _json(self, withdrawal: Withdrawal) -> dict[str, Any]:
        return {
            "withdrawal_id": withdrawal.withdrawal_id,
            "patient_id": withdrawal.patient.patient_id,
            "issuer_of_patient_id": withdrawal.patient.issuer,
            "exceptions": list(withdrawal.exceptions),
            "made_by": withdrawal.made_by,
            "made_at_utc": iso(withdrawal.made_at_utc),
            "institution": withdrawal.institution,
            "studies": len(self._archive.studies_of(withdrawal.patient, withdrawal.institution or None)),
        }


def _manager_only(request: Request) -> Response | None:
    if has_privilege(principal_of(request), Privilege.MANAGE_ACCESS):
        return None
    return problem(403, "your role may not manage consent")


def _said(patient: PatientKey) -> str:
    return f"patient {patient.patient_id} of {patient.issuer or 'no issuer'}"


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _rule_json(rule: Rule) -> dict[str, Any]:
    return {
        "rule_id": rule.rule_id,
        "kind": rule.kind,
        "study_instance_uid": rule.study_instance_uid,
        "username": rule.username,
        "until_utc": iso(rule.until_utc) if rule.until_utc is not None else None,
        "reason": rule.reason,
        "made_by": rule.made_by,
        "made_at_utc": iso(rule.made_at_utc),
        "institution": rule.institution,
    }
