"""Passkeys: WebAuthn (Level 2) with discoverable credentials, which know themselves whose they are.

What is always true
-------------------
- A passkey counts for the configured origin and its name alone (`RelyingParty`); what a request calls this server does
  not matter.
- The authenticator has verified its user, by PIN, finger or face: so a passkey is both factors at once.
- An answer is to a challenge that was given to this browser for this purpose, a few minutes ago, once.
- A counter that does not go on refuses the answer: the passkey may have been copied (section 6.1.1). It is looked at
  after the signature, so only the passkey itself can say so.

What a crash leaves: whole rows; a counter that was taken stays taken.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import peewee
import webauthn
from webauthn.helpers import base64url_to_bytes, bytes_to_base64url, parse_client_data_json
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from central.access.challenges import LIFE_S, Challenges, Purpose
from central.access.errors import FactorChangeError, PasskeyRefusedError
from central.access.hashes import derive
from central.access.once import Once
from central.access.policy import Principal
from central.access.throttle import SignInThrottle
from central.database import Database, make_tables

MAX_PASSKEYS: Final = 20
MAX_NAME_CHARACTERS: Final = 64
_NAME_OF_HOUSE: Final = "DICOM Network"
_MAX_CREDENTIAL_ID_CHARACTERS: Final = 1400  # 1023 bytes (section 4, credential id), in base64url


class Passkey(peewee.Model):
    """Table ``passkey``. Times are seconds since 1970; `credential_id` is base64url, `public_key` a COSE key."""

    passkey_id = peewee.CharField(primary_key=True)
    credential_id = peewee.TextField(unique=True)
    user_id = peewee.CharField(index=True)
    name = peewee.CharField()
    public_key = peewee.BlobField()
    sign_count = peewee.BigIntegerField()
    made_at_utc = peewee.BigIntegerField()
    last_used_at_utc = peewee.BigIntegerField(null=True)

    class Meta:
        table_name = "passkey"


@dataclass(frozen=True)
class RelyingParty:
    """For whom passkeys are made: the origin that browsers see, and its host as the id (section 5.1.2, 5.4.2)."""

    origin: str
    rp_id: str

    @classmethod
    def at(cls, public_url: str) -> RelyingParty | None:
        """At the configured URL; None for "" (there are no passkeys)."""
        parts = urlsplit(public_url)
        if not parts.hostname:
            return None
        usual = parts.port in (None, {"https": 443, "http": 80}.get(parts.scheme))
        port = (
            "" if usual else f":{parts.port}"
        )  # an origin leaves the scheme's own port out (RFC 6454 section 6.2)
        return cls(f"{parts.scheme}://{parts.hostname}{port}", parts.hostname)


@dataclass(frozen=True)
class Kept:
    """A passkey as its owner sees it."""

    passkey_id: str
    name: str
    made_at_utc: int
    last_used_at_utc: int | None


class Passkeys:
    """Passkeys in `db`; safe to call from every thread.

    Parameters
    ----------
    challenges : what answers have to be signed over.
    party : None where there are no passkeys.
    clock : gives UTC seconds since 1970.
    """

    def __init__(
        self, db: Database, challenges: Challenges, party: RelyingParty | None, clock: Callable[[], float]
    ) -> None:
        self._db = db
        self._challenges = challenges
        self._party = party
        self._clock = clock
        self._throttle = SignInThrottle()

    @classmethod
    def open(
        cls, db: Database, once: Once, key: bytes, party: RelyingParty | None, clock: Callable[[], float]
    ) -> Passkeys:
        """Make the table if it is missing. `key` is secret, and the same for as long as central is."""
        make_tables(db, [Passkey])
        return cls(db, Challenges(once, derive(key, "challenges"), clock), party, clock)

    @property
    def are_possible(self) -> bool:
        return self._party is not None

    def of(self, user_id: str) -> list[Kept]:
        """This user's, oldest first."""
        query = Passkey.select().where(Passkey.user_id == user_id)
        rows = query.order_by(Passkey.made_at_utc, Passkey.passkey_id).execute(self._db)
        return [Kept(row.passkey_id, row.name, row.made_at_utc, row.last_used_at_utc) for row in rows]

    def registration_options(self, principal: Principal, bound_to: str) -> dict[str, Any]:
        """What the browser is asked to make (section 5.4), as JSON. FactorChangeError: none here, or too many."""
        party = self._required_party()
        query = Passkey.select().where(Passkey.user_id == principal.user_id)
        there = [base64url_to_bytes(row.credential_id) for row in query.execute(self._db)]
        if len(there) >= MAX_PASSKEYS:
            raise FactorChangeError(f"an account has at most {MAX_PASSKEYS} passkeys: remove one first")
        options = webauthn.generate_registration_options(
            rp_id=party.rp_id,
            rp_name=_NAME_OF_HOUSE,
            user_id=principal.user_id.encode(),
            user_name=principal.username,
            challenge=self._challenges.give("register", bound_to),
            timeout=LIFE_S * 1000,
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED,
                user_verification=UserVerificationRequirement.REQUIRED,
            ),
            exclude_credentials=[PublicKeyCredentialDescriptor(id=one) for one in there],
        )
        made: dict[str, Any] = json.loads(webauthn.options_to_json(options))
        return made

    def register(
        self,
        user_id: str,
        name: str,
        answer: Mapping[str, Any],
        bound_to: str,
        within: AbstractContextManager[object] | None = None,
    ) -> Kept:
        """Keep what the browser made (section 7.1).

        Parameters
        ----------
        within : the transaction to keep it in; the challenge is used up, whatever this one raises.

        Raises
        ------
        FactorChangeError : the name is empty or too long, there are too many, or this one is known.
        PasskeyRefusedError : the answer proves nothing.
        """
        party = self._required_party()
        if not 0 < len(name) <= MAX_NAME_CHARACTERS:
            raise FactorChangeError(f"give it a name of at most {MAX_NAME_CHARACTERS} characters")
        challenge = self._taken(answer, "register", bound_to)
        try:
            made = webauthn.verify_registration_response(
                credential=dict(answer),
                expected_challenge=challenge,
                expected_rp_id=party.rp_id,
                expected_origin=party.origin,
                require_user_verification=True,
            )
        except Exception as error:  # whatever an answer makes the library stumble over, it proves nothing
            raise PasskeyRefusedError(f"the passkey does not verify: {error}") from error
        row = {
            "passkey_id": secrets.token_hex(8),
            "credential_id": bytes_to_base64url(made.credential_id),
            "user_id": user_id,
            "name": name,
            "public_key": made.credential_public_key,
            "sign_count": made.sign_count,
            "made_at_utc": int(self._clock()),
            "last_used_at_utc": None,
        }
        with within or self._db.writing():
            if len(self.of(user_id)) >= MAX_PASSKEYS:
                raise FactorChangeError(f"an account has at most {MAX_PASSKEYS} passkeys: remove one first")
            if not Passkey.insert(row).on_conflict_ignore().as_rowcount().execute(self._db):
                raise FactorChangeError("this passkey is registered already")
        return Kept(str(row["passkey_id"]), name, int(self._clock()), None)

    def remove(self, user_id: str, passkey_id: str) -> bool:
        """It counts no more; False: this user has no such passkey."""
        this = (Passkey.passkey_id == passkey_id) & (Passkey.user_id == user_id)
        return int(Passkey.delete().where(this).execute(self._db)) == 1

    def sign_in_options(self, bound_to: str) -> dict[str, Any]:
        """What the browser is asked to prove (section 5.5), as JSON. FactorChangeError: there are no passkeys here."""
        options = webauthn.generate_authentication_options(
            rp_id=self._required_party().rp_id,
            challenge=self._challenges.give("sign-in", bound_to),
            timeout=LIFE_S * 1000,
            user_verification=UserVerificationRequirement.REQUIRED,
        )
        made: dict[str, Any] = json.loads(webauthn.options_to_json(options))
        return made

    def prove(self, answer: Mapping[str, Any], bound_to: str, address: str) -> str:
        """The `user_id` of whom this answer proves (section 7.2).

        Raises
        ------
        PasskeyRefusedError : it proves nobody.
        ThrottledError : too many answers with this passkey, or from this address, proved nobody.
        """
        party = self._required_party()
        named = str(answer.get("id"))[:_MAX_CREDENTIAL_ID_CHARACTERS]
        self._throttle.begin(named, address)
        challenge = self._taken(answer, "sign-in", bound_to)
        row = self._named(named)
        if row is None:
            raise PasskeyRefusedError("this passkey is not known here, or not any more")
        try:
            proved = webauthn.verify_authentication_response(
                credential=dict(answer),
                expected_challenge=challenge,
                expected_rp_id=party.rp_id,
                expected_origin=party.origin,
                credential_public_key=bytes(row.public_key),
                credential_current_sign_count=0,  # the counter is looked at below, once the signature is right
                require_user_verification=True,
            )
            handle = base64url_to_bytes(answer["response"]["userHandle"])
        except Exception as error:  # as in `register`
            why = f"passkey {row.passkey_id} does not verify: {error}"
            raise PasskeyRefusedError(why, row.user_id) from error
        if handle != row.user_id.encode():
            raise PasskeyRefusedError(
                f"passkey {row.passkey_id} says that it is somebody else's", row.user_id
            )
        self._count(row, proved.new_sign_count)
        self._throttle.succeed(named, address)
        return str(row.user_id)

    def _count(self, row: Passkey, said: int) -> None:
        """Take the counter that an authenticator says; one that always says 0 has none."""
        goes_on = (Passkey.sign_count < said) | ((Passkey.sign_count == 0) & (said == 0))
        counted = Passkey.update(sign_count=said, last_used_at_utc=int(self._clock()))
        if not counted.where((Passkey.passkey_id == row.passkey_id) & goes_on).execute(self._db):
            why = f"the counter of passkey {row.passkey_id} did not go on, it says {said}: it may have been copied"
            raise PasskeyRefusedError(why, row.user_id)

    def _named(self, credential_id: str) -> Passkey | None:
        query = Passkey.select().where(Passkey.credential_id == credential_id)
        return next(iter(query.execute(self._db)), None)

    def _taken(self, answer: Mapping[str, Any], purpose: Purpose, bound_to: str) -> bytes:
        """The challenge that the answer is to, which is good no more."""
        try:
            client_data = base64url_to_bytes(answer["response"]["clientDataJSON"])
            challenge = parse_client_data_json(client_data).challenge
        except Exception as error:  # as in `register`
            raise PasskeyRefusedError("the answer is none of a passkey") from error
        self._challenges.take(challenge, purpose, bound_to)
        return challenge

    def _required_party(self) -> RelyingParty:
        if self._party is None:
            raise FactorChangeError("there are no passkeys here: people.public_url is not set")
        return self._party
