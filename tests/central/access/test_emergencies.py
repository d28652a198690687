from __future__ import annotations

import pytest

from central.access.emergencies import MAX_A_DAY
from central.access.errors import AccessRuleError
from tests.central.access.conftest import Clock, People

STUDY, REASON, HOUR = "1.2.3", "shot in the head, no time", 3600


@pytest.fixture
def doctor(people: People) -> str:
    user_id = people.doorkeeper.accounts.sessions.user_of(people.token("doctor"), "cookie")
    assert user_id is not None
    return user_id


def open_to(people: People, user_id: str) -> frozenset[str]:
    principal = people.doorkeeper.principal(user_id)
    assert principal is not None
    return principal.emergency_studies


def test_an_opening_ends_by_itself_and_stays_on_the_list(people: People, doctor: str, clock: Clock) -> None:
    emergencies = people.doorkeeper.emergencies
    assert emergencies.open_study(STUDY, doctor, REASON, HOUR) == clock.now + HOUR
    clock.now += HOUR - 1
    assert open_to(people, doctor) == {STUDY}
    clock.now += 1
    assert open_to(people, doctor) == frozenset()
    (opening,) = emergencies.listed()
    assert (opening.username, opening.reason, opening.verdict) == ("doctor", REASON, None)
    assert emergencies.listed(doctor) == [opening]
    assert emergencies.listed("somebody else") == []


def test_an_opening_is_reviewed_once(people: People, doctor: str, clock: Clock) -> None:
    emergencies = people.doorkeeper.emergencies
    for _ in range(2):
        clock.now += 1
        emergencies.open_study(STUDY, doctor, REASON, HOUR)
    newest, oldest = emergencies.listed()
    assert emergencies.unreviewed() == 2
    assert emergencies.review(newest.opening_id, "admin", "justified", "seen")
    assert not emergencies.review(newest.opening_id, "admin", "not-justified", "no")
    assert emergencies.unreviewed() == 1
    assert [one.opening_id for one in emergencies.listed()] == [oldest.opening_id, newest.opening_id]
    reviewed = emergencies.get(newest.opening_id)
    assert reviewed is not None
    assert (reviewed.verdict, reviewed.comment, reviewed.reviewed_by) == ("justified", "seen", "admin")
    assert reviewed.reviewed_at_utc == clock.now


@pytest.mark.parametrize("reason", ["", "too short", "x" * 1001])
def test_a_reason_is_needed(people: People, doctor: str, reason: str) -> None:
    with pytest.raises(AccessRuleError, match="why"):
        people.doorkeeper.emergencies.open_study(STUDY, doctor, reason, HOUR)
    assert open_to(people, doctor) == frozenset()


def test_a_day_has_a_bounded_number(people: People, doctor: str, clock: Clock) -> None:
    emergencies = people.doorkeeper.emergencies
    for number in range(MAX_A_DAY):
        emergencies.open_study(f"1.2.{number}", doctor, REASON, HOUR)
    with pytest.raises(AccessRuleError, match="24 hours"):
        emergencies.open_study(STUDY, doctor, REASON, HOUR)
    emergencies.open_study(STUDY, "somebody else", REASON, HOUR)
    clock.now += 86400
    emergencies.open_study(STUDY, doctor, REASON, HOUR)
