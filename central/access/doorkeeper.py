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
from typing import Final

from central.access.accounts import Accounts
from central.access.api_tokens import PREFIX, ApiTokens
from central.access.assignments import Assignments
from central.access.claims import EXTERNAL
from central.access.consent import Consents
from central.access.emergencies import Emergencies
from central.access.guest_links import GuestLinks
from central.access.hashes import SecretHashes
from central.access.institutions import Institutions
from central.access.known_browsers import KnownBrowsers
from central.access.once import Once
from central.access.passkeys import Passkeys, RelyingParty
from central.access.policy import Invitation, Principal, Role
from central.access.second_factors import SecondFactors
from central.access.sessions import SessionKind
from central.access.study_rules import StudyRules
from central.database import Database

CHECK_S: Final = 24 * 3600
"""How long a technician may look at what came from the own boxes: bad images are noticed within a day, and repeated."""

_GUEST: Final = "guest:"


@dataclass(frozen=True)
class Doorkeeper:
    """What is known of people; safe to call from every thread."""

    accounts: Accounts
    rules: StudyRules
    consents: Consents
    guests: GuestLinks
    emergencies: Emergencies
    tokens: ApiTokens
    assignments: Assignments
    institutions: Institutions
    clock: Callable[[], float]
    once: Once
    passkeys: Passkeys
    browsers: KnownBrowsers

    @classmethod
    def open(
        cls,
        db: Database,
        clock: Callable[[], float] = time.time,
        hashes: SecretHashes | None = None,
        *,
        factor_key: bytes,
        factors_required_of: frozenset[Role] = frozenset(),
        public_url: str = "",
    ) -> Doorkeeper:
        """Open all of it in `db`, making the tables that are missing. `clock` gives UTC seconds since 1970.

        `factor_key` is as for `SecondFactors`; `public_url` is how browsers reach central, "" for no passkeys.
        """
        hashes = hashes or SecretHashes()
        once = Once.open(db, clock)
        factors = SecondFactors.open(db, factor_key, factors_required_of, clock)
        return cls(
            Accounts.open(db, factors, clock, hashes),
            StudyRules.open(db, clock),
            Consents.open(db, clock),
            GuestLinks.open(db, hashes, clock),
            Emergencies.open(db, clock),
            ApiTokens.open(db, clock),
            Assignments.open(db, clock),
            Institutions.open(db, clock),
            clock,
            once,
            Passkeys.open(db, once, factor_key, RelyingParty.at(public_url), clock),
            KnownBrowsers(factor_key),
        )

    def principal_of(self, token: str, kind: SessionKind) -> Principal | None:
        """Whose `token` this is; None when it is unknown, of the other kind, ended or expired."""
        if kind == "bearer" and token.startswith(PREFIX):
            return self._delegate(token)
        user_id = self.accounts.sessions.user_of(token, kind)
        return self.principal(user_id) if user_id is not None else None

    def principal(self, user_id: str) -> Principal | None:
        """Who this is, as they stand now; None when there is no such account, or a guest's link has ended."""
        if user_id.startswith(_GUEST):
            return self._guest(user_id)
        account = self.accounts.account(user_id)
        if account is None:
            return None
        granted, refused = self.rules.of(user_id)
        studies, patients = self.assignments.of(user_id, account.institution)
        return replace(
            account,
            agreements=self.institutions.opened_to(account.institution),
            arrivals_since_utc=int(self.clock()) - CHECK_S,
            assigned_studies=studies,
            assigned_patients=patients,
            granted_studies=granted,
            refused_studies=refused,
            emergency_studies=self.emergencies.of(user_id),
            consent_exceptions=self.consents.exceptions_of(user_id, account.institution),
        )

    def must_enrol(self, principal: Principal) -> bool:
        """Whether `principal` reaches nothing before they have a second factor; a provider asks its people itself."""
        factors = self.accounts.factors
        if not factors.is_required_of(principal.role) or principal.user_id.startswith(EXTERNAL):
            return False
        return not factors.has_any(principal.user_id)

    def _delegate(self, token: str) -> Principal | None:
        found = self.tokens.find(token)
        owner = self.principal(found[0]) if found is not None else None
        return replace(owner, delegation=found[1]) if found is not None and owner is not None else None

    def _guest(self, user_id: str) -> Principal | None:
        link = self.guests.live(user_id.removeprefix(_GUEST))
        host = self.principal(link.host_user_id) if link is not None else None
        if link is None or host is None:
            return None
        invitation = Invitation(link.study_instance_uid, host)
        return Principal(user_id, user_id, Role.GUEST, institution=host.institution, invitation=invitation)


def guest_user_id(link_id: str) -> str:
    """What a guest is called, in sessions and on record. No account has such an id or name."""
    return _GUEST + link_id
