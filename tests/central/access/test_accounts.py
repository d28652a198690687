from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from central.access.account_directory import UserAccount
from central.access.accounts import Accounts
from central.access.errors import AccountError, OvertakenError, ThrottledError
from central.access.hashes import SecretHashes
from central.access.passwords import Admitted
from central.access.policy import PatientKey, Principal, Role
from central.access.second_factors import SecondFactors
from central.access.sessions import Arrival, UserSession
from central.access.throttle import (
    FAILURES_PER_ADDRESS,
    FAILURES_PER_USERNAME,
    WINDOW_S,
    SignInThrottle,
)
from central.database import Database
from tests.central.access.conftest import Clock
from tests.central.access.house import CHEAP, FACTOR_KEY
from tests.central.databases import written_in

GOOD = "correct horse battery"


def opened(
    db: Database, clock: Callable[[], float] = time.time, hashes: SecretHashes | None = CHEAP
) -> Accounts:
    return Accounts.open(db, SecondFactors.open(db, FACTOR_KEY, frozenset(), clock), clock, hashes)


@pytest.fixture
def accounts(db: Database, clock: Clock) -> Accounts:
    return opened(db, clock)


@pytest.fixture
def costly_accounts(db: Database, clock: Clock) -> Accounts:
    """As in life, where guessing a password costs as much as can be borne."""
    return opened(db, clock, None)


def test_an_account_comes_back_as_it_was_made(accounts: Accounts) -> None:
    made = accounts.create_user(
        "Ann",
        GOOD,
        Role.PATIENT,
        referring_physician_names=["Müller^Jürgen"],
        patient_ids=[PatientKey("HOSP", "P1")],
    )
    assert made.username == "ann"
    assert accounts.passwords.verify("ANN", GOOD, "::1") == Admitted(made, "password")


def test_a_wrong_password_and_an_unknown_user_look_alike(costly_accounts: Accounts) -> None:
    accounts = costly_accounts
    accounts.create_user("ann", GOOD, Role.DOCTOR)
    took = {}
    for username in ("ann", "bob"):
        started = time.process_time()
        assert accounts.passwords.verify(username, "wrong password", "::1") is None
        took[username] = time.process_time() - started
    # The work is the same; a loaded machine blurs it, a missing hash would be a factor of a thousand.
    assert took["bob"] > took["ann"] / 5


def test_neither_password_nor_token_is_in_the_database(
    costly_accounts: Accounts, db: Database, tmp_path: Path
) -> None:
    accounts = costly_accounts
    principal = accounts.create_user("ann", GOOD, Role.DOCTOR)
    token = accounts.sessions.start(principal, "bearer", 60)
    [user] = UserAccount.select().dicts().execute(db)
    [session] = UserSession.select().dicts().execute(db)
    assert user["password_hash"].startswith("$argon2id$v=19$m=65536,t=3,p=4$")  # RFC 9106, second choice
    assert len(token) >= 43  # 256 bits
    content = written_in(tmp_path)
    assert session["token_sha256"].encode() in content
    assert GOOD.encode() not in content
    assert token.encode() not in content


def test_a_session_ends_at_its_time(accounts: Accounts, clock: Clock) -> None:
    principal = accounts.create_user("ann", GOOD, Role.DOCTOR)
    token = accounts.sessions.start(principal, "cookie", 60)
    clock.now += 59
    assert accounts.sessions.user_of(token, "cookie") == principal.user_id
    clock.now += 1
    assert accounts.sessions.user_of(token, "cookie") is None


def test_a_session_ends_at_sign_out_and_at_a_new_password(accounts: Accounts) -> None:
    principal = accounts.create_user("ann", GOOD, Role.DOCTOR)
    first, second = (accounts.sessions.start(principal, "cookie", 60) for _ in range(2))
    accounts.sessions.end(first)
    assert accounts.sessions.user_of(first, "cookie") is None
    assert accounts.sessions.user_of(second, "cookie") == principal.user_id
    accounts.set_password("ann", GOOD + "!")
    assert accounts.sessions.user_of(second, "cookie") is None
    assert accounts.passwords.verify("ann", GOOD, "::1") is None
    assert accounts.passwords.verify("ann", GOOD + "!", "::1") == Admitted(principal, "password")


def test_a_cookies_token_is_no_bearer_token(accounts: Accounts) -> None:
    principal = accounts.create_user("ann", GOOD, Role.DOCTOR)
    assert accounts.sessions.user_of(accounts.sessions.start(principal, "cookie", 60), "bearer") is None
    assert accounts.sessions.user_of(accounts.sessions.start(principal, "bearer", 60), "cookie") is None
    assert accounts.sessions.user_of("nonsense", "cookie") is None


def test_sessions_end_with_those_at_the_provider(accounts: Accounts) -> None:
    ann, bob = (accounts.create_user(name, GOOD, Role.DOCTOR) for name in ("ann", "bob"))
    sessions = accounts.sessions
    begun = {
        (who.username, at): sessions.start(who, "cookie", 60, Arrival(provider_session=at))
        for who, at in ((ann, "x"), (ann, "y"), (ann, ""), (bob, "x"), (bob, ""))
    }

    def there() -> set[tuple[str, str]]:
        return {name for name, token in begun.items() if sessions.find(token, "cookie") is not None}

    assert sessions.end_of_provider(None, "") == set()
    assert sessions.end_of_provider(None, "unknown") == set()
    assert there() == set(begun)
    assert sessions.end_of_provider(ann.user_id, "x") == {ann.user_id}
    assert there() == {("ann", "y"), ("bob", "x"), ("bob", "")}
    assert sessions.end_of_provider(None, "x") == {bob.user_id}
    assert sessions.end_of_provider(ann.user_id, "") == {ann.user_id}
    assert there() == {("bob", "")}


def test_expired_sessions_are_forgotten(accounts: Accounts, clock: Clock, db: Database) -> None:
    principal = accounts.create_user("ann", GOOD, Role.DOCTOR)
    accounts.sessions.start(principal, "cookie", 10)
    clock.now += 11
    accounts.sessions.start(principal, "cookie", 10)
    assert len(list(UserSession.select().execute(db))) == 1


def test_a_blocked_account_is_let_in_no_more_and_again(accounts: Accounts) -> None:
    principal = accounts.create_user("ann", GOOD, Role.DOCTOR)
    token = accounts.sessions.start(principal, "cookie", 60)
    accounts.block("Ann")
    assert accounts.sessions.user_of(token, "cookie") is None
    assert accounts.account(principal.user_id) is None
    assert accounts.passwords.verify("ann", GOOD, "::1") is None
    assert [(one.username, one.is_blocked) for one in accounts.listed()] == [("ann", True)]
    accounts.unblock("ann")
    assert accounts.passwords.verify("ann", GOOD, "::1") == Admitted(principal, "password")
    assert accounts.account(principal.user_id) == principal
    assert accounts.sessions.user_of(token, "cookie") is None
    for change in (accounts.block, accounts.unblock, accounts.sign_out):
        with pytest.raises(AccountError, match="no user nobody"):
            change("nobody")


@pytest.mark.parametrize(
    "end",
    [
        lambda accounts, _: accounts.set_password("ann", GOOD + "!"),
        lambda accounts, _: accounts.block("ann"),
        lambda accounts, _: (accounts.block("ann"), accounts.unblock("ann")),
        lambda accounts, _: accounts.sign_out("ann"),
        lambda accounts, _: accounts.reset_factors("ann"),
        lambda accounts, ann: accounts.sessions.end_all(ann, but="the one in which an app was set up"),
        lambda accounts, ann: accounts.sessions.end_of_provider(ann, ""),
    ],
)
def test_what_was_proved_before_everything_ended_begins_no_session(
    accounts: Accounts, end: Callable[[Accounts, str], object]
) -> None:
    ann, bob = (accounts.create_user(name, GOOD, Role.DOCTOR) for name in ("ann", "bob"))
    admitted = accounts.passwords.verify("ann", GOOD, "::1")
    assert admitted is not None
    end(accounts, ann.user_id)
    for principal in (admitted.principal, ann):
        with pytest.raises(OvertakenError):
            accounts.sessions.start(principal, "cookie", 60)
    assert accounts.sessions.of(ann.user_id) == []
    accounts.sessions.start(bob, "cookie", 60)
    accounts.unblock("ann")
    anew = accounts.account(ann.user_id)
    assert anew is not None
    accounts.sessions.start(anew, "cookie", 60)


def test_who_signs_on_at_a_provider_and_is_blocked_meanwhile_begins_no_session(accounts: Accounts) -> None:
    vouched_for = Principal("somebody at a provider", "zoe", Role.DOCTOR)
    for _ in range(2):  # made, and renewed
        zoe = accounts.check_sign_on(vouched_for)
        accounts.sign_on(zoe)
        accounts.sessions.start(zoe, "cookie", 60)
        accounts.sign_out("zoe")
    zoe = accounts.check_sign_on(vouched_for)
    accounts.sign_on(zoe)
    accounts.block("zoe")
    with pytest.raises(OvertakenError):
        accounts.sessions.start(zoe, "cookie", 60)


def test_nothing_is_done_in_a_session_that_has_ended(accounts: Accounts) -> None:
    ann = accounts.create_user("ann", GOOD, Role.DOCTOR)
    accounts.sessions.start(ann, "cookie", 60)
    (here,) = accounts.sessions.of(ann.user_id)
    with accounts.sessions.standing(here), accounts.sessions.standing(None):
        pass
    accounts.set_password("ann", GOOD + "!", here)
    with pytest.raises(OvertakenError), accounts.sessions.standing(here):
        raise AssertionError("the session has ended")
    with pytest.raises(OvertakenError):
        accounts.set_password("ann", GOOD + "?", here)
    assert accounts.passwords.verify("ann", GOOD + "!", "::1") is not None


def test_everybody_is_signed_out_alone(accounts: Accounts) -> None:
    ann, bob = (accounts.create_user(name, GOOD, Role.DOCTOR) for name in ("ann", "bob"))
    anns, bobs = (accounts.sessions.start(who, "bearer", 60) for who in (ann, bob))
    accounts.sign_out("ann")
    assert accounts.sessions.user_of(anns, "bearer") is None
    assert accounts.sessions.user_of(bobs, "bearer") == bob.user_id


def test_a_database_of_an_older_version_is_taken_over(db: Database) -> None:
    opened(db).create_user("ann", GOOD, Role.DOCTOR)
    for column in ("blocked_at_utc", "sign_outs"):
        db.execute_sql(f"ALTER TABLE user_account DROP COLUMN {column}")
    for column in ("started_at_utc", "means", "source_address", "browser", "provider", "provider_session"):
        db.execute_sql(f"ALTER TABLE user_session DROP COLUMN {column}")
    for _ in range(2):
        accounts = opened(db)
    (ann,) = (accounts.account(row.user_id) for row in UserAccount.select().execute(db))
    assert ann is not None
    token = accounts.sessions.start(ann, "cookie", 60, Arrival("password"))
    found = accounts.sessions.find(token, "cookie")
    assert found is not None
    assert found.arrival.means == "password"
    accounts.block("ann")
    assert accounts.passwords.verify("ann", GOOD, "::1") is None


@pytest.mark.parametrize(
    ("username", "password", "role", "why"),
    [
        ("ann", GOOD, Role.DOCTOR, "already"),
        ("", GOOD, Role.DOCTOR, "username"),
        ("../x", GOOD, Role.DOCTOR, "username"),
        ("x" * 65, GOOD, Role.DOCTOR, "username"),
        ("bob", "short", Role.DOCTOR, "password"),
        ("bob", "x" * 300, Role.DOCTOR, "password"),
        ("bob", GOOD, Role.PEER, "peers"),
        ("bob", GOOD, Role.GUEST, "guests"),
    ],
)
def test_accounts_that_are_refused(
    accounts: Accounts, username: str, password: str, role: Role, why: str
) -> None:
    accounts.create_user("ann", GOOD, Role.DOCTOR)
    with pytest.raises(AccountError, match=why):
        accounts.create_user(username, password, role)


def test_a_password_for_nobody_is_refused(accounts: Accounts) -> None:
    with pytest.raises(AccountError, match="no user"):
        accounts.set_password("nobody", GOOD)


def test_guessing_is_throttled_also_with_the_right_password(accounts: Accounts) -> None:
    accounts.create_user("ann", GOOD, Role.DOCTOR)
    for _ in range(FAILURES_PER_USERNAME):
        assert accounts.passwords.verify("ann", "wrong password", "::1") is None
    with pytest.raises(ThrottledError) as caught:
        accounts.passwords.verify("ann", GOOD, "::2")
    assert 0 < caught.value.retry_after_s <= WINDOW_S


def test_the_window_slides(clock: Clock) -> None:
    throttle = SignInThrottle(clock)
    for _ in range(FAILURES_PER_USERNAME):
        throttle.begin("ann", "::1")
        clock.now += 10
    with pytest.raises(ThrottledError) as caught:
        throttle.begin("ann", "::1")
    clock.now += caught.value.retry_after_s
    throttle.begin("ann", "::1")
    with pytest.raises(ThrottledError):
        throttle.begin("ann", "::1")


def test_one_address_cannot_try_many_names(clock: Clock) -> None:
    throttle = SignInThrottle(clock)
    for number in range(FAILURES_PER_ADDRESS):
        throttle.begin(f"user{number}", "::1")
    with pytest.raises(ThrottledError):
        throttle.begin("another", "::1")
    throttle.begin("another", "192.0.2.1")


def test_who_has_a_network_of_ipv6_has_no_more_tries(clock: Clock) -> None:
    throttle = SignInThrottle(clock)
    for number in range(FAILURES_PER_ADDRESS):
        throttle.begin(f"user{number}", f"2001:db8:0:1:{number:x}::1")
    with pytest.raises(ThrottledError):
        throttle.begin("another", "2001:db8:0:1:ffff::1")
    throttle.begin("another", "2001:db8:0:2::1")
    for number in range(FAILURES_PER_ADDRESS):  # of IPv4, however it is written, each address is counted
        throttle.begin(f"one{number}", f"::ffff:192.0.2.{number}")
        throttle.begin(f"two{number}", "192.0.2.77")
    throttle.begin("another", "::ffff:192.0.2.99")
    with pytest.raises(ThrottledError):
        throttle.begin("another", "::ffff:192.0.2.77")


def test_success_takes_back_its_own_attempt_only(clock: Clock) -> None:
    throttle = SignInThrottle(clock)
    for _ in range(FAILURES_PER_USERNAME - 1):
        throttle.begin("ann", "::1")
    for _ in range(3):
        throttle.begin("ann", "::1")
        throttle.succeed("ann", "::1")
    throttle.begin("ann", "::1")
    with pytest.raises(ThrottledError):
        throttle.begin("ann", "::1")


def test_parallel_guesses_are_counted_when_they_begin(clock: Clock) -> None:
    throttle = SignInThrottle(clock)
    for _ in range(FAILURES_PER_USERNAME):
        throttle.begin("ann", "::1")  # none has failed yet
    with pytest.raises(ThrottledError):
        throttle.begin("ann", "::1")


def test_many_names_do_not_fill_memory(clock: Clock) -> None:
    throttle = SignInThrottle(clock)
    for number in range(30_000):
        throttle.begin(f"user{number}", f"address{number}")
    assert len(throttle._attempts) <= 20_000
