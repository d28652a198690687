"""What somebody may find, said declaratively: a `Scope`, and what it means for one study.

Always true
-----------
- `Scope.why_not` is the meaning. `within` in `central.archive.reach` says the same in SQL for searches; whoever changes
  one changes the other, and a test compares them on random data.
- An empty name or patient id is nobody's: it matches no one, rather than everyone without one.
- A refusal is taken away last, whatever else covers the study; withdrawn consent for everybody who is not excepted.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from central.access.principal import PatientKey, PatientOf, StudyKey
from central.institution import DEFAULT_INSTITUTION

_ACCENTED: Final = ("LATIN ", "GREEK ", "CYRILLIC ")
"""How the names of letters begin whose accents do not count."""


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
    """What a principal may find. Turned into an SQL WHERE by the archive; `why_not` is its meaning.

    Of the studies of `institutions` (None: of every one) `everything`, or else those whose referring physician
    `is_called` as listed, whose requesting service's key is listed, or that are among the `arrivals`; besides, wherever
    they are held, those whose patient or study is listed with its institution. Of these `only_study` alone where it is
    not None; never `refused_studies`, and those of a patient who withdrew consent only where `despite_withdrawal_of`
    lists the patient.
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
    def reads_all_patients(self) -> bool:
        """Whether images of a study that name another patient are read as well; nobody is invited to these."""
        return self.everything and self.only_study is None

    @property
    def is_nothing(self) -> bool:
        """Whether no study at all can be in it."""
        return not (self._by_attributes or self.patients or self.studies)

    @property
    def _by_attributes(self) -> bool:
        return bool(
            self.everything or self.referring_physician_keys or self.requesting_service_keys or self.arrivals
        )

    def why_not(self, facts: StudyFacts) -> DenialReason | None:
        """What keeps the study of `facts` out, as that institution holds it; None if it is covered. `elsewhere` is not
        looked at."""
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
            or is_called(facts.referring_physician_name, self.referring_physician_keys)
            or department_key(facts.requesting_service) in self.requesting_service_keys
            or (self.arrivals is not None and self.arrivals.cover(facts))
        )


NOTHING: Final = Scope()


def department_key(name: str) -> str:
    """A department's name, folded: case, accents and repeated spaces do not count. The key of a key is itself."""
    return " ".join(_plain(name).split())


def person_name_key(pn: str) -> str:
    """``family^given`` of a Person Name (PS3.5 section 6.2.1), folded so that spelling variants meet.

    Case, accents, repeated spaces, middle names, prefixes and suffixes do not count; the first representation
    that is not empty is taken (alphabetic, ideographic, phonetic). The key of a key is itself.
    """
    return _group_key(next((group for group in _plain(pn).split("=") if group.strip(" ^")), ""))


def ideographic_key(pn: str) -> str:
    """As `person_name_key`, of the ideographic representation; "" without one."""
    return _group_key(_plain(pn).split("=")[1]) if "=" in _plain(pn) else ""


def physician_key(pn: str) -> str:
    """By what a doctor of this name is known: `person_name_key`, and behind a ``=`` how it is written in ideographs
    where the name has both. Many families that are written otherwise are spelt alike in letters. The key of a key is
    itself."""
    first, ideographic = person_name_key(pn), ideographic_key(pn)
    return f"{first}={ideographic}" if ideographic and _plain(pn).split("=")[0].strip(" ^") else first


def is_called(pn: str, physician_keys: Iterable[str]) -> bool:
    """Whether a Person Name on images or an order is that of a doctor with one of these keys: the same name, and no
    other in ideographs where both have them."""
    first, ideographic = person_name_key(pn), ideographic_key(pn)
    known = (key.partition("=") for key in physician_keys)
    return any(first == name and (not also or ideographic in ("", also)) for name, _, also in known)


def _group_key(group: str) -> str:
    return "^".join([" ".join(part.split()) for part in group.split("^")][:2]).rstrip("^")


def _plain(text: str) -> str:
    """Without case, and without the accents of Latin, Greek and Cyrillic letters. Marks of other scripts are letters,
    or make another one: without its voicing mark the kana GA is KA, and Nagata would be Nakata."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    if folded.isascii():
        return folded
    kept, base = [], " "
    for char in folded:
        if not unicodedata.combining(char):
            base = char
        elif unicodedata.name(base, "").startswith(_ACCENTED):
            continue
        kept.append(char)
    return "".join(kept)
