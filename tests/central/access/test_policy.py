from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from central.access.policy import (
    NOTHING,
    Action,
    DenialReason,
    Denied,
    Grant,
    PatientKey,
    Principal,
    Privilege,
    Role,
    StudyFacts,
    authorize,
    has_privilege,
    person_name_key,
    scope_of,
)
from central.archive.archive import Archive
from central.archive.query import StudyQuery
from central.archive.tables import Study
from central.database import Database
from tests.central.databases import open_archive_in, open_index

FACTS = StudyFacts("1.2.3", "P1", "HOSP", "HOUSE^GREGORY")
READS = (Action.SEARCH, Action.VIEW, Action.EXPORT)


def principal(role: Role, names: tuple[str, ...] = (), patients: tuple[PatientKey, ...] = ()) -> Principal:
    return Principal("id", "somebody", role, names, patients)


@pytest.mark.parametrize(
    ("who", "allowed"),
    [
        (principal(Role.ADMIN), set()),
        (principal(Role.RADIOLOGIST), set(READS)),
        (principal(Role.DOCTOR, ("House^Gregory",)), set(READS)),
        (principal(Role.DOCTOR, ("Wilson^James",)), set()),
        (principal(Role.DOCTOR), set()),
        (principal(Role.PATIENT, (), (PatientKey("HOSP", "P1"),)), set(READS)),
        (principal(Role.PATIENT, (), (PatientKey("OTHER", "P1"),)), set()),
        (principal(Role.PATIENT, ("House^Gregory",)), set()),
        (principal(Role.DOCTOR, (), (PatientKey("HOSP", "P1"),)), set()),
        (principal(Role.PEER), {Action.SEARCH, Action.EXPORT}),
        (principal(Role.SERVICE), set()),
    ],
)
def test_who_may_do_what(who: Principal, allowed: set[Action]) -> None:
    granted = {action for action in Action if isinstance(authorize(who, action, FACTS), Grant)}
    assert granted == allowed


def test_a_denial_says_why_for_the_record() -> None:
    assert authorize(principal(Role.ADMIN), Action.VIEW, FACTS) == Denied(DenialReason.ROLE_MAY_NOT)
    assert authorize(principal(Role.DOCTOR), Action.VIEW, FACTS) == Denied(DenialReason.NOT_IN_SCOPE)


def test_nobody_else_can_make_a_grant() -> None:
    who = principal(Role.DOCTOR)
    with pytest.raises(TypeError):
        Grant(who, Action.VIEW, "1.2.3")
    with pytest.raises(TypeError):
        Grant(who, Action.VIEW, "1.2.3", object())
    grant = authorize(principal(Role.RADIOLOGIST), Action.VIEW, FACTS)
    assert isinstance(grant, Grant)
    assert grant.study_instance_uid == "1.2.3"
    with pytest.raises(dataclasses.FrozenInstanceError):
        grant.study_instance_uid = "9"  # type: ignore[misc]


def test_an_empty_name_or_id_is_nobodys() -> None:
    nameless = StudyFacts("1.2", "", "", "")
    assert not scope_of(principal(Role.DOCTOR, ("", "^", " ")), Action.VIEW).covers(nameless)
    assert not scope_of(principal(Role.PATIENT, (), (PatientKey("", ""),)), Action.VIEW).covers(nameless)
    assert scope_of(principal(Role.DOCTOR, ("",)), Action.VIEW) == NOTHING


def test_privileges() -> None:
    allowed = {role: {p for p in Privilege if has_privilege(principal(role), p)} for role in Role}
    assert allowed == {
        Role.ADMIN: set(Privilege),
        Role.RADIOLOGIST: {Privilege.READ_FLEET, Privilege.STORE_INSTANCES},
        Role.DOCTOR: set(),
        Role.PATIENT: set(),
        Role.PEER: set(),
        Role.SERVICE: {Privilege.MANAGE_WORKLIST, Privilege.STORE_INSTANCES},
    }


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("HOUSE^GREGORY", "House^Gregory"),
        ("House^Gregory^M^Dr^Jr", "house^gregory"),
        ("  House ^ Gregory ", "HOUSE^GREGORY"),
        ("Müller^Jürgen", "MULLER^JURGEN"),
        ("Groß^Anna", "GROSS^ANNA"),
        ("House^Gregory=別^名", "house^gregory"),
        ("=山田^太郎", "山田^太郎"),
        ("House", "house^^"),
    ],
)
def test_spellings_of_one_name_meet(name: str, same_as: str) -> None:
    assert person_name_key(name) == person_name_key(same_as) != ""


@pytest.mark.parametrize(
    ("name", "other"), [("House^Gregory", "Gregory^House"), ("House", "^House"), ("House^G", "House^Gregory")]
)
def test_different_names_do_not_meet(name: str, other: str) -> None:
    assert person_name_key(name) != person_name_key(other)


@given(st.text())
def test_the_key_of_a_key_is_itself(name: str) -> None:
    assert person_name_key(person_name_key(name)) == person_name_key(name)


NAMES = st.sampled_from(
    ["", "^", "House^Gregory", "HOUSE^GREGORY^M", "Hoüse^Gregory", "Wilson^James", "Wilson"]
)
PATIENTS = st.builds(
    PatientKey, st.sampled_from(["", "HOSP", "OTHER"]), st.sampled_from(["", "P1", "P2", "p1"])
)
PRINCIPALS = st.builds(
    Principal,
    user_id=st.just("id"),
    username=st.just("somebody"),
    role=st.sampled_from(Role),
    referring_physician_names=st.lists(NAMES, max_size=3).map(tuple),
    patient_ids=st.lists(PATIENTS, max_size=3).map(tuple),
)
STUDIES = st.lists(st.tuples(PATIENTS, NAMES), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(who=PRINCIPALS, studies=STUDIES)
def test_a_search_finds_exactly_what_can_be_opened(
    archive_db: tuple[Archive, Database], who: Principal, studies: list[tuple[PatientKey, str]]
) -> None:
    archive, db = archive_db
    Study.delete().execute(db)
    for number, (patient, physician) in enumerate(studies):
        columns: dict[str, object] = dict.fromkeys(Study._meta.fields, "")
        del columns["id"]
        columns |= {
            "study_instance_uid": f"1.2.{number}",
            "patient_id": patient.patient_id,
            "issuer_of_patient_id": patient.issuer,
            "referring_physician_name": physician,
            "referring_physician_key": person_name_key(physician),
            "number_of_series": 1,
            "number_of_instances": 1,
        }
        Study.insert(**columns).execute(db)
    found = {
        row.study_instance_uid for row in archive.find_studies(scope_of(who, Action.SEARCH), StudyQuery())
    }
    openable = set()
    for number in range(len(studies)):
        facts = archive.facts(f"1.2.{number}")
        assert facts is not None
        if isinstance(authorize(who, Action.SEARCH, facts), Grant):
            openable.add(facts.study_instance_uid)
    assert found == openable


@pytest.fixture
def archive_db(tmp_path: Path) -> tuple[Archive, Database]:
    db = open_index(tmp_path)
    return open_archive_in(tmp_path, db), db
