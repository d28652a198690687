"""Somebody who asks, and all that the policy is told of them. Pure data: no I/O, no decision.

Always true: an empty patient id is nobody's, and what is listed here holds at this moment; `central.access.doorkeeper`
puts it there anew for each request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from central.audit.events import Action
from central.institution import DEFAULT_INSTITUTION


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
    sign_outs : how often everything that had signed in as them had been ended when this was read; not of who they are.
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
    sign_outs: int = field(default=0, compare=False)


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
