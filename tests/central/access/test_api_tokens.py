from __future__ import annotations

from pathlib import Path

import pytest

from central.access.api_tokens import MAX_TOKENS, PREFIX, ApiToken
from central.access.errors import AccessRuleError
from central.access.policy import Action, Delegation
from central.database import Database
from tests.central.access.conftest import Clock, People
from tests.central.databases import written_in

LOOKS = frozenset({Action.SEARCH, Action.VIEW})
DAY = 86400


@pytest.fixture
def owner(people: People) -> str:
    user_id = people.doorkeeper.accounts.sessions.user_of(people.token("doctor"), "cookie")
    assert user_id is not None
    return user_id


def test_a_token_stands_for_its_owner_and_its_actions(people: People, owner: str) -> None:
    door = people.doorkeeper
    token, secret = door.tokens.make(owner, "a script", LOOKS, 1)
    principal = door.principal_of(secret, "bearer")
    assert principal is not None
    assert (principal.username, principal.delegation) == ("doctor", Delegation(token.token_id, LOOKS))
    assert door.principal_of(secret, "cookie") is None
    assert door.principal_of(secret + "x", "bearer") is None
    assert door.principal_of(PREFIX, "bearer") is None


def test_the_secret_is_not_in_the_database(people: People, owner: str, db: Database, tmp_path: Path) -> None:
    token, secret = people.doorkeeper.tokens.make(owner, "a script", LOOKS, 1)
    assert secret.startswith(PREFIX)
    assert len(secret) >= len(PREFIX) + 43  # 256 bits
    content = written_in(tmp_path)
    assert token.token_id.encode() in content
    assert secret.removeprefix(PREFIX).encode() not in content


def test_a_token_ends_by_time_by_hand_and_with_the_password(
    people: People, owner: str, clock: Clock, db: Database
) -> None:
    door = people.doorkeeper
    _, first = door.tokens.make(owner, "first", LOOKS, 1)
    second_token, second = door.tokens.make(owner, "second", LOOKS, 2)
    _, third = door.tokens.make(owner, "third", LOOKS, 3)
    clock.now += DAY
    assert door.principal_of(first, "bearer") is None
    assert door.principal_of(second, "bearer") is not None
    assert door.tokens.end(second_token.token_id)
    assert not door.tokens.end(second_token.token_id)
    assert door.principal_of(second, "bearer") is None
    assert [token.label for token in door.tokens.listed(owner)] == ["third"]
    door.accounts.set_password("doctor", "another good password")
    assert door.principal_of(third, "bearer") is None
    _, other = door.tokens.make("somebody-else", "x", LOOKS, 1)
    assert list(ApiToken.select(ApiToken.label).tuples().execute(db)) == [("x",)]
    assert door.principal_of(other, "bearer") is None  # there is no such account any more


def test_the_last_use_is_known_to_the_hour(people: People, owner: str, clock: Clock) -> None:
    tokens = people.doorkeeper.tokens
    token, secret = tokens.make(owner, "a script", LOOKS, 1)
    assert token.last_used_at_utc is None
    used = []
    for seconds in (0, 3599, 1):
        clock.now += seconds
        tokens.find(secret)
        found = tokens.get(token.token_id)
        assert found is not None
        used.append(found.last_used_at_utc)
    assert used == [clock.now - 3600, clock.now - 3600, clock.now]


@pytest.mark.parametrize(
    ("label", "actions", "days", "why"),
    [
        ("", LOOKS, 1, "name"),
        ("x" * 65, LOOKS, 1, "name"),
        ("x", frozenset(), 1, "at least one"),
        ("x", LOOKS, 0, "days"),
        ("x", LOOKS, 366, "days"),
    ],
)
def test_tokens_that_are_refused(
    people: People, owner: str, label: str, actions: frozenset[Action], days: int, why: str
) -> None:
    with pytest.raises(AccessRuleError, match=why):
        people.doorkeeper.tokens.make(owner, label, actions, days)


def test_an_owner_has_a_bounded_number_of_tokens(people: People, owner: str, clock: Clock) -> None:
    tokens = people.doorkeeper.tokens
    for _ in range(MAX_TOKENS):
        tokens.make(owner, "x", LOOKS, 1)
    with pytest.raises(AccessRuleError, match="end some first"):
        tokens.make(owner, "x", LOOKS, 1)
    tokens.make("somebody-else", "x", LOOKS, 1)
    clock.now += DAY
    tokens.make(owner, "x", LOOKS, 1)
