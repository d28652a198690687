"""What the policy says of a study is explained: by real rules, and for any person and study as the policy decides."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from central.access.explanation import ACTIONS, Why, explain
from central.access.policy import (
    Action,
    Agreement,
    DenialReason,
    Grant,
    PatientKey,
    Principal,
    Role,
    Sharing,
    StudyFacts,
    authorize,
)
from tests.central.access.test_policy import (
    DEPARTMENTS,
    FACTS,
    GUESTS,
    HOSTS,
    HOUSES,
    NAMES,
    P1,
    STUDY,
    UID,
    WITHDRAWN,
    guest,
    principal,
)

READS = (Action.SEARCH, Action.VIEW, Action.EXPORT)
DOCTOR = principal(Role.DOCTOR)
THERE = replace(FACTS, institution="north")


@pytest.mark.parametrize(
    ("who", "facts", "may", "why"),
    [
        (principal(Role.RADIOLOGIST), FACTS, ACTIONS, [Why.ROLE]),
        (principal(Role.PEER), FACTS, (Action.SEARCH, Action.EXPORT), [Why.ROLE]),
        (principal(Role.DOCTOR, ("House^Gregory",)), FACTS, ACTIONS, [Why.REFERRING_PHYSICIAN]),
        (principal(Role.PATIENT, (), (P1,)), FACTS, READS, [Why.PATIENT]),
        (
            replace(DOCTOR, departments=("Ward",)),
            replace(FACTS, requesting_service="ward"),
            ACTIONS,
            [Why.DEPARTMENT],
        ),
        (replace(DOCTOR, assigned_studies=UID), FACTS, ACTIONS, [Why.ASSIGNED_STUDY]),
        (replace(DOCTOR, assigned_patients=frozenset({P1})), FACTS, ACTIONS, [Why.ASSIGNED_PATIENT]),
        (replace(DOCTOR, granted_studies=STUDY), FACTS, ACTIONS, [Why.GRANT]),
        (replace(DOCTOR, emergency_studies=UID), FACTS, READS[:2], [Why.EMERGENCY]),
        (
            replace(DOCTOR, granted_studies=STUDY, assigned_studies=UID),
            FACTS,
            ACTIONS,
            [Why.ASSIGNED_STUDY, Why.GRANT],
        ),
        (guest(principal(Role.RADIOLOGIST)), FACTS, READS[:2], [Why.INVITATION]),
        (
            principal(Role.RADIOLOGIST, agreements=frozenset({Agreement(Sharing.READING, "north")})),
            THERE,
            READS,
            [Why.AGREEMENT],
        ),
        (
            principal(Role.PATIENT, (), (P1,), agreements=frozenset({Agreement(Sharing.PATIENTS, "north")})),
            THERE,
            READS,
            [Why.AGREEMENT],
        ),
        (
            replace(principal(Role.RADIOLOGIST), consent_exceptions=frozenset({P1})),
            WITHDRAWN,
            ACTIONS,
            [Why.ROLE],
        ),
    ],
)
def test_what_lets_somebody_see_it(
    who: Principal, facts: StudyFacts, may: tuple[Action, ...], why: list[Why]
) -> None:
    explained = explain(who, facts)
    assert (explained.may, list(explained.why), explained.why_not) == (may, why, None)


@pytest.mark.parametrize(
    ("who", "facts", "why", "why_not"),
    [
        (principal(Role.ADMIN), FACTS, [], DenialReason.ROLE_MAY_NOT),
        (DOCTOR, FACTS, [], DenialReason.NOT_IN_SCOPE),
        (replace(DOCTOR, refused_studies=STUDY), FACTS, [], DenialReason.REFUSED),
        (principal(Role.RADIOLOGIST, refused_studies=STUDY), FACTS, [Why.ROLE], DenialReason.REFUSED),
        (principal(Role.RADIOLOGIST), WITHDRAWN, [], DenialReason.CONSENT_WITHDRAWN),
        (principal(Role.PATIENT, (), (PatientKey("", ""),)), FACTS, [], DenialReason.NOT_IN_SCOPE),
    ],
)
def test_what_keeps_somebody_from_it(
    who: Principal, facts: StudyFacts, why: list[Why], why_not: DenialReason
) -> None:
    explained = explain(who, facts)
    assert (explained.may, list(explained.why), explained.why_not) == ((), why, why_not)


FACTS_OF_ANY = st.builds(
    StudyFacts,
    study_instance_uid=st.sampled_from(["1.2.0", "1.2.1", "1.2.2"]),
    patient_id=st.sampled_from(["", "P1", "p1"]),
    issuer_of_patient_id=st.sampled_from(["", "HOSP"]),
    referring_physician_name=NAMES,
    consent_withdrawn=st.booleans(),
    institution=HOUSES,
    requesting_service=DEPARTMENTS,
    institutional_department_name=DEPARTMENTS,
    arrived_from=st.sampled_from(["gw-1", "gw-3"]),
    arrived_at_utc=st.sampled_from([50, 150]),
)


@settings(max_examples=300, deadline=None)
@given(who=HOSTS | GUESTS, facts=FACTS_OF_ANY)
def test_what_is_explained_is_what_the_policy_decides(who: Principal, facts: StudyFacts) -> None:
    explained = explain(who, facts)
    granted = {action for action in ACTIONS if isinstance(authorize(who, action, facts), Grant)}
    assert set(explained.may) == granted
    assert (explained.why_not is None) == bool(granted)
    assert bool(explained.why) or not granted
    if explained.why == (Why.AGREEMENT,):  # which nobody is told who needs none
        closed = replace(who, agreements=frozenset())
        assert not any(isinstance(authorize(closed, action, facts), Grant) for action in explained.may[:1])
