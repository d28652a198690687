from __future__ import annotations

import pytest

from central.access.assignments import MAX_ASSIGNMENTS, MAX_DAYS, ORDER_DAYS, Assigned
from central.access.doorkeeper import CHECK_S
from central.access.errors import AccessRuleError
from central.access.policy import Action, PatientKey, PatientOf, Principal, Role, StudyKey, scope_of
from tests.central.access.conftest import Clock, People
from tests.central.access.house import PASSWORD

STUDY = "1.2.3"
P1 = PatientKey("HOSP", "P1")


def now(people: People, username: str) -> Principal:
    principal = people.doorkeeper.principal_of(people.token(username), "cookie")
    assert principal is not None
    return principal


def assign(people: People, what: str | PatientKey, clock: Clock, username: str = "doctor-other") -> Assigned:
    until = int(clock.now) + 60
    return people.doorkeeper.assignments.assign(
        what, username, institution="default", until_utc=until, made_by="r"
    )


def test_an_assignment_holds_at_once_until_its_end(people: People, clock: Clock) -> None:
    study, patient = assign(people, STUDY, clock), assign(people, P1, clock)
    assert {one.assignment_id for one in people.doorkeeper.assignments.listed()} == {
        study.assignment_id,
        patient.assignment_id,
    }
    scope = scope_of(now(people, "doctor-other"), Action.VIEW)
    assert (scope.studies, scope.patients) == ({StudyKey("default", STUDY)}, {PatientOf("default", P1)})
    assert scope_of(now(people, "doctor"), Action.VIEW).studies == frozenset()
    assert people.doorkeeper.assignments.end(study.assignment_id)
    assert not people.doorkeeper.assignments.end(study.assignment_id)
    assert scope_of(now(people, "doctor-other"), Action.VIEW).studies == frozenset()
    clock.now += 60
    assert scope_of(now(people, "doctor-other"), Action.VIEW).is_nothing is False  # by name, still
    assert scope_of(now(people, "doctor-other"), Action.VIEW).patients == frozenset()
    assert people.doorkeeper.assignments.listed() == []


def test_what_was_assigned_stays_behind_when_an_account_goes_to_another_institution(
    people: People, clock: Clock
) -> None:
    assign(people, STUDY, clock)
    assign(people, P1, clock)
    people.doorkeeper.accounts.change("doctor-other", institution="north")
    scope = scope_of(now(people, "doctor-other"), Action.VIEW)
    assert (scope.studies, scope.patients) == (frozenset(), frozenset())


@pytest.mark.parametrize(
    ("what", "username", "ends_in_s", "why"),
    [
        (STUDY, "nobody", 60, "no doctor"),
        (STUDY, "radiologist", 60, "no doctor"),
        (STUDY, "north-doctor", 60, "no doctor"),
        (STUDY, "doctor", 0, "ends"),
        (STUDY, "doctor", (MAX_DAYS + 1) * 86400, "ends"),
        (PatientKey("HOSP", ""), "doctor", 60, "Patient ID"),
    ],
)
def test_assignments_that_are_refused(
    people: People, clock: Clock, what: str | PatientKey, username: str, ends_in_s: int, why: str
) -> None:
    with pytest.raises(AccessRuleError, match=why):
        people.doorkeeper.assignments.assign(
            what, username, institution="default", until_utc=int(clock.now) + ends_in_s, made_by="r"
        )
    assert people.doorkeeper.assignments.listed() == []


def test_an_account_has_a_bounded_number_of_assignments(people: People, clock: Clock) -> None:
    for number in range(MAX_ASSIGNMENTS):
        assign(people, f"1.2.{number}", clock)
    with pytest.raises(AccessRuleError, match="end some first"):
        assign(people, STUDY, clock)
    told: list[str] = []
    order(people, STUDY, ["Wilson^James"], told)
    assert told == []


def test_an_order_assigns_its_study_and_a_corrected_one_takes_it_back(people: People, clock: Clock) -> None:
    told: list[str] = []
    order(people, STUDY, ["HOUSE^GREGORY^^Dr", ""], told)
    order(people, STUDY, ["House^Gregory"], told)  # sent again
    assert told == ["doctor"]
    (made,) = people.doorkeeper.assignments.listed("default")
    assert (made.username, made.by_order, made.until_utc) == (
        "doctor", True, int(clock.now) + ORDER_DAYS * 86400,
    )  # fmt: skip
    by_hand = assign(people, STUDY, clock, "doctor")
    order(people, STUDY, ["Wilson^James"], told)
    assert told == ["doctor", "doctor-other"]
    left = {one.username: one.assignment_id for one in people.doorkeeper.assignments.listed()}
    assert left["doctor"] == by_hand.assignment_id
    assert set(left) == {"doctor", "doctor-other"}


def test_an_order_means_the_doctor_who_is_written_so_in_ideographs(people: People) -> None:
    for username, name in (("nagata", "Nagata^Ken=永田^健"), ("osada", "Nagata^Ken=長田^健")):
        people.doorkeeper.accounts.create_user(
            username, PASSWORD, Role.DOCTOR, referring_physician_names=[name]
        )
    told: list[str] = []
    order(people, STUDY, ["NAGATA^KEN=永田^健=ﾅｶﾞﾀ^ｹﾝ"], told)
    assert told == ["nagata"]
    order(people, "1.2.4", ["NAGATA^KEN"], told)
    assert sorted(told[1:]) == ["nagata", "osada"]


def test_nobody_gets_what_cannot_be_put_on_record(people: People) -> None:
    def fail(_usernames: object) -> None:
        raise RuntimeError("no record")

    with pytest.raises(RuntimeError):
        people.doorkeeper.assignments.assign_by_order(
            STUDY, ["House^Gregory"], institution="default", made_by="ris", announce=fail
        )
    assert people.doorkeeper.assignments.listed() == []


def test_a_technician_checks_what_came_since_yesterday(people: People, clock: Clock) -> None:
    arrivals = scope_of(now(people, "technician"), Action.VIEW).arrivals
    assert arrivals is not None
    assert (arrivals.since_utc, arrivals.gateway_ids) == (int(clock.now) - CHECK_S, {"gw-test"})


def order(people: People, study: str, names: list[str], told: list[str]) -> None:
    people.doorkeeper.assignments.assign_by_order(
        study, names, institution="default", made_by="ris", announce=told.extend
    )
