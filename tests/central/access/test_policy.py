from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from central.access.consent import EVERYWHERE, Consents, ConsentWithdrawal
from central.access.policy import (
    Action,
    Agreement,
    Arrivals,
    Delegation,
    DenialReason,
    Denied,
    Grant,
    Invitation,
    PatientKey,
    PatientOf,
    Principal,
    Privilege,
    Role,
    Scope,
    Sharing,
    StudyFacts,
    StudyKey,
    authorize,
    delegable,
    department_key,
    has_privilege,
    ideographic_key,
    person_name_key,
    physician_key,
    renew,
    scope_of,
)
from central.archive.archive import Archive
from central.archive.query import InstanceQuery, SeriesQuery, StudyQuery
from central.archive.tables import Study
from central.database import Database
from tests.central.databases import open_archive_in, open_index

FACTS = StudyFacts("1.2.3", "P1", "HOSP", "HOUSE^GREGORY", consent_withdrawn=False)
WITHDRAWN = dataclasses.replace(FACTS, consent_withdrawn=True)
P1 = PatientKey("HOSP", "P1")
LOOKS = {Action.SEARCH, Action.VIEW}
READS = LOOKS | {Action.EXPORT}


def principal(
    role: Role, names: tuple[str, ...] = (), patients: tuple[PatientKey, ...] = (), **rules: Any
) -> Principal:
    return Principal("id", "somebody", role, names, patients, **rules)


def guest(host: Principal, study: str = "1.2.3", **rules: Any) -> Principal:
    return principal(Role.GUEST, invitation=Invitation(study, host), **rules)


STUDY = frozenset({StudyKey("default", "1.2.3")})
UID = frozenset({"1.2.3"})
RADIOLOGIST = principal(Role.RADIOLOGIST)


@pytest.mark.parametrize(
    ("who", "allowed"),
    [
        (principal(Role.ADMIN), set()),
        (RADIOLOGIST, READS | {Action.SHARE}),
        (principal(Role.DOCTOR, ("House^Gregory",)), READS | {Action.SHARE, Action.BREAK_GLASS}),
        (principal(Role.DOCTOR, ("Wilson^James",)), {Action.BREAK_GLASS}),
        (principal(Role.DOCTOR), {Action.BREAK_GLASS}),
        (principal(Role.PATIENT, (), (P1,)), READS),
        (principal(Role.PATIENT, (), (PatientKey("OTHER", "P1"),)), set()),
        (principal(Role.PATIENT, ("House^Gregory",)), set()),
        (principal(Role.DOCTOR, (), (P1,)), {Action.BREAK_GLASS}),
        (principal(Role.PEER), {Action.SEARCH, Action.EXPORT}),
        (principal(Role.SERVICE), set()),
        # Rules for one study: given, opened in an emergency, refused.
        (principal(Role.DOCTOR, granted_studies=STUDY), READS | {Action.SHARE, Action.BREAK_GLASS}),
        (principal(Role.PATIENT, granted_studies=STUDY), READS),
        (principal(Role.ADMIN, granted_studies=STUDY), set()),
        (principal(Role.SERVICE, granted_studies=STUDY), set()),
        (principal(Role.DOCTOR, assigned_studies=UID), READS | {Action.SHARE, Action.BREAK_GLASS}),
        (
            principal(Role.DOCTOR, assigned_patients=frozenset({P1})),
            READS | {Action.SHARE, Action.BREAK_GLASS},
        ),
        (
            principal(Role.DOCTOR, assigned_patients=frozenset({PatientKey("", "P1")})),
            {Action.BREAK_GLASS},
        ),
        (principal(Role.PATIENT, assigned_studies=UID, assigned_patients=frozenset({P1})), set()),
        (principal(Role.DOCTOR, emergency_studies=UID), LOOKS | {Action.BREAK_GLASS}),
        (principal(Role.RADIOLOGIST, refused_studies=STUDY), set()),
        (principal(Role.DOCTOR, ("House^Gregory",), granted_studies=STUDY, refused_studies=STUDY), set()),
        (principal(Role.DOCTOR, emergency_studies=UID, refused_studies=STUDY), set()),
        (principal(Role.PATIENT, (), (P1,), refused_studies=STUDY), set()),
        # A guest looks at one study, as long as the host could still show it.
        (principal(Role.GUEST, granted_studies=STUDY), set()),
        (guest(RADIOLOGIST), LOOKS),
        (guest(RADIOLOGIST, "1.2.4"), set()),
        (guest(principal(Role.DOCTOR, ("House^Gregory",))), LOOKS),
        (guest(principal(Role.DOCTOR)), set()),
        (guest(principal(Role.DOCTOR, emergency_studies=UID)), set()),
        (guest(principal(Role.RADIOLOGIST, refused_studies=STUDY)), set()),
        (guest(principal(Role.PATIENT, (), (P1,))), set()),
        (guest(guest(RADIOLOGIST)), set()),
        # An API token does what it was made for, and only what its owner may.
        (
            principal(Role.RADIOLOGIST, delegation=Delegation("t", frozenset({Action.SEARCH}))),
            {Action.SEARCH},
        ),
        (principal(Role.DOCTOR, ("House^Gregory",), delegation=Delegation("t", frozenset(LOOKS))), LOOKS),
        (principal(Role.DOCTOR, delegation=Delegation("t", frozenset(LOOKS))), set()),
        (principal(Role.RADIOLOGIST, delegation=Delegation("t", frozenset())), set()),
    ],
)
def test_who_may_do_what(who: Principal, allowed: set[Action]) -> None:
    granted = {action for action in Action if isinstance(authorize(who, action, FACTS), Grant)}
    assert granted == allowed


@pytest.mark.parametrize(
    "who",
    [
        RADIOLOGIST,
        principal(Role.DOCTOR, ("House^Gregory",), granted_studies=STUDY, emergency_studies=UID),
        principal(Role.PATIENT, (), (P1,)),
        principal(Role.PEER),
        guest(RADIOLOGIST),
    ],
)
def test_withdrawn_consent_binds_everybody_who_is_not_excepted(who: Principal) -> None:
    assert not any(isinstance(authorize(who, action, WITHDRAWN), Grant) for action in Action)
    for patient, may in ((PatientKey("HOSP", "P2"), False), (PatientKey("", "P1"), False), (P1, True)):
        excepted = dataclasses.replace(who, consent_exceptions=frozenset({patient}))
        action = Action.SEARCH
        # An exception is for one person: a guest does not come in by it, his own or his host's.
        expected = may and who.role is not Role.GUEST
        assert isinstance(authorize(excepted, action, WITHDRAWN), Grant) == expected
    host = dataclasses.replace(RADIOLOGIST, consent_exceptions=frozenset({P1}))
    assert isinstance(authorize(guest(host), Action.VIEW, WITHDRAWN), Denied)


def test_a_denial_says_why_for_the_record() -> None:
    assert authorize(principal(Role.ADMIN), Action.VIEW, FACTS) == Denied(DenialReason.ROLE_MAY_NOT)
    assert authorize(principal(Role.DOCTOR), Action.VIEW, FACTS) == Denied(DenialReason.NOT_IN_SCOPE)
    refused = principal(Role.RADIOLOGIST, refused_studies=STUDY)
    assert authorize(refused, Action.VIEW, FACTS) == Denied(DenialReason.REFUSED)
    assert authorize(RADIOLOGIST, Action.VIEW, WITHDRAWN) == Denied(DenialReason.CONSENT_WITHDRAWN)


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
    nameless = StudyFacts("1.2", "", "", "", consent_withdrawn=False)
    for nobody in (
        principal(Role.DOCTOR, ("", "^", " ")),
        principal(Role.PATIENT, (), (PatientKey("", ""),)),
    ):
        assert scope_of(nobody, Action.VIEW).why_not(nameless) is DenialReason.NOT_IN_SCOPE
    assert scope_of(principal(Role.DOCTOR, ("",), departments=("", " ")), Action.VIEW).is_nothing
    technician = principal(Role.TECHNICIAN, gateway_ids=("",), departments=(" ",), arrivals_since_utc=0)
    assert scope_of(technician, Action.VIEW).is_nothing


@pytest.mark.parametrize(
    "way",
    [
        {"everything": True},
        {"referring_physician_keys": frozenset({"house^gregory"})},
        {"requesting_service_keys": frozenset({"cardiology"})},
        {"arrivals": Arrivals(0, frozenset({"gw-1"}), frozenset())},
        {"patients": frozenset({PatientOf("default", P1)})},
        {"studies": STUDY},
    ],
)
def test_a_scope_with_any_way_to_a_study_is_something(way: dict[str, Any]) -> None:
    assert not Scope(**way).is_nothing
    rest = {"refused_studies": STUDY, "only_study": "1.2.3", "institutions": frozenset({"default"})}
    assert Scope(**rest).is_nothing


def test_nobody_is_invited_to_another_patients_images() -> None:
    assert scope_of(RADIOLOGIST, Action.VIEW).reads_all_patients
    assert not scope_of(guest(RADIOLOGIST), Action.VIEW).reads_all_patients
    assert not scope_of(principal(Role.DOCTOR, granted_studies=STUDY), Action.VIEW).reads_all_patients


def test_privileges() -> None:
    allowed = {role: {p for p in Privilege if has_privilege(principal(role), p)} for role in Role}
    assert allowed == {
        Role.ADMIN: set(Privilege),
        Role.RADIOLOGIST: {Privilege.READ_FLEET, Privilege.GIVE_ACCESS, Privilege.STORE_INSTANCES},
        Role.DOCTOR: set(),
        Role.PATIENT: set(),
        Role.TECHNICIAN: {Privilege.READ_FLEET, Privilege.READ_WORKLIST},
        Role.PEER: set(),
        Role.SERVICE: {Privilege.READ_WORKLIST, Privilege.MANAGE_WORKLIST, Privilege.STORE_INSTANCES},
        Role.GUEST: set(),
    }
    assert not any(
        has_privilege(principal(Role.ADMIN, delegation=Delegation("t", frozenset(READS))), p)
        for p in Privilege
    )


def test_what_a_token_can_be_made_for() -> None:
    nothing: frozenset[Action] = frozenset()
    assert {role: delegable(principal(role)) for role in Role} == {
        Role.ADMIN: nothing,
        Role.RADIOLOGIST: READS,
        Role.DOCTOR: READS,
        Role.TECHNICIAN: nothing,
        Role.PATIENT: READS,
        Role.PEER: nothing,
        Role.SERVICE: nothing,
        Role.GUEST: nothing,
    }
    assert delegable(principal(Role.RADIOLOGIST, delegation=Delegation("t", frozenset(READS)))) == nothing


ABROAD = dataclasses.replace(FACTS, institution="north", requesting_service="CARDIOLOGY")
DOCTOR = principal(
    Role.DOCTOR,
    ("House^Gregory",),
    departments=("Cardiology",),
    assigned_studies=UID,
    assigned_patients=frozenset({P1}),
)
PATIENT = principal(Role.PATIENT, (), (P1, PatientKey("", "P1")))


@pytest.mark.parametrize(
    ("who", "sharing", "allowed"),
    [
        (RADIOLOGIST, Sharing.READING, READS),
        (DOCTOR, Sharing.EMERGENCIES, {Action.BREAK_GLASS}),
        (
            dataclasses.replace(DOCTOR, emergency_studies=UID),
            Sharing.EMERGENCIES,
            LOOKS | {Action.BREAK_GLASS},
        ),
        (PATIENT, Sharing.PATIENTS, READS),
        (principal(Role.PEER), Sharing.PEERS, {Action.SEARCH, Action.EXPORT}),
        (principal(Role.ADMIN), None, set()),
        (principal(Role.TECHNICIAN, gateway_ids=("",), arrivals_since_utc=0), None, set()),
    ],
)
def test_an_agreement_opens_what_it_says_to_the_role_it_is_for(
    who: Principal, sharing: Sharing | None, allowed: set[Action]
) -> None:
    def may(facts: StudyFacts, *agreements: Agreement) -> set[Action]:
        asking = dataclasses.replace(who, agreements=frozenset(agreements))
        return {action for action in Action if isinstance(authorize(asking, action, facts), Grant)}

    assert may(ABROAD) == set()
    for agreed in Sharing:
        expected = allowed if agreed is sharing else set()
        assert may(ABROAD, Agreement(agreed, "north")) == expected, agreed
        assert may(ABROAD, Agreement(agreed, "south")) == set(), agreed
    # Without an issuer a Patient ID says nothing in another house.
    nobodys = dataclasses.replace(ABROAD, issuer_of_patient_id="")
    if who is PATIENT:
        assert may(nobodys, Agreement(Sharing.PATIENTS, "north")) == set()
        assert may(dataclasses.replace(nobodys, institution="default")) == READS


def test_doctors_reach_what_their_department_ordered() -> None:
    ordered = dataclasses.replace(FACTS, requesting_service="CARDIOLOGY")
    for name, may in (("Cardiology", True), ("Surgery", False), ("", False)):
        doctor = principal(Role.DOCTOR, departments=(name,))
        assert isinstance(authorize(doctor, Action.EXPORT, ordered), Grant) == may
    assert isinstance(authorize(principal(Role.DOCTOR, departments=("",)), Action.VIEW, FACTS), Denied)


def test_what_several_hold_is_granted_as_far_as_it_is_reached_the_own_first() -> None:
    held = [dataclasses.replace(FACTS, institution=name) for name in ("west", "default", "alpha", "north")]
    facts = dataclasses.replace(held[0], elsewhere=tuple(held[1:]))
    opened = frozenset({Agreement(Sharing.READING, "west"), Agreement(Sharing.READING, "alpha")})
    grant = authorize(dataclasses.replace(RADIOLOGIST, agreements=opened), Action.VIEW, facts)
    assert isinstance(grant, Grant)
    assert grant.institutions == ("default", "alpha", "west")


def test_of_another_institutions_holding_a_denial_says_nothing() -> None:
    refused = principal(Role.RADIOLOGIST, refused_studies=frozenset({StudyKey("north", "1.2.3")}))
    assert authorize(refused, Action.VIEW, ABROAD) == Denied(DenialReason.NOT_IN_SCOPE)
    both = dataclasses.replace(ABROAD, elsewhere=(WITHDRAWN,))
    assert authorize(refused, Action.VIEW, both) == Denied(DenialReason.CONSENT_WITHDRAWN)


def test_technicians_see_what_came_lately_from_their_boxes_or_departments() -> None:
    def may(who: Principal, **changes: Any) -> bool:
        came = dataclasses.replace(FACTS, arrived_from="gw-1", arrived_at_utc=100, **changes)
        came = dataclasses.replace(came, institutional_department_name="Röntgen")
        return isinstance(authorize(who, Action.VIEW, came), Grant)

    for places in ({"gateway_ids": ("gw-1",)}, {"departments": ("RÖNTGEN",)}):
        assert may(principal(Role.TECHNICIAN, arrivals_since_utc=100, **places))
        assert not may(principal(Role.TECHNICIAN, arrivals_since_utc=101, **places))
        assert not may(principal(Role.TECHNICIAN, **places))
        assert not may(principal(Role.TECHNICIAN, arrivals_since_utc=100, **places), institution="north")
    others = principal(
        Role.TECHNICIAN, arrivals_since_utc=0, gateway_ids=("gw-2",), departments=("Cardiology",)
    )
    assert not may(others)


def test_what_was_granted_is_renewed_only_as_far_as_it_reached() -> None:
    opened = dataclasses.replace(
        RADIOLOGIST, agreements=frozenset({Agreement(Sharing.READING, "north")}), granted_studies=STUDY
    )
    facts = dataclasses.replace(FACTS, elsewhere=(ABROAD,))
    grant = authorize(opened, Action.EXPORT, facts)
    assert isinstance(grant, Grant)
    assert renew(grant, opened, facts) == grant
    assert renew(grant, dataclasses.replace(opened, agreements=frozenset()), facts) == Denied(
        DenialReason.NOT_IN_SCOPE
    )
    refused = dataclasses.replace(opened, refused_studies=STUDY, agreements=frozenset())
    assert renew(grant, refused, facts) == Denied(DenialReason.REFUSED)
    # A role that reads all images of a study, those that name another patient as well, for one that does not.
    own = authorize(opened, Action.EXPORT, FACTS)
    demoted = dataclasses.replace(opened, role=Role.DOCTOR)
    assert isinstance(own, Grant)
    assert isinstance(authorize(demoted, Action.EXPORT, FACTS), Grant)
    assert renew(own, demoted, FACTS) == Denied(DenialReason.NOT_IN_SCOPE)
    fewer = authorize(demoted, Action.EXPORT, FACTS)
    assert isinstance(fewer, Grant)
    assert isinstance(renew(fewer, demoted, FACTS), Grant)
    promoted = renew(fewer, opened, facts)
    assert isinstance(promoted, Grant)
    assert promoted.institutions == ("default", "north")


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
        ("Иванов^Пётр", "иванов^петр"),
        ("Παπαδόπουλος^Νίκος", "ΠΑΠΑΔΟΠΟΥΛΟΣ^ΝΙΚΟΣ"),
        ("ﾅｶﾞﾀ^ｹﾝ", "ナガタ^ケン"),
        ("ナガタ", "ナカ\u3099タ"),
        ("김^철수", "\u1100\u1175\u11b7^철수"),
    ],
)
def test_spellings_of_one_name_meet(name: str, same_as: str) -> None:
    assert person_name_key(name) == person_name_key(same_as) != ""


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("House^Gregory", "Gregory^House"),
        ("House", "^House"),
        ("House^G", "House^Gregory"),
        # Voicing marks of kana, Hebrew points, Arabic and Indic signs: not accents, but other letters.
        ("ﾅｶﾞﾀ^ｹﾝ=永田^健", "ﾅｶﾀ^ｹﾝ=中田^健"),
        ("ゴトウ^ケン", "コトウ^ケン"),
        ("ほんだ^けん", "ほんた^けん"),
        ("שִׁמוֹן", "שִׂמוֹן"),
        ("عَمر", "عُمر"),
        ("फ़राह", "फराह"),
    ],
)
def test_different_names_do_not_meet(name: str, other: str) -> None:
    assert person_name_key(name) != person_name_key(other)


@given(st.text())
def test_the_key_of_a_key_is_itself(name: str) -> None:
    assert person_name_key(person_name_key(name)) == person_name_key(name)
    assert physician_key(physician_key(name)) == physician_key(name)
    assert ideographic_key(ideographic_key(name)) == ""
    assert department_key(department_key(name)) == department_key(name)


@pytest.mark.parametrize(
    ("own", "name", "is_the_same"),
    [
        ("Nagata^Ken=永田^健", "NAGATA^KEN", True),
        ("Nagata^Ken", "NAGATA^KEN=永田^健=ナガタ^ケン", True),
        ("Nagata^Ken=永田^健", "NAGATA^KEN=永田^健=ナガタ^ケン", True),
        (
            "Nagata^Ken=永田^健=ながた^けん",
            "NAGATA^KEN=永田^健=ﾅｶﾞﾀ^ｹﾝ",
            True,
        ),  # the reading is spelt either way
        ("Nagata^Ken=永田^健", "NAGATA^KEN==ナガタ^ケン", True),
        ("Nagata^Ken=永田^健", "NAGATA^KEN=長田^健", False),
        ("Nagata^Ken=永田^健", "NAKATA^KEN=永田^健", False),
        ("=永田^健", "永田^健", True),
        ("=永田^健", "=永田^健=ながた^けん", True),
        ("", "=", False),
    ],
)
def test_a_doctor_sees_by_all_that_both_names_have_in_letters_and_ideographs(
    own: str, name: str, is_the_same: bool
) -> None:
    facts = dataclasses.replace(FACTS, referring_physician_name=name)
    granted = authorize(principal(Role.DOCTOR, (own,)), Action.VIEW, facts)
    assert isinstance(granted, Grant) is is_the_same


NAMES = st.sampled_from(
    [
        "",
        "^",
        "House^Gregory",
        "HOUSE^GREGORY^M",
        "Hoüse^Gregory",
        "House^Gregory=別^名",
        "House^Gregory=他^名",
        "=別^名",
        "Wilson^James",
        "Wilson",
    ]
)
PATIENTS = st.builds(PatientKey, st.sampled_from(["", "HOSP"]), st.sampled_from(["", "P1", "p1"]))
# Few values, often met: a rule that nothing meets would prove nothing.
UIDS = st.frozensets(st.sampled_from(["1.2.0", "1.2.1", "1.2.2"]), max_size=2)
HOUSES = st.sampled_from(["default", "b", "c"])
DEPARTMENTS = st.sampled_from(["", "Cardiology", "CARDIOLOGIA  2", "cardiología 2"])
KEYS = st.frozensets(st.builds(StudyKey, HOUSES, st.sampled_from(["1.2.0", "1.2.1", "1.2.2"])), max_size=2)
WHO_READ = (Role.RADIOLOGIST, Role.DOCTOR, Role.TECHNICIAN, Role.PATIENT, Role.PEER)
STUDY_ACTIONS = (Action.SEARCH, Action.VIEW, Action.EXPORT, Action.SHARE, Action.BREAK_GLASS)


def principals(role: st.SearchStrategy[Role]) -> st.SearchStrategy[Principal]:
    return st.builds(
        Principal,
        user_id=st.just("id"),
        username=st.just("somebody"),
        role=role,
        referring_physician_names=st.lists(NAMES, max_size=3).map(tuple),
        patient_ids=st.lists(PATIENTS, max_size=3).map(tuple),
        institution=HOUSES,
        agreements=st.frozensets(
            st.builds(Agreement, st.sampled_from(Sharing), st.sampled_from(["default", "b", "c"])), max_size=3
        ),
        departments=st.lists(DEPARTMENTS, max_size=2).map(tuple),
        gateway_ids=st.lists(st.sampled_from(["", "gw-1", "gw-2"]), max_size=2).map(tuple),
        arrivals_since_utc=st.none() | st.sampled_from([0, 100]),
        assigned_studies=UIDS,
        assigned_patients=st.frozensets(PATIENTS, max_size=2),
        granted_studies=KEYS,
        refused_studies=KEYS,
        emergency_studies=UIDS,
        consent_exceptions=st.frozensets(PATIENTS, max_size=2),
        delegation=st.none()
        | st.builds(Delegation, st.just("t"), st.frozensets(st.sampled_from(sorted(READS)), max_size=3)),
    )


HOSTS = principals(st.sampled_from(WHO_READ) | st.sampled_from(Role))
GUESTS = st.builds(
    lambda host, study: guest(host, study, consent_exceptions=host.consent_exceptions),
    HOSTS,
    st.sampled_from(["1.2.0", "1.2.1", "1.2.2"]),
)
STUDIES = st.lists(
    st.fixed_dictionaries(
        {
            "uid": st.sampled_from(["1.2.0", "1.2.1", "1.2.2", "1.2.3"]),
            "institution": HOUSES,
            "patient": PATIENTS,
            "physician": NAMES,
            "service": DEPARTMENTS,
            "department": DEPARTMENTS,
            "arrived_from": st.sampled_from(["gw-1", "gw-3"]),
            "arrived_at_utc": st.sampled_from([50, 150]),
        }
    ),
    min_size=2,
    max_size=8,
    unique_by=lambda study: (study["uid"], study["institution"]),
)


def insert(db: Database, study: dict[str, Any]) -> None:
    columns: dict[str, object] = dict.fromkeys(Study._meta.fields, "")
    del columns["id"]
    columns |= {
        "study_instance_uid": study["uid"],
        "institution": study["institution"],
        "patient_id": study["patient"].patient_id,
        "issuer_of_patient_id": study["patient"].issuer,
        "referring_physician_name": study["physician"],
        "referring_physician_key": person_name_key(study["physician"]),
        "referring_physician_ideographic_key": ideographic_key(study["physician"]),
        "requesting_service_key": department_key(study["service"]),
        "institutional_department_key": department_key(study["department"]),
        "arrived_from": study["arrived_from"],
        "arrived_at_utc": study["arrived_at_utc"],
        "number_of_series": 1,
        "number_of_instances": 1,
    }
    Study.insert(**columns).execute(db)


HERE = frozenset({"default"})
GW_1 = frozenset({"gw-1"})
HOUSES_KEY = frozenset({"house^gregory"})
CARDIOLOGY = frozenset({"cardiology"})
EACH_WAY: list[dict[str, Any]] = [
    {"everything": True},
    {"everything": True, "institutions": HERE},
    {"everything": True, "institutions": frozenset({"default", "b"})},
    {"referring_physician_keys": HOUSES_KEY},
    {"referring_physician_keys": HOUSES_KEY, "institutions": HERE},
    {"referring_physician_keys": frozenset({"house^gregory=別^名"}), "institutions": HERE},
    {"requesting_service_keys": CARDIOLOGY, "institutions": HERE},
    {"requesting_service_keys": CARDIOLOGY, "institutions": frozenset({"default", "b"})},
    {"arrivals": Arrivals(100, GW_1, frozenset()), "institutions": HERE},
    {"arrivals": Arrivals(100, frozenset(), CARDIOLOGY), "institutions": HERE},
    {"arrivals": Arrivals(100, GW_1, CARDIOLOGY)},
    {"arrivals": Arrivals(101, GW_1, CARDIOLOGY)},
    {"patients": frozenset({PatientOf("b", P1)}), "institutions": HERE},
    {"studies": frozenset({StudyKey("b", "1.2.21"), StudyKey("default", "1.2.3")}), "institutions": HERE},
    {"everything": True, "only_study": "1.2.3"},
    {
        "everything": True,
        "refused_studies": frozenset({StudyKey("default", "1.2.3"), StudyKey("b", "1.2.3")}),
    },
    {"everything": True, "despite_withdrawal_of": frozenset({PatientOf("default", P1)})},
]


def test_each_way_alone_finds_in_sql_what_it_covers(archive_db: tuple[Archive, Database]) -> None:
    archive, db = archive_db
    consents = Consents.open(db)
    patients = (P1, PatientKey("", "P1"), PatientKey("HOSP", "P2"))
    arrived = (("gw-1", "", 100), ("gw-1", "Cardiology", 99), ("gw-2", "CARDIOLOGY", 150), ("gw-2", "", 150))
    all_of_it = product(
        ("default", "b", "c"),
        patients,
        ("House^Gregory", "House^Gregory=他^名", ""),
        ("Cardiology", ""),
        arrived,
    )
    for number, (institution, patient, physician, service, (box, department, at_utc)) in enumerate(all_of_it):
        insert(
            db,
            {
                "uid": f"1.2.{number % 72}",  # so that several hold a study of one UID
                "institution": institution,
                "patient": patient,
                "physician": physician,
                "service": service,
                "department": department,
                "arrived_from": box,
                "arrived_at_utc": at_utc,
            },
        )

    nothings: list[dict[str, Any]] = [{}, {"institutions": HERE}, {"only_study": "1.2.3"}]

    def compare(way: dict[str, Any]) -> int:
        scope = Scope(**way)
        rows = archive.reading.find_studies(scope, StudyQuery(limit=None))
        covered = set()
        for number in range(72):
            facts = archive.reading.facts(f"1.2.{number}")
            assert facts is not None
            held = (facts, *facts.elsewhere)
            covered |= {
                (one.institution, one.study_instance_uid) for one in held if scope.why_not(one) is None
            }
        assert {(row.institution, row.study_instance_uid) for row in rows} == covered, way
        return len(covered)

    for nothing in nothings:
        assert compare(nothing) == 0
        assert archive.reading.find_series(Scope(**nothing), SeriesQuery()) == []
        assert archive.reading.find_instances(Scope(**nothing), InstanceQuery()) == []
    before = [compare(way) for way in EACH_WAY]
    assert min(before) > 0
    ended = consents.withdraw(PatientKey("HOSP", "P2"), "admin")
    consents.end(ended)
    assert [compare(way) for way in EACH_WAY] == before
    consents.withdraw(P1, "admin")
    consents.withdraw(PatientKey("", "P1"), "admin", institution="b")
    after = [compare(way) for way in EACH_WAY]
    assert after[0] == before[0] - 72 - 24  # everywhere, and at one institution
    assert after[-1] == after[0] + 24  # the excepted patient's, at one institution


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    who=HOSTS | GUESTS,
    studies=STUDIES,
    withdrawn=st.sets(st.tuples(HOUSES | st.just(EVERYWHERE), PATIENTS), max_size=4),
    action=st.sampled_from(STUDY_ACTIONS),
)
def test_a_search_finds_exactly_what_can_be_opened(
    archive_db: tuple[Archive, Database],
    who: Principal,
    studies: list[dict[str, Any]],
    withdrawn: set[tuple[str, PatientKey]],
    action: Action,
) -> None:
    archive, db = archive_db
    Study.delete().execute(db)
    ConsentWithdrawal.delete().execute(db)
    consents = Consents.open(db)
    for house, patient in withdrawn | {(EVERYWHERE, one) for one in who.consent_exceptions}:
        if patient.patient_id:
            consents.withdraw(patient, "admin", institution=house)
    for study in studies:
        insert(db, study)
    scope = scope_of(who, action)
    rows = archive.reading.find_studies(scope, StudyQuery())
    found = {(row.institution, row.study_instance_uid) for row in rows}
    assert not (found and scope.is_nothing)
    openable = set()
    for uid in {study["uid"] for study in studies}:
        facts = archive.reading.facts(uid)
        assert facts is not None
        decision = authorize(who, action, facts)
        if isinstance(decision, Grant):
            openable |= {(institution, uid) for institution in decision.institutions}
    assert found == openable
    # However they are asked for: by a page, by a key that leads to few, all at once.
    assert rows == [
        row for at in range(9) for row in archive.reading.find_studies(scope, StudyQuery(limit=1, offset=at))
    ]
    for uid in {uid for _, uid in found}:
        by_uid = archive.reading.find_studies(scope, StudyQuery(study_instance_uid=uid, limit=None))
        assert {(row.institution, uid) for row in by_uid} == {one for one in found if one[1] == uid}


@pytest.fixture
def archive_db(tmp_path: Path) -> tuple[Archive, Database]:
    db = open_index(tmp_path)
    return open_archive_in(tmp_path, db), db
