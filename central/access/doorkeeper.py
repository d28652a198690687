"""From a token to a Principal with all that holds for it at this moment.

Why it exists: the policy is pure, so somebody has to tell it everything. Here is the only place that does, so that no
way in can forget a refusal.

What is always true: what is read here is read anew for each request; a rule, a link or a token that was ended counts no
more from the next request on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import peewee

from central.access.accounts import Accounts, SessionKind
from central.access.consent import Consents
from central.access.policy import Principal
from central.access.study_rules import StudyRules


@dataclass(frozen=True)
class Doorkeeper:
    """What is known of people; safe to call from every thread."""

    accounts: Accounts
    rules: StudyRules
    consents: Consents

    @classmethod
    def open(cls, db: peewee.SqliteDatabase, clock: Callable[[], float] = time.time) -> Doorkeeper:
        """Open all of it in `db`, making the tables that are missing. `clock` gives UTC seconds since 1970."""
        return cls(Accounts.open(db, clock), StudyRules.open(db, clock), Consents.open(db, clock))

    def principal_of(self, token: str, kind: SessionKind) -> Principal | None:
        """Whose `token` this is; None when it is unknown, of the other kind, ended or expired."""
        user_id = self.accounts.user_of(token, kind)
        return self.principal(user_id) if user_id is not None else None

    def principal(self, user_id: str) -> Principal | None:
        """Who this is, as they stand now."""
        account = self.accounts.account(user_id)
        if account is None:
            return None
        granted, refused = self.rules.of(user_id)
        return replace(
            account,
            granted_studies=granted,
            refused_studies=refused,
            consent_exceptions=self.consents.exceptions_of(user_id),
        )
