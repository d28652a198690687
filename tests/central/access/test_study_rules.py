from __future__ import annotations

import pytest

from central.access.errors import AccessRuleError
from central.access.policy import StudyKey
from central.access.study_rules import MAX_RULES
from tests.central.access.conftest import Clock, People

STUDY = "1.2.3"


def test_a_grant_holds_at_once_until_its_end(people: People, clock: Clock) -> None:
    token, door = people.token("doctor-other"), people.doorkeeper
    until = int(clock.now) + 60
    rule = door.rules.add(
        "grant", STUDY, "Doctor-Other", until_utc=until, reason="second opinion", made_by="r"
    )
    assert (rule.username, door.rules.get(rule.rule_id)) == ("doctor-other", rule)
    principal = door.principal_of(token, "cookie")
    assert principal is not None
    assert (principal.granted_studies, principal.refused_studies) == (
        {StudyKey("default", STUDY)},
        frozenset(),
    )
    others = door.principal_of(people.token("doctor"), "cookie")
    assert others is not None
    assert others.granted_studies == frozenset()
    clock.now += 60
    after = door.principal_of(token, "cookie")
    assert after is not None
    assert after.granted_studies == frozenset()
    assert door.rules.listed() == []


def test_a_rule_is_ended_once(people: People) -> None:
    rules, token = people.doorkeeper.rules, people.token("radiologist")
    rule = rules.add("refusal", STUDY, "radiologist", until_utc=None, reason="a relative", made_by="admin")
    principal = people.doorkeeper.principal_of(token, "cookie")
    assert principal is not None
    assert principal.refused_studies == {StudyKey("default", STUDY)}
    assert rules.end(rule.rule_id)
    assert not rules.end(rule.rule_id)
    assert rules.get(rule.rule_id) is None
    principal = people.doorkeeper.principal_of(token, "cookie")
    assert principal is not None
    assert principal.refused_studies == frozenset()


def test_rules_are_listed_by_who_made_them(people: People, clock: Clock) -> None:
    rules = people.doorkeeper.rules
    for maker in ("radiologist", "admin"):
        clock.now += 1
        until = int(clock.now) + 60
        rules.add("grant", STUDY, "doctor", until_utc=until, reason="asked", made_by=maker)
    assert [rule.made_by for rule in rules.listed()] == ["admin", "radiologist"]
    assert [rule.made_by for rule in rules.listed("radiologist")] == ["radiologist"]


@pytest.mark.parametrize(
    ("kind", "username", "ends_in_s", "reason", "why"),
    [
        ("grant", "nobody", 60, "asked", "no user"),
        ("grant", "radiologist", 60, "asked", "doctors and patients"),
        ("grant", "admin", 60, "asked", "doctors and patients"),
        ("grant", "doctor", None, "asked", "until"),
        ("grant", "doctor", 0, "asked", "past"),
        ("refusal", "doctor", -1, "asked", "past"),
        ("refusal", "doctor", None, "", "why"),
        ("refusal", "doctor", None, "x" * 501, "why"),
    ],
)
def test_rules_that_are_refused(
    people: People, clock: Clock, kind: str, username: str, ends_in_s: int | None, reason: str, why: str
) -> None:
    until = int(clock.now) + ends_in_s if ends_in_s is not None else None
    with pytest.raises(AccessRuleError, match=why):
        people.doorkeeper.rules.add(
            kind,  # type: ignore[arg-type]
            STUDY,
            username,
            until_utc=until,
            reason=reason,
            made_by="admin",
        )
    assert people.doorkeeper.rules.listed() == []


def test_an_account_has_a_bounded_number_of_rules(people: People) -> None:
    rules = people.doorkeeper.rules

    def refuse(number: int) -> str:
        uid = f"1.2.{number}"
        return rules.add("refusal", uid, "doctor", until_utc=None, reason="x", made_by="admin").rule_id

    made = [refuse(number) for number in range(MAX_RULES)]
    with pytest.raises(AccessRuleError, match="end some first"):
        refuse(MAX_RULES)
    rules.end(made[0])
    refuse(MAX_RULES)
