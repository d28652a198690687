"""How a box becomes a gateway: a token shown once, a request for one key, and an administrator's yes.

    token ──first use, within 15 minutes──▶ pending ──accepted──▶ certificate (again, if the answer was lost)
                                               └──refused──▶ nothing, for good

Always true: a token is kept as its SHA-256 only, and serves one key: the box that lost the answer on a bad line may ask
again with the same key, nobody else, and is given the same certificate. Where an administrator decides, no certificate
is issued before that, and the decision is about a key, by its fingerprint, not about a name; so a key waits once, with
the newest of its tokens. A token that replaces a gateway gives the new box that gateway's id; until the decision the
former box stays what it is. Once it has its place the tokens of former boxes buy nothing, and a revocation ends a yes
that was said before it. A crash leaves a step done or not done.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

import peewee
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from central.database import Database, grow_table, make_tables
from central.identity.errors import PairingRefusedError
from central.identity.gateways import Gateways, requested_key
from central.institution import DEFAULT_INSTITUTION
from contract.enrolment import DECISION_LIFE_S, PAIRING_LIFE_S, decode_request, key_fingerprint, new_token

Decision = Literal["accepted", "refused"]
_KEPT_S: Final = DECISION_LIFE_S + 86_400.0
_NAME_CHARACTERS: Final = 64


class PairingToken(peewee.Model):
    """A pairing string that was given out. `gateway_id` before its use: the gateway that it replaces."""

    token_sha256 = peewee.TextField(primary_key=True)
    name = peewee.TextField()
    expires_at = peewee.DoubleField()  # seconds since the epoch
    key_sha256 = peewee.TextField(null=True)
    gateway_id = peewee.TextField(null=True)
    institution = peewee.TextField(default=DEFAULT_INSTITUTION)

    class Meta:
        table_name = "pairing_token"


class PairingRequest(peewee.Model):
    """A box that used a token in time. `decision` null: it waits for an administrator. `decided_at` null with a
    decision: an older version noted it. `certificate_pem` null though issued: an older version issued it."""

    token_sha256 = peewee.TextField(primary_key=True)
    fingerprint = peewee.TextField()
    source_address = peewee.TextField()
    requested_at = peewee.DoubleField()  # seconds since the epoch
    replaces = peewee.BooleanField()
    decision = peewee.TextField(null=True)
    decided_at = peewee.DoubleField(null=True)  # seconds since the epoch
    issued = peewee.BooleanField(default=False)
    certificate_pem = peewee.TextField(null=True)

    class Meta:
        table_name = "pairing_request"


MODELS: Final = (PairingToken, PairingRequest)


@dataclass(frozen=True, repr=False)
class PairingTicket:
    """A token as it is shown once. Secret: it has no repr."""

    token: str
    expires_at_utc: datetime


@dataclass(frozen=True)
class Enrolment:
    """A certificate for a box. `is_replacement`: what is left of the former box's sessions is to be ended; also when
    it is asked for again, for the first answer may have been cut off before that."""

    gateway_id: str
    certificate: x509.Certificate
    is_replacement: bool = False


@dataclass(frozen=True)
class PendingBox:
    """A box that waits. `fingerprint` is what the box shows too; `replaces`: the gateway whose place it takes."""

    fingerprint: str
    name: str
    replaces: str | None
    source_address: str
    requested_at_utc: datetime
    is_new: bool = False


class Pairings:
    """Safe to call from many threads and beside other processes on the same database.

    Parameters
    ----------
    accept_at_once : the pairing string alone is enough; else an administrator accepts each key.
    """

    def __init__(
        self,
        db: Database,
        gateways: Gateways,
        clock: Callable[[], float] = time.time,
        *,
        accept_at_once: bool = False,
    ) -> None:
        self._db = db
        self._gateways = gateways
        self._clock = clock
        self._accept_at_once = accept_at_once
        grow_table(db, "pairing_token", {"institution": f"TEXT NOT NULL DEFAULT '{DEFAULT_INSTITUTION}'"})
        grow_table(db, "pairing_request", {"decided_at": "DOUBLE PRECISION", "certificate_pem": "TEXT"})
        make_tables(db, MODELS)

    def new_pairing(
        self, name: str = "", *, replaces: str | None = None, institution: str | None = None
    ) -> PairingTicket | None:
        """A token for one box of `institution` (None: the default one), which will be called `name` ("" gives it a name
        of its own), or take the place of the gateway `replaces`. None: there is no such gateway, or it is another
        institution's."""
        if replaces is not None:
            if not self._gateways.is_known(replaces, institution):
                return None
            institution = self._gateways.institution_of(replaces)
        token = new_token()
        expires_at = self._clock() + PAIRING_LIFE_S
        with self._db.writing():
            old = self._clock() - _KEPT_S
            PairingToken.delete().where(PairingToken.expires_at < old).execute(self._db)
            PairingRequest.delete().where(PairingRequest.requested_at < old).execute(self._db)
            PairingToken.insert(
                token_sha256=_sha256(token.encode()),
                name=name.strip()[:_NAME_CHARACTERS],
                expires_at=expires_at,
                gateway_id=replaces,
                institution=institution or DEFAULT_INSTITUTION,
            ).execute(self._db)
        return PairingTicket(token, datetime.fromtimestamp(expires_at, UTC))

    def is_live(self, token: str) -> bool:
        """Whether a box with this token may go on with its enrolment."""
        token_sha256 = _sha256(token.encode())
        row = self._first(PairingToken.select().where(PairingToken.token_sha256 == token_sha256))
        if row is None:
            return False
        return row["key_sha256"] is not None or row["expires_at"] >= self._clock()

    def enrol(self, token: str, body: bytes, source_address: str = "") -> Enrolment | PendingBox:
        """Redeem `token` for a certificate on the key of the PKCS #10 request, or for a place among the waiting.

        Raises
        ------
        PairingRefusedError : with the reason for the audit record.
        """
        try:
            request = decode_request(body)
        except ValueError as error:
            raise PairingRefusedError("malformed certificate request") from error
        public_key = requested_key(request)
        spki = public_key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        # Found by its hash: how long a comparison takes says nothing about the token.
        token_sha256, key_sha256 = _sha256(token.encode()), _sha256(spki)
        with self._db.writing():
            row = self._first(PairingToken.select().where(PairingToken.token_sha256 == token_sha256))
            if row is None:
                raise PairingRefusedError("unknown token")
            if row["key_sha256"] is None and row["expires_at"] < self._clock():
                raise PairingRefusedError("expired token")
            if row["key_sha256"] not in (None, key_sha256):
                raise PairingRefusedError("token used before, by another key")
            is_new = row["key_sha256"] is None
            if is_new:
                self._note(row, key_sha256, key_fingerprint(public_key), source_address)
            asked = self._first(PairingRequest.select().where(PairingRequest.token_sha256 == token_sha256))
            if asked is None or asked["decision"] == "refused":
                raise PairingRefusedError("request that was refused")
            if self._clock() > asked["requested_at"] + DECISION_LIFE_S:
                raise PairingRefusedError("request that is too old")
            if asked["decision"] is None:
                return replace(_pending(asked, row), is_new=is_new)
            if asked["issued"] and not self._gateways.is_admitted(row["gateway_id"]):
                raise PairingRefusedError("token of a gateway that was revoked since")
            if asked["certificate_pem"] is not None:
                gateway_id = row["gateway_id"]
                certificate = x509.load_pem_x509_certificate(asked["certificate_pem"].encode())
            else:
                gateway_id, certificate = self._issue(row, asked, public_key)
            return Enrolment(gateway_id, certificate, is_replacement=bool(asked["replaces"]))

    def pending(self, institution: str | None = None) -> list[PendingBox]:
        """Boxes (of `institution`) that wait for an administrator, the longest wait first."""
        query = (
            PairingRequest.select(PairingRequest, PairingToken.name, PairingToken.gateway_id)
            .join(PairingToken, on=(PairingToken.token_sha256 == PairingRequest.token_sha256))
            .where(
                PairingRequest.decision.is_null()
                & (PairingRequest.requested_at > self._clock() - DECISION_LIFE_S)
            )
            .order_by(PairingRequest.requested_at)
        )
        if institution is not None:
            query = query.where(PairingToken.institution == institution)
        return [_pending(row, row) for row in query.dicts().execute(self._db)]

    def decide(
        self, fingerprint: str, decision: Decision, institution: str | None = None
    ) -> PendingBox | None:
        """Accept or refuse the waiting box (of `institution`) with this fingerprint. None: there is none."""
        wanted = "".join(fingerprint.split()).lower()
        with self._db.writing():
            for box in self.pending(institution):
                if box.fingerprint.replace(" ", "") == wanted:
                    PairingRequest.update(decision=decision, decided_at=self._clock()).where(
                        PairingRequest.decision.is_null() & (PairingRequest.fingerprint == box.fingerprint)
                    ).execute(self._db)
                    return box
        return None

    def _note(self, row: dict[str, Any], key_sha256: str, fingerprint: str, source_address: str) -> None:
        PairingToken.update(key_sha256=key_sha256).where(
            PairingToken.token_sha256 == row["token_sha256"]
        ).execute(self._db)
        # One yes must not let the same key in twice, as something that the administrator did not look at.
        PairingRequest.update(decision="refused", decided_at=self._clock()).where(
            PairingRequest.decision.is_null() & (PairingRequest.fingerprint == fingerprint)
        ).execute(self._db)
        PairingRequest.insert(
            token_sha256=row["token_sha256"],
            fingerprint=fingerprint,
            source_address=source_address,
            requested_at=self._clock(),
            replaces=row["gateway_id"] is not None,
            decision="accepted" if self._accept_at_once else None,
            decided_at=self._clock() if self._accept_at_once else None,
        ).execute(self._db)

    def _issue(
        self, row: dict[str, Any], asked: dict[str, Any], public_key: ec.EllipticCurvePublicKey
    ) -> tuple[str, x509.Certificate]:
        """The gateway id and certificate that an accepted request buys, both on record."""
        token_sha256, gateway_id = row["token_sha256"], row["gateway_id"]
        if asked["issued"]:  # by an older version, which did not keep it
            certificate = self._gateways.issue(gateway_id, public_key)
        elif asked["replaces"]:
            if self._was_revoked_since(gateway_id, asked):
                raise PairingRefusedError("accepted before the gateway was revoked")
            self._void_former(gateway_id, token_sha256)
            certificate = self._gateways.replace(gateway_id, public_key)
        else:
            gateway_id, certificate = self._gateways.register(row["name"], public_key, row["institution"])
            PairingToken.update(gateway_id=gateway_id).where(
                PairingToken.token_sha256 == token_sha256
            ).execute(self._db)
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
        PairingRequest.update(issued=True, certificate_pem=pem).where(
            PairingRequest.token_sha256 == token_sha256
        ).execute(self._db)
        return gateway_id, certificate

    def _was_revoked_since(self, gateway_id: str, asked: dict[str, Any]) -> bool:
        revoked_at_utc = self._gateways.revoked_at_utc(gateway_id)
        decided_at = asked["decided_at"] or asked["requested_at"]
        return revoked_at_utc is not None and revoked_at_utc.timestamp() > decided_at

    def _void_former(self, gateway_id: str, token_sha256: str) -> None:
        """A box that is replaced now could else ask once more with its own token, as if an answer had been lost."""
        former = PairingToken.select(PairingToken.token_sha256).where(
            (PairingToken.gateway_id == gateway_id) & (PairingToken.token_sha256 != token_sha256)
        )
        PairingRequest.update(decision="refused").where(
            PairingRequest.issued & PairingRequest.token_sha256.in_(former)
        ).execute(self._db)

    def _first(self, query: Any) -> dict[str, Any] | None:
        rows: list[dict[str, Any]] = list(query.limit(1).dicts().execute(self._db))
        return rows[0] if rows else None


def _pending(asked: dict[str, Any], token: dict[str, Any]) -> PendingBox:
    return PendingBox(
        fingerprint=asked["fingerprint"],
        name=token["name"],
        replaces=token["gateway_id"] if asked["replaces"] else None,
        source_address=asked["source_address"],
        requested_at_utc=datetime.fromtimestamp(asked["requested_at"], UTC),
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
