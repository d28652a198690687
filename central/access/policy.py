"""The one place that decides who may see what. Pure: no I/O, no clock, no database.

Why it exists: DICOMweb, DIMSE, the portal, the viewer and every export ask the same function, so a rule is
changed once and holds everywhere.

What is always true
-------------------
- What no rule allows is denied; an unknown role or action reaches nothing.
- `authorize(principal, action, facts)` grants exactly what `scope_of(principal, action)` covers. A search turns the
  same Scope into SQL, so a list shows neither more nor less than can be opened.
- A `Grant` can be made by this module only. Reads of the archive take one, so an unchecked path does not type.
- A refusal wins over every rule: over roles, grants, invitations and emergencies. Withdrawn consent is a refusal for
  everybody who is not excepted by name, for peers as well.
- A guest reaches one study, and that only as far as whoever invited him may still pass it on.
- One institution's people reach nothing of another's but what an agreement opens to their role, or a grant to them.
  A Study Instance UID that two institutions hold is two studies here (decision 43).

Who asks is said in `central.access.principal`, what they may find in `central.access.scope`, and what may be done to
the house in `central.access.privileges`; the rooms beside take all of it from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from central.access.principal import (
    Agreement,
    Delegation,
    Invitation,
    PatientKey,
    PatientOf,
    Principal,
    Role,
    Sharing,
    StudyKey,
)
from central.access.privileges import Privilege, has_privilege, managed, manages
from central.access.scope import (
    NOTHING,
    Arrivals,
    DenialReason,
    Scope,
    StudyFacts,
    department_key,
    ideographic_key,
    is_called,
    person_name_key,
    physician_key,
)
from central.audit.events import Action

__all__ = [
    "NOTHING",
    "Action",
    "Agreement",
    "Arrivals",
    "Delegation",
    "DenialReason",
    "Denied",
    "Grant",
    "Invitation",
    "PatientKey",
    "PatientOf",
    "Principal",
    "Privilege",
    "Role",
    "Scope",
    "Sharing",
    "StudyFacts",
    "StudyKey",
    "authorize",
    "delegable",
    "department_key",
    "has_privilege",
    "ideographic_key",
    "is_called",
    "managed",
    "manages",
    "person_name_key",
    "physician_key",
    "renew",
    "scope_of",
]


@dataclass(frozen=True)
class Denied:
    reason: DenialReason


_MINT: Final = object()


@dataclass(frozen=True)
class Grant:
    """Proof that the policy allowed `principal` to do `action` with one study.

    `institutions`: those whose holding of it was granted, the principal's own first.
    """

    principal: Principal
    action: Action
    study_instance_uid: str
    mint: object = field(default=None, repr=False, compare=False)
    institutions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mint is not _MINT:
            raise TypeError("a Grant is made by central.access.policy.authorize only")


_READS: Final = frozenset({Action.SEARCH, Action.VIEW, Action.EXPORT})

_LOOKS: Final = frozenset({Action.SEARCH, Action.VIEW})

_MAY: Final[Mapping[Role, frozenset[Action]]] = {
    Role.ADMIN: frozenset(),  # runs the house; patients' images are not part of that
    Role.RADIOLOGIST: _READS | {Action.SHARE},
    Role.DOCTOR: _READS | {Action.SHARE, Action.BREAK_GLASS},
    Role.TECHNICIAN: _LOOKS,  # whether the images are good; nothing is taken away
    Role.PATIENT: _READS,
    Role.PEER: frozenset({Action.SEARCH, Action.EXPORT}),  # as far as its own settings allow
    Role.SERVICE: frozenset(),  # such as a RIS or a sender of images: it adds, and sees nothing of what is there
    Role.GUEST: _LOOKS,
}

_AGREED: Final[Mapping[Role, tuple[Sharing, frozenset[Action]]]] = {
    # What is opened to another institution is for looking: its people pass nothing of it on.
    Role.RADIOLOGIST: (Sharing.READING, _READS),
    Role.DOCTOR: (Sharing.EMERGENCIES, frozenset({Action.BREAK_GLASS})),
    Role.PATIENT: (Sharing.PATIENTS, _READS),
    Role.PEER: (Sharing.PEERS, frozenset({Action.SEARCH, Action.EXPORT})),
}


def scope_of(principal: Principal, action: Action) -> Scope:
    """What `principal` may reach with `action`; NOTHING when no rule says otherwise.

    The actions on a study are SEARCH, VIEW, EXPORT, SHARE (let somebody else look) and BREAK_GLASS (open it in an
    emergency).
    """
    if action not in _MAY.get(principal.role, frozenset()):
        return NOTHING
    if principal.delegation is not None and action not in principal.delegation.actions:
        return NOTHING
    if principal.role is Role.GUEST:
        return _invited(principal.invitation)
    return replace(
        _by_role(principal, action),
        refused_studies=principal.refused_studies,
        despite_withdrawal_of=frozenset(
            PatientOf(principal.institution, patient) for patient in principal.consent_exceptions
        ),
    )


def _by_role(principal: Principal, action: Action) -> Scope:
    own, reach = frozenset({principal.institution}), _reach(principal, action)
    match principal.role:
        case Role.RADIOLOGIST | Role.PEER:
            return Scope(everything=True, institutions=reach)
        case Role.DOCTOR if action is Action.BREAK_GLASS:
            return Scope(everything=True, institutions=reach)
        case Role.DOCTOR:
            keys = {physician_key(name) for name in principal.referring_physician_names}
            studies = principal.granted_studies | _held(principal.assigned_studies, own)
            # An emergency is for looking: nothing is taken away or passed on.
            if action in _LOOKS:
                studies |= _held(principal.emergency_studies, _reach(principal, Action.BREAK_GLASS))
            return Scope(
                institutions=own,
                referring_physician_keys=frozenset(keys - {""}),
                requesting_service_keys=_department_keys(principal),
                patients=_known(principal.assigned_patients, own),
                studies=studies,
            )
        case Role.TECHNICIAN:
            return Scope(institutions=own, arrivals=_arrivals(principal))
        case Role.PATIENT:
            mine = frozenset(principal.patient_ids)
            abroad = frozenset(key for key in mine if key.issuer)
            patients = _known(mine, own) | _known(abroad, reach)
            return Scope(institutions=own, patients=patients, studies=principal.granted_studies)
        case _:
            return NOTHING


def _reach(principal: Principal, action: Action) -> frozenset[str]:
    """The institutions whose studies `principal` may reach for what the role is."""
    sharing, actions = _AGREED.get(principal.role, (None, frozenset()))
    if action not in actions:
        return frozenset({principal.institution})
    opened = {agreed.institution for agreed in principal.agreements if agreed.sharing is sharing}
    return frozenset({principal.institution, *opened})


def _held(studies: frozenset[str], institutions: frozenset[str]) -> frozenset[StudyKey]:
    return frozenset(StudyKey(institution, uid) for institution in institutions for uid in studies)


def _known(patients: frozenset[PatientKey], institutions: frozenset[str]) -> frozenset[PatientOf]:
    return frozenset(
        PatientOf(institution, key) for institution in institutions for key in patients if key.patient_id
    )


def _department_keys(principal: Principal) -> frozenset[str]:
    return frozenset(department_key(name) for name in principal.departments) - {""}


def _arrivals(principal: Principal) -> Arrivals | None:
    gateways, departments = frozenset(principal.gateway_ids) - {""}, _department_keys(principal)
    if principal.arrivals_since_utc is None or not (gateways or departments):
        return None
    return Arrivals(principal.arrivals_since_utc, gateways, departments)


def _invited(invitation: Invitation | None) -> Scope:
    """What the host may pass on now, of the one study; an exception from withdrawn consent is the host's own."""
    if invitation is None:
        return NOTHING
    return replace(
        scope_of(invitation.host, Action.SHARE),
        only_study=invitation.study_instance_uid,
        despite_withdrawal_of=frozenset(),
    )


def authorize(principal: Principal, action: Action, facts: StudyFacts) -> Grant | Denied:
    """Decide whether `principal` may do `action` with the study of `facts`, in which institutions' holdings."""
    if action not in _MAY.get(principal.role, frozenset()):
        return Denied(DenialReason.ROLE_MAY_NOT)
    scope = scope_of(principal, action)
    why_not = {one.institution: scope.why_not(one) for one in (facts, *facts.elsewhere)}
    granted = [institution for institution, reason in why_not.items() if reason is None]
    if not granted:
        # Of another institution's holding the record of this one says nothing.
        return Denied(why_not.get(principal.institution) or DenialReason.NOT_IN_SCOPE)
    granted.sort(key=lambda institution: (institution != principal.institution, institution))
    return Grant(principal, action, facts.study_instance_uid, _MINT, tuple(granted))


def renew(grant: Grant, principal: Principal, facts: StudyFacts) -> Grant | Denied:
    """Decide anew on what was granted, with `principal` and `facts` as they are now; denied as well where less of the
    study is reached than before."""
    decision = authorize(principal, grant.action, facts)
    if isinstance(decision, Denied):
        return decision
    before = scope_of(grant.principal, grant.action)
    shrunk = before.reads_all_patients and not scope_of(principal, grant.action).reads_all_patients
    if shrunk or not set(grant.institutions) <= set(decision.institutions):
        return Denied(DenialReason.NOT_IN_SCOPE)
    return decision


def delegable(principal: Principal) -> frozenset[Action]:
    """What an API token of this person can be made for; nothing for who is no account's owner in person."""
    if principal.delegation is not None or principal.role in (Role.GUEST, Role.PEER, Role.TECHNICIAN):
        return frozenset()
    return _READS & _MAY.get(principal.role, frozenset())
