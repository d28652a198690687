from __future__ import annotations

import pytest

from central.access.consent import MAX_EXCEPTIONS
from central.access.errors import AccessRuleError
from central.access.policy import PatientKey
from tests.central.access.conftest import People

PATIENT = PatientKey("HOSP", "P1")


def exceptions(people: People, username: str) -> frozenset[PatientKey]:
    principal = people.doorkeeper.principal_of(people.token(username), "cookie")
    assert principal is not None
    return principal.consent_exceptions


def test_a_withdrawal_names_whom_it_does_not_bind(people: People) -> None:
    consents = people.doorkeeper.consents
    withdrawal_id = consents.withdraw(PATIENT, "admin", ["Doctor", "radiologist", "doctor"])
    (listed,) = consents.listed()
    assert (listed.patient, listed.exceptions, listed.made_by) == (
        PATIENT,
        ("doctor", "radiologist"),
        "admin",
    )
    assert exceptions(people, "doctor") == exceptions(people, "radiologist") == {PATIENT}
    assert exceptions(people, "patient") == frozenset()
    assert consents.end(withdrawal_id)
    assert not consents.end(withdrawal_id)
    assert consents.listed() == []
    assert exceptions(people, "doctor") == frozenset()


def test_the_same_patient_of_another_issuer_is_another_patient(people: People) -> None:
    consents = people.doorkeeper.consents
    consents.withdraw(PATIENT, "admin")
    with pytest.raises(AccessRuleError, match="already"):
        consents.withdraw(PATIENT, "admin")
    consents.withdraw(PatientKey("", "P1"), "admin")
    assert {one.patient for one in consents.listed()} == {PATIENT, PatientKey("", "P1")}


def test_a_withdrawal_ended_may_be_made_again_and_forgets_its_exceptions(people: People) -> None:
    consents = people.doorkeeper.consents
    consents.end(consents.withdraw(PATIENT, "admin", ["doctor"]))
    consents.withdraw(PATIENT, "admin")
    assert exceptions(people, "doctor") == frozenset()


def test_who_is_excepted_from_one_withdrawal_is_bound_by_another(people: People) -> None:
    consents = people.doorkeeper.consents
    everywhere = consents.withdraw(PATIENT, "admin")
    consents.withdraw(PATIENT, "here-admin", ["radiologist"], institution="default")
    assert exceptions(people, "radiologist") == frozenset()
    consents.end(everywhere)
    assert exceptions(people, "radiologist") == {PATIENT}
    again = consents.withdraw(PATIENT, "admin", ["radiologist", "doctor"])
    assert exceptions(people, "radiologist") == {PATIENT}
    assert exceptions(people, "doctor") == frozenset()
    # One that holds for another patient or at another institution binds nobody here.
    consents.withdraw(PATIENT, "north-admin", institution="north")
    consents.withdraw(PatientKey("", "P1"), "admin")
    assert exceptions(people, "radiologist") == {PATIENT}
    consents.end(again)
    assert exceptions(people, "radiologist") == {PATIENT}


def test_an_exception_stays_in_its_institution_when_the_account_moves(people: People) -> None:
    consents = people.doorkeeper.consents
    consents.withdraw(PATIENT, "here-admin", ["doctor"], institution="default")
    consents.withdraw(PATIENT, "north-admin", institution="north")
    people.doorkeeper.accounts.change("doctor", institution="north")
    assert exceptions(people, "doctor") == frozenset()
    assert exceptions(people, "admin") == frozenset()
    people.doorkeeper.accounts.change("doctor", institution="default")
    assert exceptions(people, "doctor") == {PATIENT}


def test_nobody_is_excepted_from_everything(people: People) -> None:
    consents = people.doorkeeper.consents
    for number in range(MAX_EXCEPTIONS):
        first = consents.withdraw(PatientKey("HOSP", f"Q{number}"), "admin", ["doctor"])
    with pytest.raises(AccessRuleError, match="doctor is excepted"):
        consents.withdraw(PATIENT, "admin", ["doctor"])
    assert PATIENT not in {one.patient for one in consents.listed()}
    # Also where another withdrawal binds all the same.
    consents.withdraw(PatientKey("HOSP", "Q0"), "here-admin", institution="default")
    with pytest.raises(AccessRuleError, match="doctor is excepted"):
        consents.withdraw(PATIENT, "admin", ["doctor"])
    consents.end(first)
    consents.withdraw(PATIENT, "admin", ["doctor"])


@pytest.mark.parametrize(
    ("patient", "names", "why"),
    [
        (PatientKey("HOSP", ""), [], "Patient ID"),
        (PATIENT, ["nobody"], "no user nobody"),
        (PATIENT, ["doctor"] * (MAX_EXCEPTIONS + 1), "at most"),
    ],
)
def test_withdrawals_that_are_refused_leave_nothing(
    people: People, patient: PatientKey, names: list[str], why: str
) -> None:
    with pytest.raises(AccessRuleError, match=why):
        people.doorkeeper.consents.withdraw(patient, "admin", names)
    assert people.doorkeeper.consents.listed() == []
