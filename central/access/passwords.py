"""Whether a password is right: the only place that sees one.

What is always true
-------------------
- A password is kept as argon2id only: the database signs nobody in.
- A wrong password, an unknown username and a wrong code take the same work and get the same answer.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final

from central.access.account_directory import UserAccount, holder_of
from central.access.errors import AccountError
from central.access.hashes import MAX_SECRET_CHARACTERS, SecretHashes, digest
from central.access.policy import Principal
from central.access.second_factors import SecondFactors
from central.access.throttle import SignInThrottle
from central.database import Database

MIN_PASSWORD_CHARACTERS: Final = 12


@dataclass(frozen=True)
class Admitted:
    """Somebody whose sign-in counts; `means` says by what, for people to read."""

    principal: Principal
    means: str


class Passwords:
    """Of the accounts in `db`, with the second `factors` that may be asked for; safe to call from every thread."""

    def __init__(self, db: Database, hashes: SecretHashes, factors: SecondFactors) -> None:
        self._db = db
        self._hashes = hashes
        self._factors = factors
        self._throttle = SignInThrottle()
        # Verified against for unknown users, so that they cost what known ones cost.
        self._nobodys_hash = self._hashes.hash(secrets.token_hex(16))

    def hash(self, password: str) -> str:
        """What is kept of it. AccountError: it is too short, or too long."""
        if not MIN_PASSWORD_CHARACTERS <= len(password) <= MAX_SECRET_CHARACTERS:
            raise AccountError(
                f"a password has {MIN_PASSWORD_CHARACTERS} to {MAX_SECRET_CHARACTERS} characters"
            )
        return self._hashes.hash(password)

    def mark_of(self, username: str) -> str:
        """What tells this account with this password from every other, and neither of them; "" for who has none."""
        row = self._named(username.lower()[:256])
        known = row["password_hash"] if row is not None else ""
        return digest(f"{row['user_id']}\0{known}") if row is not None and known else ""

    def verify(
        self, username: str, password: str, address: str, code: str = "", browser: str = ""
    ) -> Admitted | None:
        """Who this is, if password and code are right; else None, in the same time for unknown users.

        Parameters
        ----------
        browser : the name of one in which this user has signed in before (`KnownBrowsers`).

        Raises
        ------
        SecondFactorError : the password was right and the code was not; must not be told from a wrong password.
        ThrottledError : too many failures of this username or from this address; or in this browser, of which theirs
            are none.
        """
        username = username.lower()[:256]
        counted = (f"browser\0{browser}",) * 2 if browser else (username, address)
        self._throttle.begin(*counted)
        row = self._named(username)
        right = self._is_password(row, password)
        # Looked at before anybody knows whether the password was right, so that it costs the same.
        offered = self._factors.look(row["user_id"] if row is not None else None, code)
        if row is None or not right or row["blocked_at_utc"] is not None:
            return None
        principal = holder_of(row)
        means = self._factors.admit(principal, offered)
        self._throttle.succeed(*counted)
        return Admitted(principal, means)

    def is_password_of(self, principal: Principal, password: str, address: str) -> bool:
        """Whether somebody who is signed in knows their password. ThrottledError: as `verify`."""
        self._throttle.begin(principal.username, address)
        right = self._is_password(self._named(principal.username), password)
        if right:
            self._throttle.succeed(principal.username, address)
        return right

    def _named(self, username: str) -> dict[str, Any] | None:
        query = UserAccount.select().where(UserAccount.username == username)
        return next(iter(query.dicts().execute(self._db)), None)

    def _is_password(self, row: dict[str, Any] | None, password: str) -> bool:
        # Who signs on at a provider has no password, and costs what others cost.
        known = row["password_hash"] if row is not None else ""
        right = self._hashes.matches(known or self._nobodys_hash, password)
        return right and bool(known)
