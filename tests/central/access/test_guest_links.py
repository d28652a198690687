from __future__ import annotations

from pathlib import Path

import pytest

from central.access.doorkeeper import guest_user_id
from central.access.errors import AccessRuleError, ThrottledError
from central.access.guest_links import MAX_LINKS, MAX_WRONG_PINS, GuestLink, GuestLinks, Link, Shut
from central.access.policy import Role, StudyKey
from central.access.throttle import FAILURES_PER_USERNAME
from central.database import Database
from tests.central.access.conftest import Clock, People
from tests.central.access.house import CHEAP
from tests.central.databases import written_in

STUDY, PIN, WRONG = "1.2.3", "271828", "314159"


@pytest.fixture
def host(people: People) -> str:
    user_id = people.doorkeeper.accounts.sessions.user_of(people.token("doctor"), "cookie")
    assert user_id is not None
    return user_id


def unhurried(people: People, db: Database, clock: Clock) -> GuestLinks:
    """As after a restart: the throttle has forgotten, what is counted in the database has not."""
    return GuestLinks.open(db, CHEAP, clock)


def test_neither_token_nor_pin_is_in_the_database(
    people: People, host: str, db: Database, tmp_path: Path
) -> None:
    link, token = people.doorkeeper.guests.make(STUDY, host, pin=PIN)
    (row,) = GuestLink.select().dicts().execute(db)
    assert row["pin_hash"].startswith("$argon2id$")
    assert len(token) >= 43  # 256 bits
    content = written_in(tmp_path)
    assert link.link_id.encode() in content
    assert token.encode() not in content
    assert PIN.encode() not in content


def test_a_link_opens_as_often_as_it_says(people: People, host: str) -> None:
    guests = people.doorkeeper.guests
    link, token = guests.make(STUDY, host, max_uses=2)
    assert guests.knock(token, "", "::1") == link
    assert guests.use(link.link_id)
    assert guests.use(link.link_id)
    assert not guests.use(link.link_id)
    assert guests.knock(token, "", "::1") == Shut("used up", link.link_id)


def test_a_link_ends_at_its_time_and_with_it_who_came_by_it(people: People, host: str, clock: Clock) -> None:
    guests = people.doorkeeper.guests
    link, token = guests.make(STUDY, host, days=3)
    clock.now += 3 * 86400 - 1
    guest = people.doorkeeper.principal(guest_user_id(link.link_id))
    assert guest is not None
    assert guest.role is Role.GUEST
    session = people.doorkeeper.accounts.sessions.start(guest, "cookie", 3600)
    assert people.doorkeeper.principal_of(session, "cookie") == guest
    clock.now += 1
    assert people.doorkeeper.principal_of(session, "cookie") is None
    assert isinstance(guests.knock(token, "", "::1"), Shut)
    assert not guests.use(link.link_id)
    assert guests.listed() == []


def test_a_link_is_ended_at_once(people: People, host: str) -> None:
    guests = people.doorkeeper.guests
    link, token = guests.make(STUDY, host)
    guest = people.doorkeeper.principal(guest_user_id(link.link_id))
    assert guest is not None
    session = people.doorkeeper.accounts.sessions.start(guest, "cookie", 3600)
    assert guests.end(link.link_id)
    assert not guests.end(link.link_id)
    assert people.doorkeeper.principal_of(session, "cookie") is None
    assert isinstance(guests.knock(token, "", "::1"), Shut)


def test_a_guest_goes_when_the_host_is_blocked(people: People, host: str) -> None:
    link, _ = people.doorkeeper.guests.make(STUDY, host)
    people.doorkeeper.accounts.block("doctor")
    assert people.doorkeeper.principal(guest_user_id(link.link_id)) is None
    people.doorkeeper.accounts.unblock("doctor")
    assert people.doorkeeper.principal(guest_user_id(link.link_id)) is not None


def test_a_guest_stands_as_the_host_stands_now(people: People, host: str, clock: Clock) -> None:
    link, _ = people.doorkeeper.guests.make(STUDY, host)
    rules = people.doorkeeper.rules
    rule = rules.add("refusal", STUDY, "doctor", until_utc=None, reason="x", made_by="admin")
    for refused in ({StudyKey("default", STUDY)}, frozenset()):
        guest = people.doorkeeper.principal(guest_user_id(link.link_id))
        assert guest is not None
        assert guest.invitation is not None
        assert guest.invitation.host.refused_studies == refused
        rules.end(rule.rule_id)


def test_a_pin_is_needed_and_wrong_ones_end_the_link_for_good(
    people: People, host: str, db: Database, clock: Clock
) -> None:
    link, token = people.doorkeeper.guests.make(STUDY, host, pin=PIN)
    for number in range(MAX_WRONG_PINS):
        guests = unhurried(people, db, clock)
        assert isinstance(guests.knock(token, PIN, "::1"), Link)  # right ones are not counted
        assert isinstance(guests.knock(token, WRONG if number else "", "::1"), Shut)
    guests = unhurried(people, db, clock)
    assert isinstance(guests.knock(token, PIN, "::1"), Shut)
    live = guests.live(link.link_id)
    assert live is not None
    assert live.wrong_pins == MAX_WRONG_PINS


def test_guessing_is_throttled(people: People, host: str) -> None:
    guests = people.doorkeeper.guests
    _, token = guests.make(STUDY, host, pin=PIN)
    for _ in range(FAILURES_PER_USERNAME):
        guests.knock(token, WRONG, "::1")
    with pytest.raises(ThrottledError):
        guests.knock(token, PIN, "::2")


def test_every_host_has_own_links(people: People, host: str) -> None:
    guests = people.doorkeeper.guests
    link, _ = guests.make(STUDY, host)
    other, _ = guests.make(STUDY, "somebody-else")
    assert guests.listed(host) == [link]
    assert {one.link_id for one in guests.listed()} == {link.link_id, other.link_id}


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"days": 0}, "days"),
        ({"days": 31}, "days"),
        ({"max_uses": 0}, "times"),
        ({"max_uses": 101}, "times"),
        ({"pin": "12345"}, "PIN"),
        ({"pin": "1" * 13}, "PIN"),
        ({"pin": "abcdef"}, "PIN"),
        ({"pin": "١٢٣٤٥٦"}, "PIN"),  # digits, but not those on every keyboard
        ({"note": "x" * 201}, "note"),
    ],
)
def test_links_that_are_refused(people: People, host: str, wish: dict[str, object], why: str) -> None:
    with pytest.raises(AccessRuleError, match=why):
        people.doorkeeper.guests.make(STUDY, host, **wish)  # type: ignore[arg-type]


def test_a_host_has_a_bounded_number_of_links(people: People, host: str) -> None:
    guests = people.doorkeeper.guests
    for _ in range(MAX_LINKS):
        link, _ = guests.make(STUDY, host)
    with pytest.raises(AccessRuleError, match="end some first"):
        guests.make(STUDY, host)
    guests.end(link.link_id)
    guests.make(STUDY, host)
