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
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from central.audit.record import Action

__all__ = [
    "NOTHING",
    "Action",
    "DenialReason",
    "Denied",
    "Grant",
    "PatientKey",
    "Principal",
    "Privilege",
    "Role",
    "Scope",
    "StudyFacts",
    "authorize",
    "has_privilege",
    "person_name_key",
    "scope_of",
]


class Role(StrEnum):
    """What an account is for. PEER is a configured DIMSE application entity, not a person; SERVICE is a program."""

    ADMIN = "admin"
    RADIOLOGIST = "radiologist"
    DOCTOR = "doctor"
    PATIENT = "patient"
    PEER = "peer"
    SERVICE = "service"


class Privilege(StrEnum):
    """What may be done to the house, as apart from what may be seen of patients."""

    READ_FLEET = "read-fleet"
    PAIR_GATEWAY = "pair-gateway"
    COMMAND_GATEWAY = "command-gateway"
    READ_AUDIT = "read-audit"
    MANAGE_WORKLIST = "manage-worklist"
    STORE_INSTANCES = "store-instances"


class PatientKey(NamedTuple):
    """A patient is a Patient ID together with who issued it (PS3.3 C.7.1.1); issuer "" when none is said."""

    issuer: str
    patient_id: str


@dataclass(frozen=True)
class Principal:
    """Somebody who has proved who they are. Names are Person Names (VR PN) as on the images."""

    user_id: str
    username: str
    role: Role
    referring_physician_names: tuple[str, ...] = ()
    patient_ids: tuple[PatientKey, ...] = ()


@dataclass(frozen=True)
class StudyFacts:
    """All the policy needs to know of a study. The physician's name may be as stored or already a key."""

    study_instance_uid: str
    patient_id: str
    issuer_of_patient_id: str
    referring_physician_name: str


@dataclass(frozen=True)
class Scope:
    """What a principal may find. Turned into an SQL WHERE by the archive; `covers` is its meaning.

    `everything`, or else studies whose referring physician's key is listed, or whose patient is listed.
    """

    everything: bool = False
    referring_physician_keys: frozenset[str] = frozenset()
    patients: frozenset[PatientKey] = frozenset()

    def covers(self, facts: StudyFacts) -> bool:
        return (
            self.everything
            or person_name_key(facts.referring_physician_name) in self.referring_physician_keys
            or PatientKey(facts.issuer_of_patient_id, facts.patient_id) in self.patients
        )


NOTHING: Final = Scope()


class DenialReason(StrEnum):
    """Why not; for the audit record only. From outside, denied and absent look alike."""

    ROLE_MAY_NOT = "role-may-not"
    NOT_IN_SCOPE = "not-in-scope"


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
_MAY: Final[Mapping[Role, frozenset[Action]]] = {
    Role.ADMIN: frozenset(),  # runs the house; patients' images are not part of that
    Role.RADIOLOGIST: _READS,
    Role.DOCTOR: _READS,
    Role.PATIENT: _READS,
    Role.PEER: frozenset({Action.SEARCH, Action.EXPORT}),  # as far as its own settings allow
    Role.SERVICE: frozenset(),  # such as a RIS or a sender of images: it adds, and sees nothing of what is there
}
_PRIVILEGES: Final[Mapping[Role, frozenset[Privilege]]] = {
    Role.ADMIN: frozenset(Privilege),
    # What a radiologist makes of images (measurements, key images, reports) is instances, too.
    Role.RADIOLOGIST: frozenset({Privilege.READ_FLEET, Privilege.STORE_INSTANCES}),
    Role.SERVICE: frozenset({Privilege.MANAGE_WORKLIST, Privilege.STORE_INSTANCES}),
}


def scope_of(principal: Principal, action: Action) -> Scope:
    """What `principal` may reach with `action` (SEARCH, VIEW or EXPORT); NOTHING when no rule says otherwise."""
    if action not in _MAY.get(principal.role, frozenset()):
        return NOTHING
    match principal.role:
        case Role.RADIOLOGIST | Role.PEER:
            return Scope(everything=True)
        case Role.DOCTOR:
            keys = {person_name_key(name) for name in principal.referring_physician_names}
            return Scope(referring_physician_keys=frozenset(keys - {""}))
        case Role.PATIENT:
            return Scope(patients=frozenset(key for key in principal.patient_ids if key.patient_id))
        case _:
            return NOTHING


def authorize(principal: Principal, action: Action, facts: StudyFacts) -> Grant | Denied:
    """Decide whether `principal` may do `action` with the study of `facts`."""
    if action not in _MAY.get(principal.role, frozenset()):
        return Denied(DenialReason.ROLE_MAY_NOT)
    if not scope_of(principal, action).covers(facts):
        return Denied(DenialReason.NOT_IN_SCOPE)
    return Grant(principal, action, facts.study_instance_uid, _MINT)


def has_privilege(principal: Principal, privilege: Privilege) -> bool:
    """Whether `principal` may do something to the house itself."""
    return privilege in _PRIVILEGES.get(principal.role, frozenset())


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
