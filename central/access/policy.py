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
- One institution's people reach nothing of another's but what an agreement opens to their role, or a grant to them.
  A Study Instance UID that two institutions hold is two studies here (decision 43).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, NamedTuple

from central.audit.record import Action
from central.institution import DEFAULT_INSTITUTION, WHOLE_CENTRAL

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
    "managed",
    "manages",
    "person_name_key",
    "scope_of",
]


class Role(StrEnum):
    """What an account is for. PEER is a configured DIMSE application entity, GUEST the holder of a link to one study:
    neither has an account. SERVICE is a program."""

    ADMIN = "admin"
    RADIOLOGIST = "radiologist"
    DOCTOR = "doctor"
    TECHNICIAN = "technician"
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
    READ_WORKLIST = "read-worklist"
    MANAGE_WORKLIST = "manage-worklist"
    STORE_INSTANCES = "store-instances"
    GIVE_ACCESS = "give-access"
    MANAGE_ACCESS = "manage-access"
    REVIEW_EMERGENCIES = "review-emergencies"
    ERASE_STUDIES = "erase-studies"  # with another one who confirms it; and legal holds, which keep from it


class PatientKey(NamedTuple):
    """A patient is a Patient ID together with who issued it (PS3.3 C.7.1.1); issuer "" when none is said."""

    issuer: str
    patient_id: str


class StudyKey(NamedTuple):
    """A study as one institution holds it."""

    institution: str
    study_instance_uid: str


class PatientOf(NamedTuple):
    """A patient as one institution knows them: without an issuer, two institutions' "P1" are two people."""

    institution: str
    patient: PatientKey


class Sharing(StrEnum):
    """What an institution may open to the people of another, by agreement."""

    READING = "reading"  # its radiologists find, look at and export the studies
    EMERGENCIES = "emergencies"  # its doctors open one in an emergency
    PATIENTS = "patients"  # its patients find their own studies, by an identifier that has an issuer
    PEERS = "peers"  # its DICOM peers query and retrieve


class Agreement(NamedTuple):
    """`institution` has opened its studies to the institution of whoever holds this."""

    sharing: Sharing
    institution: str


@dataclass(frozen=True)
class Principal:
    """Somebody who has proved who they are, and all that holds for them now.

    Attributes
    ----------
    institution : whose they are; `WHOLE_CENTRAL` for an administrator of all of it.
    agreements : what other institutions have opened to it.
    referring_physician_names : Person Names (VR PN) as on the images.
    departments : of a doctor or technician, as orders and equipment name them.
    gateway_ids : the boxes that a technician works at.
    arrivals_since_utc : what came to them since then, in seconds since 1970, a technician may check.
    assigned_studies, assigned_patients : of a doctor, for a time; patients are those of the own institution.
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
    institution: str = DEFAULT_INSTITUTION
    agreements: frozenset[Agreement] = frozenset()
    departments: tuple[str, ...] = ()
    gateway_ids: tuple[str, ...] = ()
    arrivals_since_utc: int | None = None
    assigned_studies: frozenset[str] = frozenset()
    assigned_patients: frozenset[PatientKey] = frozenset()
    granted_studies: frozenset[StudyKey] = frozenset()
    refused_studies: frozenset[StudyKey] = frozenset()
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
    """All the policy needs to know of a study. Names of people and departments may be as stored or already keys.

    Attributes
    ----------
    consent_withdrawn : its patient has withdrawn consent, and not given it back.
    requesting_service : which ordered it (0032,1033).
    institutional_department_name : where the equipment stands (0008,1040).
    arrived_from, arrived_at_utc : the box that sent its first instance, and when, in seconds since 1970.
    elsewhere : the same Study Instance UID as other institutions hold it.
    """

    study_instance_uid: str
    patient_id: str
    issuer_of_patient_id: str
    referring_physician_name: str
    consent_withdrawn: bool
    institution: str = DEFAULT_INSTITUTION
    requesting_service: str = ""
    institutional_department_name: str = ""
    arrived_from: str = ""
    arrived_at_utc: int = 0
    elsewhere: tuple[StudyFacts, ...] = ()


class DenialReason(StrEnum):
    """Why not; for the audit record only. From outside, denied and absent look alike."""

    ROLE_MAY_NOT = "role-may-not"
    NOT_IN_SCOPE = "not-in-scope"
    REFUSED = "refused"
    CONSENT_WITHDRAWN = "consent-withdrawn"


@dataclass(frozen=True)
class Arrivals:
    """Studies whose first instance came since a time, from one of these boxes or out of one of these departments."""

    since_utc: int
    gateway_ids: frozenset[str]
    department_keys: frozenset[str]

    def cover(self, facts: StudyFacts) -> bool:
        return facts.arrived_at_utc >= self.since_utc and (
            facts.arrived_from in self.gateway_ids
            or department_key(facts.institutional_department_name) in self.department_keys
        )


@dataclass(frozen=True)
class Scope:
    """What a principal may find. Turned into an SQL WHERE by the archive; `covers` is its meaning.

    Of the studies of `institutions` (None: of every one) `everything`, or else those whose referring physician's or
    requesting service's key is listed, or that are among the `arrivals`; besides, wherever they are held, those whose
    patient or study is listed with its institution. Of these `only_study` alone where it is not None; never
    `refused_studies`, and those of a patient who withdrew consent only where `despite_withdrawal_of` lists the patient.
    """

    everything: bool = False
    institutions: frozenset[str] | None = None
    referring_physician_keys: frozenset[str] = frozenset()
    requesting_service_keys: frozenset[str] = frozenset()
    arrivals: Arrivals | None = None
    patients: frozenset[PatientOf] = frozenset()
    studies: frozenset[StudyKey] = frozenset()
    only_study: str | None = None
    refused_studies: frozenset[StudyKey] = frozenset()
    despite_withdrawal_of: frozenset[PatientOf] = frozenset()

    @property
    def is_nothing(self) -> bool:
        """Whether no study at all can be in it."""
        return not (self._by_attributes or self.patients or self.studies)

    @property
    def _by_attributes(self) -> bool:
        return bool(
            self.everything or self.referring_physician_keys or self.requesting_service_keys or self.arrivals
        )

    def covers(self, facts: StudyFacts) -> bool:
        """Whether it has the study of `facts`, as that institution holds it; `elsewhere` is not looked at."""
        return self.why_not(facts) is None

    def why_not(self, facts: StudyFacts) -> DenialReason | None:
        """What keeps the study of `facts` out; None if it is covered."""
        study = StudyKey(facts.institution, facts.study_instance_uid)
        patient = PatientOf(facts.institution, PatientKey(facts.issuer_of_patient_id, facts.patient_id))
        if study in self.refused_studies:
            return DenialReason.REFUSED
        if facts.consent_withdrawn and patient not in self.despite_withdrawal_of:
            return DenialReason.CONSENT_WITHDRAWN
        within = (
            ((self.institutions is None or facts.institution in self.institutions) and self._matches(facts))
            or patient in self.patients
            or study in self.studies
        )
        return (
            None
            if within and self.only_study in (None, study.study_instance_uid)
            else DenialReason.NOT_IN_SCOPE
        )

    def _matches(self, facts: StudyFacts) -> bool:
        return (
            self.everything
            or person_name_key(facts.referring_physician_name) in self.referring_physician_keys
            or department_key(facts.requesting_service) in self.requesting_service_keys
            or (self.arrivals is not None and self.arrivals.cover(facts))
        )


NOTHING: Final = Scope()


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
_PRIVILEGES: Final[Mapping[Role, frozenset[Privilege]]] = {
    Role.ADMIN: frozenset(Privilege),
    # What a radiologist makes of images (measurements, key images, reports) is instances, too.
    Role.RADIOLOGIST: frozenset({Privilege.READ_FLEET, Privilege.GIVE_ACCESS, Privilege.STORE_INSTANCES}),
    Role.TECHNICIAN: frozenset({Privilege.READ_FLEET, Privilege.READ_WORKLIST}),  # of the own boxes
    Role.SERVICE: frozenset({Privilege.READ_WORKLIST, Privilege.MANAGE_WORKLIST, Privilege.STORE_INSTANCES}),
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
            keys = {person_name_key(name) for name in principal.referring_physician_names}
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


def delegable(principal: Principal) -> frozenset[Action]:
    """What an API token of this person can be made for; nothing for who is no account's owner in person."""
    if principal.delegation is not None or principal.role in (Role.GUEST, Role.PEER, Role.TECHNICIAN):
        return frozenset()
    return _READS & _MAY.get(principal.role, frozenset())


def has_privilege(principal: Principal, privilege: Privilege) -> bool:
    """Whether `principal` may do something to the house itself; never by an API token."""
    return principal.delegation is None and privilege in _PRIVILEGES.get(principal.role, frozenset())


def manages(principal: Principal, institution: str) -> bool:
    """Whether what `principal` may do to the house holds for this institution."""
    return managed(principal) in (None, institution)


def managed(principal: Principal) -> str | None:
    """The institution for which it holds; None: for all of them."""
    return None if principal.institution == WHOLE_CENTRAL else principal.institution


def department_key(name: str) -> str:
    """A department's name, folded: case, accents and repeated spaces do not count. The key of a key is itself."""
    return " ".join(_plain(name).split())


def person_name_key(pn: str) -> str:
    """``family^given`` of a Person Name (PS3.5 section 6.2.1), folded so that spelling variants meet.

    Case, accents, repeated spaces, middle names, prefixes and suffixes do not count; the first representation
    that is not empty is taken (alphabetic, ideographic, phonetic). The key of a key is itself.
    """
    group = next((group for group in _plain(pn).split("=") if group.strip(" ^")), "")
    parts = [" ".join(part.split()) for part in group.split("^")]
    return "^".join(parts[:2]).rstrip("^")


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(char for char in folded if not unicodedata.combining(char))
