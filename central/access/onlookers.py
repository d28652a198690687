"""Everybody who can see one study at this moment: who they are, what they may do with it, and why.

Why it exists: "who may see this?" has to be answered from the same facts and by the same policy as "may you?".

What is always true: somebody is listed exactly when the policy grants them something of the study, or when a refusal
for this study keeps them from it. What is read is what `Doorkeeper.principal` puts together for a request.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from central.access.assignments import Assigned
from central.access.doorkeeper import Doorkeeper, guest_user_id
from central.access.emergencies import Opening
from central.access.explanation import Explanation, Why, explain
from central.access.guest_links import Link
from central.access.policy import Action, DenialReason, PatientKey, Principal, StudyFacts, StudyKey
from central.access.study_rules import Rule


@dataclass(frozen=True)
class HousePeer:
    """A DICOM peer of the house: who it is now, and what its settings let it ask for."""

    principal: Principal
    actions: frozenset[Action]


@dataclass(frozen=True)
class Onlooker:
    """Somebody who is listed, with what stands behind it: each of these ends by itself or by hand."""

    principal: Principal
    explanation: Explanation
    rules: tuple[Rule, ...] = ()
    assignments: tuple[Assigned, ...] = ()
    openings: tuple[Opening, ...] = ()
    link: Link | None = None

    @property
    def is_named(self) -> bool:
        """Whether somebody named this person for this study, or for its patient."""
        return bool(self.rules or self.assignments or self.openings)


def onlookers(doorkeeper: Doorkeeper, facts: StudyFacts, peers: Iterable[HousePeer] = ()) -> list[Onlooker]:
    """Of the study of `facts` as that institution holds it: people by username, then guests, then `peers`."""
    study = StudyKey(facts.institution, facts.study_instance_uid)
    patient = PatientKey(facts.issuer_of_patient_id, facts.patient_id)
    rules, assignments = doorkeeper.rules.about(study), doorkeeper.assignments.about(study, patient)
    found = []
    for user_id in doorkeeper.accounts.might_see(patient, {rule.username for rule in rules}):
        principal = doorkeeper.principal(user_id)
        if principal is None:  # blocked
            continue
        explained = explain(principal, facts)
        if not (explained.may or explained.why_not is DenialReason.REFUSED):
            continue
        openings = (
            doorkeeper.emergencies.open_now(user_id, study.study_instance_uid)
            if Why.EMERGENCY in explained.why
            else ()
        )
        found.append(
            Onlooker(
                principal,
                explained,
                tuple(rule for rule in rules if rule.username == principal.username),
                tuple(one for one in assignments if one.username == principal.username),
                tuple(openings),
            )
        )
    return [*found, *_guests(doorkeeper, facts), *_peers(peers, facts)]


def _guests(doorkeeper: Doorkeeper, facts: StudyFacts) -> Iterable[Onlooker]:
    for link in doorkeeper.guests.to(facts.study_instance_uid):
        guest = doorkeeper.principal(guest_user_id(link.link_id))
        if guest is not None and (explained := explain(guest, facts)).may:
            yield Onlooker(guest, explained, link=link)


def _peers(peers: Iterable[HousePeer], facts: StudyFacts) -> Iterable[Onlooker]:
    for peer in peers:
        explained = explain(peer.principal, facts)
        may = tuple(action for action in explained.may if action in peer.actions)
        if may:
            yield Onlooker(peer.principal, Explanation(may, explained.why, None))
