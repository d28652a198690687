"""The one place that decides who may see what. Pure: no I/O, no clock, no database.

Why it exists: DICOMweb, DIMSE, the portal, the viewer and every export ask the same function, so a rule is
changed once and holds everywhere.

What is always true
-------------------
- What no rule allows is denied; an unknown role or action reaches nothing.
- `authorize(principal, action, facts)` grants exactly when `scope_of(principal, action).covers(facts)`. A search
  turns the same Scope into SQL, so a list shows neither more nor less than can be opened.
- A `Grant` can be made by this module only. Reads of the archive take one, so an unchecked path does not type.
- An empty name or patient id is nobody's: it matches no one, rather than everyone without one.
- A refusal wins over every rule: over roles, grants, invitations and emergencies. Withdrawn consent is a refusal for
  everybody who is not excepted by name, for peers as well.
- A guest reaches one study, and that only as far as whoever invited him may still pass it on.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, NamedTuple

from central.audit.record import Action

__all__ = [
    "NOTHING",
    "Action",
    "Delegation",
    "DenialReason",
    "Denied",
    "Grant",
    "Invitation",
    "PatientKey",
    "Principal",
    "Privilege",
    "Role",
    "Scope",
    "StudyFacts",
    "authorize",
    "delegable",
    "has_privilege",
    "person_name_key",
    "scope_of",
]


class Role(StrEnum):
    """What an account is for. PEER is a configured DIMSE application entity, GUEST the holder of a link to one study:
    neither has an account. SERVICE is a program."""

    ADMIN = "admin"
    RADIOLOGIST = "radiologist"
    DOCTOR = "doctor"
    PATIENT = "patient"
    PEER = "peer"
    SERVICE = "service"
    GUEST = "guest"


class Privilege(StrEnum):
    """What may be done to the house, as apart from what may be seen of patients."""

    READ_FLEET = "read-fleet"
    PAIR_GATEWAY = "pair-gateway"
    COMMAND_GATEWAY = "command-gateway"
    READ_AUDIT = "read-audit"
    MANAGE_WORKLIST = "manage-worklist"
    STORE_INSTANCES = "store-instances"
    GIVE_ACCESS = "give-access"
    MANAGE_ACCESS = "manage-access"
    REVIEW_EMERGENCIES = "review-emergencies"


class PatientKey(NamedTuple):
    """A patient is a Patient ID together with who issued it (PS3.3 C.7.1.1); issuer "" when none is said."""

    issuer: str
    patient_id: str


@dataclass(frozen=True)
class Principal:
    """Somebody who has proved who they are, and all that holds for them now.

    Attributes
    ----------
    referring_physician_names : Person Names (VR PN) as on the images.
    granted_studies, refused_studies : by a rule for this person and one study.
    emergency_studies : opened by this person in an emergency, for a short time.
    consent_exceptions : patients whose withdrawal of consent does not bind this person.
    delegation : of a program that asks with an API token; None: it is the person in person.
    invitation : of a guest, and of nobody else.
    """

    user_id: str
    username: str
    role: Role
    referring_physician_names: tuple[str, ...] = ()
    patient_ids: tuple[PatientKey, ...] = ()
    granted_studies: frozenset[str] = frozenset()
    refused_studies: frozenset[str] = frozenset()
    emergency_studies: frozenset[str] = frozenset()
    consent_exceptions: frozenset[PatientKey] = frozenset()
    delegation: Delegation | None = None
    invitation: Invitation | None = None


@dataclass(frozen=True)
class Delegation:
    """What an API token may do for its owner."""

    token_id: str
    actions: frozenset[Action]


@dataclass(frozen=True)
class Invitation:
    """What a guest was invited to, and by whom, as that person stands now."""

    study_instance_uid: str
    host: Principal


@dataclass(frozen=True)
class StudyFacts:
    """All the policy needs to know of a study. The physician's name may be as stored or already a key.

    `consent_withdrawn`: its patient has withdrawn consent, and not given it back.
    """

    study_instance_uid: str
    patient_id: str
    issuer_of_patient_id: str
    referring_physician_name: str
    consent_withdrawn: bool


class DenialReason(StrEnum):
    """Why not; for the audit record only. From outside, denied and absent look alike."""

    ROLE_MAY_NOT = "role-may-not"
    NOT_IN_SCOPE = "not-in-scope"
    REFUSED = "refused"
    CONSENT_WITHDRAWN = "consent-withdrawn"


@dataclass(frozen=True)
class Scope:
    """What a principal may find. Turned into an SQL WHERE by the archive; `covers` is its meaning.

    `everything`, or else studies whose referring physician's key, patient or Study Instance UID is listed; of these
    `only_study` alone where it is not None; never `refused_studies`, and those of a patient who withdrew consent only
    where `despite_withdrawal_of` lists the patient.
    """

    everything: bool = False
    referring_physician_keys: frozenset[str] = frozenset()
    patients: frozenset[PatientKey] = frozenset()
    studies: frozenset[str] = frozenset()
    only_study: str | None = None
    refused_studies: frozenset[str] = frozenset()
    despite_withdrawal_of: frozenset[PatientKey] = frozenset()

    @property
    def is_nothing(self) -> bool:
        """Whether no study at all can be in it."""
        return not (self.everything or self.referring_physician_keys or self.patients or self.studies)

    def covers(self, facts: StudyFacts) -> bool:
        return self.why_not(facts) is None

    def why_not(self, facts: StudyFacts) -> DenialReason | None:
        """What keeps the study of `facts` out; None if it is covered."""
        uid, patient = facts.study_instance_uid, PatientKey(facts.issuer_of_patient_id, facts.patient_id)
        if uid in self.refused_studies:
            return DenialReason.REFUSED
        if facts.consent_withdrawn and patient not in self.despite_withdrawal_of:
            return DenialReason.CONSENT_WITHDRAWN
        within = (
            self.everything
            or person_name_key(facts.referring_physician_name) in self.referring_physician_keys
            or patient in self.patients
            or uid in self.studies
        )
        return None if within and self.only_study in (None, uid) else DenialReason.NOT_IN_SCOPE


NOTHING: Final = Scope()


@dataclass(frozen=True)
class Denied:
    reason: DenialReason


_MINT: Final = object()


@dataclass(frozen=True)
class Grant:
    """Proof that the policy allowed `principal` to do `action` with one study."""

    principal: Principal
    action: Action
    study_instance_uid: str
    mint: object = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mint is not _MINT:
            raise TypeError("a Grant is made by central.access.policy.authorize only")


_READS: Final = frozenset({Action.SEARCH, Action.VIEW, Action.EXPORT})
_LOOKS: Final = frozenset({Action.SEARCH, Action.VIEW})
_MAY: Final[Mapping[Role, frozenset[Action]]] = {
    Role.ADMIN: frozenset(),  # runs the house; patients' images are not part of that
    Role.RADIOLOGIST: _READS | {Action.SHARE},
    Role.DOCTOR: _READS | {Action.SHARE, Action.BREAK_GLASS},
    Role.PATIENT: _READS,
    Role.PEER: frozenset({Action.SEARCH, Action.EXPORT}),  # as far as its own settings allow
    Role.SERVICE: frozenset(),  # such as a RIS or a sender of images: it adds, and sees nothing of what is there
    Role.GUEST: _LOOKS,
}
_PRIVILEGES: Final[Mapping[Role, frozenset[Privilege]]] = {
    Role.ADMIN: frozenset(Privilege),
    # What a radiologist makes of images (measurements, key images, reports) is instances, too.
    Role.RADIOLOGIST: frozenset({Privilege.READ_FLEET, Privilege.GIVE_ACCESS, Privilege.STORE_INSTANCES}),
    Role.SERVICE: frozenset({Privilege.MANAGE_WORKLIST, Privilege.STORE_INSTANCES}),
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
        despite_withdrawal_of=principal.consent_exceptions,
    )


def _by_role(principal: Principal, action: Action) -> Scope:
    match principal.role:
        case Role.RADIOLOGIST | Role.PEER:
            return Scope(everything=True)
        case Role.DOCTOR if action is Action.BREAK_GLASS:
            return Scope(everything=True)
        case Role.DOCTOR:
            keys = {person_name_key(name) for name in principal.referring_physician_names}
            studies = principal.granted_studies
            # An emergency is for looking: nothing is taken away or passed on.
            studies |= principal.emergency_studies if action in _LOOKS else frozenset()
            return Scope(referring_physician_keys=frozenset(keys - {""}), studies=studies)
        case Role.PATIENT:
            patients = frozenset(key for key in principal.patient_ids if key.patient_id)
            return Scope(patients=patients, studies=principal.granted_studies)
        case _:
            return NOTHING


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
    """Decide whether `principal` may do `action` with the study of `facts`."""
    if action not in _MAY.get(principal.role, frozenset()):
        return Denied(DenialReason.ROLE_MAY_NOT)
    why_not = scope_of(principal, action).why_not(facts)
    if why_not is not None:
        return Denied(why_not)
    return Grant(principal, action, facts.study_instance_uid, _MINT)


def delegable(principal: Principal) -> frozenset[Action]:
    """What an API token of this person can be made for; nothing for who is no account's owner in person."""
    if principal.delegation is not None or principal.role in (Role.GUEST, Role.PEER):
        return frozenset()
    return _READS & _MAY.get(principal.role, frozenset())


def has_privilege(principal: Principal, privilege: Privilege) -> bool:
    """Whether `principal` may do something to the house itself; never by an API token."""
    return principal.delegation is None and privilege in _PRIVILEGES.get(principal.role, frozenset())


def person_name_key(pn: str) -> str:
    """``family^given`` of a Person Name (PS3.5 section 6.2.1), folded so that spelling variants meet.

    Case, accents, repeated spaces, middle names, prefixes and suffixes do not count; the first representation
    that is not empty is taken (alphabetic, ideographic, phonetic). The key of a key is itself.
    """
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", pn).casefold())
    plain = "".join(char for char in folded if not unicodedata.combining(char))
    group = next((group for group in plain.split("=") if group.strip(" ^")), "")
    parts = [" ".join(part.split()) for part in group.split("^")]
    return "^".join(parts[:2]).rstrip("^")
