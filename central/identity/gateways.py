"""Which boxes central knows: pairings given out, certificates issued, gateways revoked.

Always true: a pairing token is kept as its SHA-256 only, lives fifteen minutes, and buys a certificate for one
key: the box that lost the answer on a bad line may ask again with the same key, nobody else. A gateway counts
as known by its row here; its certificate alone is not enough. All of it lies in the database, so the command
line works beside a running server.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import peewee
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from central.identity.authority import CertificateAuthority
from central.identity.errors import CertificateRefusedError, PairingRefusedError
from contract.enrolment import PAIRING_LIFE_S, new_token

_ID_CHARACTERS: Final = 24  # leaves room for a suffix within the 32 of a gateway id


class Gateway(peewee.Model):
    """A box that enrolled. `revoked_at_utc` null: it may come in."""

    gateway_id = peewee.TextField(primary_key=True)
    name = peewee.TextField()
    enrolled_at_utc = peewee.TextField()
    revoked_at_utc = peewee.TextField(null=True)

    class Meta:
        table_name = "gateway"


class GatewayCertificate(peewee.Model):
    """A certificate that was issued, by serial number in hex."""

    serial = peewee.TextField(primary_key=True)
    gateway = peewee.ForeignKeyField(Gateway, backref="certificates")
    expires_at_utc = peewee.TextField()

    class Meta:
        table_name = "gateway_certificate"


class PairingToken(peewee.Model):
    """A pairing string that was given out. `key_sha256` and `gateway_id` are filled in by the box that used it."""

    token_sha256 = peewee.TextField(primary_key=True)
    name = peewee.TextField()
    expires_at = peewee.FloatField()  # seconds since the epoch
    key_sha256 = peewee.TextField(null=True)
    gateway_id = peewee.TextField(null=True)

    class Meta:
        table_name = "pairing_token"


MODELS: Final = (Gateway, GatewayCertificate, PairingToken)


@dataclass(frozen=True)
class GatewayRecord:
    gateway_id: str
    name: str
    enrolled_at_utc: datetime
    revoked_at_utc: datetime | None
    certificate_expires_at_utc: datetime | None


@dataclass(frozen=True, repr=False)
class PairingTicket:
    """A token as it is shown once. Secret: it has no repr."""

    token: str
    expires_at_utc: datetime


@dataclass(frozen=True)
class Enrolment:
    gateway_id: str
    certificate_pem: str


class Gateways:
    """The register. Safe to call from many threads and beside other processes on the same database."""

    def __init__(
        self,
        db: peewee.SqliteDatabase,
        authority: CertificateAuthority,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._authority = authority
        self._clock = clock
        with db.bind_ctx(MODELS):
            db.create_tables(MODELS)

    def new_pairing(self, name: str = "") -> PairingTicket:
        """A token for one box, which will be called `name` ("" gives it a name of its own)."""
        token = new_token()
        expires_at = self._clock() + PAIRING_LIFE_S
        with self._db.atomic("IMMEDIATE"):
            PairingToken.delete().where(PairingToken.expires_at < self._clock() - 86_400).execute(self._db)
            PairingToken.insert(
                token_sha256=_sha256(token.encode()), name=name.strip()[:64], expires_at=expires_at
            ).execute(self._db)
        return PairingTicket(token, datetime.fromtimestamp(expires_at, UTC))

    def enrol(self, token: str, csr_pem: str) -> Enrolment:
        """Redeem `token` for a certificate on the key of the PKCS #10 request.

        Raises
        ------
        PairingRefusedError : with the reason for the audit record.
        """
        public_key = _requested_key(csr_pem)
        key_sha256 = _sha256(
            public_key.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        with self._db.atomic("IMMEDIATE"):
            # Found by its hash: how long a comparison takes says nothing about the token.
            row = self._first(
                PairingToken.select().where(PairingToken.token_sha256 == _sha256(token.encode()))
            )
            if row is None:
                raise PairingRefusedError("unknown token")
            if row["expires_at"] < self._clock():
                raise PairingRefusedError("expired token")
            if row["key_sha256"] not in (None, key_sha256):
                raise PairingRefusedError("token used before, by another key")
            gateway_id = row["gateway_id"]
            if gateway_id is not None and not self.is_admitted(gateway_id):
                raise PairingRefusedError("token of a gateway that was revoked since")
            if gateway_id is None:
                gateway_id = self._register(row["name"])
                PairingToken.update(key_sha256=key_sha256, gateway_id=gateway_id).where(
                    PairingToken.token_sha256 == row["token_sha256"]
                ).execute(self._db)
            certificate = self._authority.issue_gateway(gateway_id, public_key)
            GatewayCertificate.insert(
                serial=f"{certificate.serial_number:x}",
                gateway=gateway_id,
                expires_at_utc=certificate.not_valid_after_utc.isoformat(),
            ).execute(self._db)
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
        return Enrolment(gateway_id, pem)

    def gateway_of(self, certificate_der: bytes | None) -> str:
        """The gateway id a client certificate proves. TLS has verified its chain; the rest is checked here.

        Raises
        ------
        CertificateRefusedError : none was shown, or it is not, or no longer, a known gateway's.
        """
        if certificate_der is None:
            raise CertificateRefusedError("no client certificate")
        certificate = x509.load_der_x509_certificate(certificate_der)
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        claimed = str(names[0].value) if len(names) == 1 else ""
        if certificate.not_valid_after_utc.timestamp() < self._clock():
            raise CertificateRefusedError("expired certificate", claimed)
        row = self._first(
            GatewayCertificate.select(Gateway.gateway_id, Gateway.revoked_at_utc)
            .join(Gateway)
            .where(GatewayCertificate.serial == f"{certificate.serial_number:x}")
        )
        if row is None or row["gateway_id"] != claimed:
            raise CertificateRefusedError("certificate of no known gateway", claimed)
        if row["revoked_at_utc"] is not None:
            raise CertificateRefusedError("revoked gateway", claimed)
        return claimed

    def revoke(self, gateway_id: str) -> bool:
        """Close the door to a gateway for good, from its next request on. False: there is no such gateway."""
        known = Gateway.gateway_id == gateway_id
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat()
        with self._db.atomic("IMMEDIATE"):
            if self._first(Gateway.select().where(known)) is None:
                return False
            Gateway.update(revoked_at_utc=now).where(known & Gateway.revoked_at_utc.is_null()).execute(
                self._db
            )
        return True

    def listed(self) -> list[GatewayRecord]:
        """All gateways by id, revoked ones too."""
        newest = peewee.fn.MAX(GatewayCertificate.expires_at_utc).alias("expires_at_utc")
        query = (
            Gateway.select(Gateway, newest)
            .join(GatewayCertificate, peewee.JOIN.LEFT_OUTER)
            .group_by(Gateway.gateway_id)
            .order_by(Gateway.gateway_id)
        )
        return [
            GatewayRecord(
                gateway_id=row["gateway_id"],
                name=row["name"],
                enrolled_at_utc=datetime.fromisoformat(row["enrolled_at_utc"]),
                revoked_at_utc=_when(row["revoked_at_utc"]),
                certificate_expires_at_utc=_when(row["expires_at_utc"]),
            )
            for row in query.dicts().execute(self._db)
        ]

    def is_admitted(self, gateway_id: str) -> bool:
        """Whether there is such a gateway, and it is not revoked."""
        row = self._first(Gateway.select(Gateway.revoked_at_utc).where(Gateway.gateway_id == gateway_id))
        return row is not None and row["revoked_at_utc"] is None

    def revoked_serials(self) -> list[int]:
        """Serial numbers of every certificate of every revoked gateway, for the CRL."""
        query = (
            GatewayCertificate.select(GatewayCertificate.serial)
            .join(Gateway)
            .where(Gateway.revoked_at_utc.is_null(False))
        )
        return [int(row["serial"], 16) for row in query.dicts().execute(self._db)]

    def _register(self, name: str) -> str:
        slug = _slug(name)
        gateway_id = slug or f"gw-{secrets.token_hex(4)}"
        for suffix in range(2, 1000):
            if self._first(Gateway.select().where(Gateway.gateway_id == gateway_id)) is None:
                break
            gateway_id = f"{slug or 'gw'}-{suffix}"
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat()
        Gateway.insert(gateway_id=gateway_id, name=name or gateway_id, enrolled_at_utc=now).execute(self._db)
        return gateway_id

    def _first(self, query: Any) -> dict[str, Any] | None:
        rows: list[dict[str, Any]] = list(query.limit(1).dicts().execute(self._db))
        return rows[0] if rows else None


def _requested_key(csr_pem: str) -> ec.EllipticCurvePublicKey:
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode("ascii"))
        key = request.public_key()
        proven = request.is_signature_valid
    except Exception as error:  # a parser fed by strangers; whatever it trips over, the request is none
        raise PairingRefusedError("malformed certificate request") from error
    if not proven:
        raise PairingRefusedError("certificate request not signed with its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PairingRefusedError("certificate request for a key that is not ECDSA P-256")
    return key


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_ID_CHARACTERS].strip("-")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _when(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
