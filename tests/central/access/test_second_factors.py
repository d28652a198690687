from __future__ import annotations

from pathlib import Path

import argon2
import pytest

from central.access.accounts import Accounts
from central.access.errors import FactorChangeError, SecondFactorError, ThrottledError
from central.access.hashes import SecretHashes
from central.access.passwords import Admitted
from central.access.policy import Principal, Role
from central.access.second_factors import (
    ENROLMENT_LIFE_S,
    MAX_WRONG_CODES,
    RECOVERY_CODES,
    AppSecret,
    SecondFactors,
)
from central.access.throttle import FAILURES_PER_USERNAME
from central.access.totp import STEP_S, code_at
from central.database import Database
from tests.central.access.conftest import Clock
from tests.central.access.house import CHEAP, FACTOR_KEY
from tests.central.databases import written_in

GOOD = "correct horse battery"


@pytest.fixture
def factors(db: Database, clock: Clock) -> SecondFactors:
    return SecondFactors.open(db, FACTOR_KEY, frozenset({Role.ADMIN}), clock)


@pytest.fixture
def accounts(db: Database, clock: Clock, factors: SecondFactors) -> Accounts:
    return Accounts.open(db, factors, clock, CHEAP)


@pytest.fixture
def ann(accounts: Accounts) -> Principal:
    return accounts.create_user("ann", GOOD, Role.DOCTOR)


def code(secret: bytes, clock: Clock, steps: int = 0) -> str:
    return code_at(secret, int(clock.now) // STEP_S + steps)


def set_up(factors: SecondFactors, who: Principal, clock: Clock) -> tuple[bytes, list[str]]:
    """The secret and the recovery codes; time goes on to where the next code counts."""
    secret = factors.begin_app(who.user_id)
    recovery = factors.confirm_app(who.user_id, code(secret, clock))
    clock.now += STEP_S
    return secret, recovery


def test_an_app_counts_once_a_code_of_it_was_shown(
    accounts: Accounts, factors: SecondFactors, ann: Principal, clock: Clock
) -> None:
    secret = factors.begin_app(ann.user_id)
    assert accounts.passwords.verify("ann", GOOD, "::1") == Admitted(ann, "password")
    with pytest.raises(FactorChangeError, match="not the code"):
        factors.confirm_app(ann.user_id, code(secret, clock, 5))
    assert len(factors.confirm_app(ann.user_id, code(secret, clock))) == RECOVERY_CODES
    with pytest.raises(SecondFactorError):
        accounts.passwords.verify("ann", GOOD, "::1")
    with pytest.raises(SecondFactorError):
        accounts.passwords.verify("ann", GOOD, "::1", code(secret, clock))  # the very code that confirmed
    clock.now += STEP_S
    now = code(secret, clock)
    assert accounts.passwords.verify("ann", GOOD, "::1", f" {now[:3]} {now[3:]} ") == Admitted(
        ann, "password and code"
    )
    with pytest.raises(FactorChangeError, match="already"):
        factors.begin_app(ann.user_id)


def test_a_key_that_was_shown_for_too_long_counts_no_more(
    factors: SecondFactors, ann: Principal, clock: Clock
) -> None:
    first = factors.begin_app(ann.user_id)
    second = factors.begin_app(ann.user_id)
    with pytest.raises(FactorChangeError, match="not the code"):
        factors.confirm_app(ann.user_id, code(first, clock))
    clock.now += ENROLMENT_LIFE_S + 1
    with pytest.raises(FactorChangeError, match="begin anew"):
        factors.confirm_app(ann.user_id, code(second, clock))


def test_a_code_is_taken_once_and_none_before_it(
    accounts: Accounts, factors: SecondFactors, ann: Principal, clock: Clock
) -> None:
    secret, _ = set_up(factors, ann, clock)
    ahead = code(secret, clock, 1)
    assert accounts.passwords.verify("ann", GOOD, "::1", ahead) is not None
    for used in (ahead, code(secret, clock)):
        with pytest.raises(SecondFactorError):
            accounts.passwords.verify("ann", GOOD, "::1", used)


def test_of_two_who_send_the_same_code_at_once_one_comes_in(
    factors: SecondFactors, ann: Principal, clock: Clock
) -> None:
    secret, recovery = set_up(factors, ann, clock)
    for shown in (code(secret, clock), recovery[0]):
        first, second = (
            factors.look(ann.user_id, shown) for _ in range(2)
        )  # both were right when they were looked at
        factors.admit(ann, first)
        with pytest.raises(SecondFactorError):
            factors.admit(ann, second)


def test_a_wrong_password_takes_no_code(
    accounts: Accounts, factors: SecondFactors, ann: Principal, clock: Clock
) -> None:
    secret, recovery = set_up(factors, ann, clock)
    for shown in (code(secret, clock), recovery[0]):
        assert accounts.passwords.verify("ann", "wrong password", "::1", shown) is None
        assert accounts.passwords.verify("ann", GOOD, "::1", shown) is not None
    assert factors.held(ann.user_id).recovery_codes == RECOVERY_CODES - 1


def test_a_recovery_code_signs_in_once(
    accounts: Accounts, factors: SecondFactors, ann: Principal, clock: Clock
) -> None:
    _, recovery = set_up(factors, ann, clock)
    bob = accounts.create_user("bob", GOOD, Role.DOCTOR)
    set_up(factors, bob, clock)
    with pytest.raises(SecondFactorError):
        accounts.passwords.verify("bob", GOOD, "::1", recovery[0])  # somebody else's
    typed = recovery[0].upper().replace("-", " ")
    assert accounts.passwords.verify("ann", GOOD, "::1", typed) == Admitted(ann, "password and recovery code")
    with pytest.raises(SecondFactorError):
        accounts.passwords.verify("ann", GOOD, "::1", recovery[0])
    renewed = factors.renew_recovery_codes(ann.user_id)
    with pytest.raises(SecondFactorError):
        accounts.passwords.verify("ann", GOOD, "::1", recovery[1])
    assert accounts.passwords.verify("ann", GOOD, "::1", renewed[1]) is not None


def test_wrong_codes_are_failures_like_wrong_passwords(
    accounts: Accounts, factors: SecondFactors, ann: Principal, clock: Clock
) -> None:
    secret, _ = set_up(factors, ann, clock)
    for number in range(FAILURES_PER_USERNAME):
        with pytest.raises(SecondFactorError):
            accounts.passwords.verify("ann", GOOD, f"::{number}", "000000")
    with pytest.raises(ThrottledError):
        accounts.passwords.verify("ann", GOOD, "::9", code(secret, clock))


class Counted(SecretHashes):
    verified = 0

    def matches(self, encoded: str, secret: str) -> bool:
        self.verified += 1
        return super().matches(encoded, secret)


def test_whatever_is_wrong_costs_the_same(
    db: Database, factors: SecondFactors, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = Counted(argon2.profiles.CHEAPEST)
    accounts = Accounts.open(db, factors, clock, hashes)
    secret, _ = set_up(factors, accounts.create_user("ann", GOOD, Role.DOCTOR), clock)
    accounts.create_user("bob", GOOD, Role.DOCTOR)
    asked: list[str] = []
    execute = db.execute_sql
    monkeypatch.setattr(db, "execute_sql", lambda sql, *more: (asked.append(sql), execute(sql, *more))[1])
    cost = {}
    for username, password, shown in (
        ("nobody", GOOD, "000000"),
        ("bob", "wrong password", "000000"),
        ("ann", "wrong password", "000000"),
        ("ann", "wrong password", code(secret, clock)),
        ("ann", GOOD, "000000"),
        ("ann", GOOD, ""),
    ):
        asked.clear()
        before = hashes.verified
        try:
            assert accounts.passwords.verify(username, password, "::1", shown) is None
        except SecondFactorError:
            assert password == GOOD
        cost[username, password, shown] = (hashes.verified - before, tuple(asked))
    assert len(set(cost.values())) == 1, cost


def test_who_has_the_password_cannot_guess_for_a_year(
    factors: SecondFactors, ann: Principal, clock: Clock
) -> None:
    secret, recovery = set_up(factors, ann, clock)
    for _ in range(MAX_WRONG_CODES):
        with pytest.raises(SecondFactorError):
            factors.admit(ann, factors.look(ann.user_id, "000000"))
    with pytest.raises(SecondFactorError, match="count no more"):
        factors.admit(ann, factors.look(ann.user_id, code(secret, clock)))
    factors.admit(ann, factors.look(ann.user_id, recovery[0]))
    assert factors.admit(ann, factors.look(ann.user_id, code(secret, clock))) == "password and code"


def test_a_copy_of_the_database_gives_no_code_away(
    db: Database, factors: SecondFactors, ann: Principal, clock: Clock, tmp_path: Path
) -> None:
    secret, recovery = set_up(factors, ann, clock)
    content = written_in(tmp_path)
    plain = recovery[0].replace("-", "")
    for known in (secret, secret.hex().encode(), recovery[0].encode(), plain.encode()):
        assert known not in content
    other_keys = SecondFactors.open(db, bytes(32), frozenset(), clock)
    assert other_keys.look(ann.user_id, code(secret, clock)).step is None
    bob = "somebody else"  # whose row the sealed secret is moved to
    AppSecret.update(user_id=bob).execute(db)
    assert factors.look(bob, code(secret, clock)).step is None


def test_a_reset_leaves_the_password_alone(
    accounts: Accounts, factors: SecondFactors, ann: Principal, clock: Clock
) -> None:
    set_up(factors, ann, clock)
    token = accounts.sessions.start(ann, "cookie", 60)
    accounts.reset_factors("Ann")
    assert accounts.sessions.user_of(token, "cookie") is None
    assert accounts.passwords.verify("ann", GOOD, "::1") == Admitted(ann, "password")
    assert not factors.has_any(ann.user_id)
