"""Which boxes central knows: certificates issued, renewed and ended, gateways revoked.

Always true: a gateway counts as known by its row here; its certificate alone is not enough, so whatever is
changed here holds from the next request on. A certificate that was ended never counts again, whatever becomes of
its gateway. All of it lies in the database, so the command line works beside a running server.
"""

from __future__ import annotations

import re
import secrets
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import peewee
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from central.database import Database, grow_table, make_tables
from central.identity.authority import CertificateAuthority
from central.identity.errors import CertificateRefusedError, PairingRefusedError, RenewalRefusedError
from central.institution import DEFAULT_INSTITUTION

_ID_CHARACTERS: Final = 24  # leaves room for a suffix within the 32 of a gateway id
_RENEWALS_A_DAY: Final = 8
_AGAIN: Final = (
    "ask the administrator for a pairing string that replaces this box (Fleet, or pair --replaces {})"
)
_NEW: Final = "ask the administrator for a pairing string of its own (Fleet, Add a box, or pair --name)"


class Gateway(peewee.Model):
    """A box that enrolled. `revoked_at_utc` null: it may come in."""

    gateway_id = peewee.TextField(primary_key=True)
    name = peewee.TextField()
    enrolled_at_utc = peewee.TextField()
    revoked_at_utc = peewee.TextField(null=True)
    institution = peewee.TextField(default=DEFAULT_INSTITUTION)

    class Meta:
        table_name = "gateway"


class GatewayCertificate(peewee.Model):
    """A certificate that was issued, by serial number in hex."""

    serial = peewee.TextField(primary_key=True)
    gateway = peewee.ForeignKeyField(Gateway, backref="certificates")
    expires_at_utc = peewee.TextField()

    class Meta:
        table_name = "gateway_certificate"


class CertificateIssue(peewee.Model):
    """When a certificate was issued: a box that asks for one after the other is told to wait."""

    serial = peewee.TextField(primary_key=True)
    gateway_id = peewee.TextField(index=True)
    issued_at = peewee.DoubleField()  # seconds since the epoch

    class Meta:
        table_name = "certificate_issue"


class EndedCertificate(peewee.Model):
    """A certificate that was ended before its time: its box was replaced."""

    serial = peewee.TextField(primary_key=True)
    ended_at_utc = peewee.TextField()

    class Meta:
        table_name = "ended_certificate"


MODELS: Final = (Gateway, GatewayCertificate, CertificateIssue, EndedCertificate)


@dataclass(frozen=True)
class GatewayRecord:
    gateway_id: str
    name: str
    enrolled_at_utc: datetime
    revoked_at_utc: datetime | None
    certificate_expires_at_utc: datetime | None
    institution: str = DEFAULT_INSTITUTION


class Gateways:
    """The register. Safe to call from many threads and beside other processes on the same database."""

    def __init__(
        self,
        db: Database,
        authority: CertificateAuthority,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._authority = authority
        self._clock = clock
        grow_table(db, "gateway", {"institution": f"TEXT NOT NULL DEFAULT '{DEFAULT_INSTITUTION}'"})
        make_tables(db, MODELS)

    def register(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        institution: str = DEFAULT_INSTITUTION,
    ) -> tuple[str, x509.Certificate]:
        """Make a new gateway of `institution`, called after `name`, with a certificate for its key. In the caller's
        transaction."""
        gateway_id = self._new_id(name)
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat()
        Gateway.insert(
            gateway_id=gateway_id, name=name or gateway_id, enrolled_at_utc=now, institution=institution
        ).execute(self._db)
        return gateway_id, self.issue(gateway_id, public_key)

    def replace(self, gateway_id: str, public_key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        """Give a known gateway's name to the box with this key: every certificate before it ends, a revocation is
        lifted, and everything that is known of the gateway stays. In the caller's transaction."""
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat()
        former = GatewayCertificate.select(GatewayCertificate.serial).where(
            GatewayCertificate.gateway == gateway_id
        )
        for row in list(former.dicts().execute(self._db)):
            EndedCertificate.insert(serial=row["serial"], ended_at_utc=now).on_conflict_ignore().execute(
                self._db
            )
        Gateway.update(revoked_at_utc=None).where(Gateway.gateway_id == gateway_id).execute(self._db)
        return self.issue(gateway_id, public_key)

    def issue(self, gateway_id: str, public_key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        """A certificate for a known gateway, on record. In the caller's transaction."""
        certificate = self._authority.issue_gateway(gateway_id, public_key)
        serial = f"{certificate.serial_number:x}"
        GatewayCertificate.insert(
            serial=serial, gateway=gateway_id, expires_at_utc=certificate.not_valid_after_utc.isoformat()
        ).execute(self._db)
        CertificateIssue.insert(serial=serial, gateway_id=gateway_id, issued_at=self._clock()).execute(
            self._db
        )
        return certificate

    def renew(
        self, certificate_der: bytes | None, request: x509.CertificateSigningRequest
    ) -> x509.Certificate:
        """A new certificate for the gateway that this one proves (RFC 7030 section 4.2.2).

        The former one stays good until its own end: the box may lose the answer, and is in the middle of sending.

        Raises
        ------
        CertificateRefusedError : as `gateway_of`.
        PairingRefusedError : the request is not one, or for another kind of key.
        RenewalRefusedError : it names another subject, or there were too many of late.
        """
        public_key = requested_key(request)
        names = [str(name.value) for name in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        with self._db.writing():
            # Here, where nobody revokes or replaces meanwhile: its request may have been long on its way.
            gateway_id = self.gateway_of(certificate_der)
            if names != [gateway_id]:
                raise RenewalRefusedError("the subject of the request is not the certificate's")
            lately = (
                CertificateIssue.select(peewee.fn.COUNT(CertificateIssue.serial))
                .where(
                    (CertificateIssue.gateway_id == gateway_id)
                    & (CertificateIssue.issued_at > self._clock() - 86_400)
                )
                .scalar(self._db)
            )
            if lately >= _RENEWALS_A_DAY:
                raise RenewalRefusedError("more certificates in one day than any honest box asks for")
            return self.issue(gateway_id, public_key)

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
        again = _AGAIN.format(claimed)
        if certificate.not_valid_after_utc.timestamp() < self._clock():
            ended = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
            raise CertificateRefusedError(
                "expired certificate", claimed, f"this box's certificate ended on {ended}: {again}"
            )
        serial = f"{certificate.serial_number:x}"
        row = self._first(
            GatewayCertificate.select(
                Gateway.gateway_id, Gateway.revoked_at_utc, EndedCertificate.ended_at_utc
            )
            .join(Gateway)
            .join(
                EndedCertificate,
                peewee.JOIN.LEFT_OUTER,
                on=(EndedCertificate.serial == GatewayCertificate.serial),
            )
            .where(GatewayCertificate.serial == serial)
        )
        if row is None or row["gateway_id"] != claimed:
            advice = f"central does not know this certificate: {again}"
            if not self.is_known(claimed):  # central was set back to a backup from before it enrolled
                advice = f"central does not know this box: {_NEW}"
            raise CertificateRefusedError("certificate of no known gateway", claimed, advice)
        if row["revoked_at_utc"] is not None:
            raise CertificateRefusedError(
                "revoked gateway", claimed, f"this box was revoked at central: {again}"
            )
        if row["ended_at_utc"] is not None:
            raise CertificateRefusedError(
                "certificate of a box that was replaced",
                claimed,
                f"another box took the place of this one at central, or it was enrolled anew: {again}",
            )
        return claimed

    def revoke(self, gateway_id: str) -> bool:
        """Close the door to a gateway for good, from its next request on. False: there is no such gateway."""
        known = Gateway.gateway_id == gateway_id
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat()
        with self._db.writing():
            if self._first(Gateway.select().where(known)) is None:
                return False
            Gateway.update(revoked_at_utc=now).where(known & Gateway.revoked_at_utc.is_null()).execute(
                self._db
            )
        return True

    def institution_of(self, gateway_id: str) -> str:
        """Whose box it is; the default institution's where there is no such gateway."""
        known = Gateway.select(Gateway.institution).where(Gateway.gateway_id == gateway_id)
        return known.scalar(self._db) or DEFAULT_INSTITUTION

    def move(self, gateway_id: str, institution: str, *, former: str) -> bool:
        """Make a box of `former` another institution's; what it has sent stays where it came in. False: `former` has
        none such."""
        update = Gateway.update(institution=institution).where(
            Gateway.gateway_id == gateway_id, Gateway.institution == former
        )
        return bool(update.execute(self._db))

    def listed(
        self, institution: str | None = None, gateway_ids: Sequence[str] | None = None
    ) -> list[GatewayRecord]:
        """Gateways by id, revoked ones too: all, or an institution's, or those with these ids."""
        newest = peewee.fn.MAX(GatewayCertificate.expires_at_utc).alias("expires_at_utc")
        query = (
            Gateway.select(Gateway, newest)
            .join(GatewayCertificate, peewee.JOIN.LEFT_OUTER)
            .group_by(Gateway.gateway_id)
            .order_by(Gateway.gateway_id)
        )
        if institution is not None:
            query = query.where(Gateway.institution == institution)
        if gateway_ids is not None:
            query = query.where(Gateway.gateway_id.in_(list(gateway_ids)))
        return [
            GatewayRecord(
                gateway_id=row["gateway_id"],
                name=row["name"],
                enrolled_at_utc=datetime.fromisoformat(row["enrolled_at_utc"]),
                revoked_at_utc=_when(row["revoked_at_utc"]),
                certificate_expires_at_utc=_when(row["expires_at_utc"]),
                institution=row["institution"],
            )
            for row in query.dicts().execute(self._db)
        ]

    def is_known(self, gateway_id: str, institution: str | None = None) -> bool:
        """Whether there is such a gateway (of `institution`), revoked or not."""
        return self._named(gateway_id, institution) is not None

    def is_admitted(self, gateway_id: str, institution: str | None = None) -> bool:
        """Whether there is such a gateway (of `institution`), and it is not revoked."""
        row = self._named(gateway_id, institution)
        return row is not None and row["revoked_at_utc"] is None

    def revoked_at_utc(self, gateway_id: str) -> datetime | None:
        """Since when the gateway is let in no more; None: it is, or there is none."""
        row = self._named(gateway_id, None)
        return _when(row["revoked_at_utc"]) if row else None

    def revoked_serials(self) -> list[int]:
        """Serial numbers of every certificate of every revoked gateway, and of replaced boxes, for the CRL."""
        revoked = (
            GatewayCertificate.select(GatewayCertificate.serial)
            .join(Gateway)
            .where(Gateway.revoked_at_utc.is_null(False))
        )
        ended = EndedCertificate.select(EndedCertificate.serial)
        rows = [*revoked.dicts().execute(self._db), *ended.dicts().execute(self._db)]
        return sorted({int(row["serial"], 16) for row in rows})

    def _new_id(self, name: str) -> str:
        slug = _slug(name)
        gateway_id = slug or f"gw-{secrets.token_hex(4)}"
        for suffix in range(2, 1000):
            if self._first(Gateway.select().where(Gateway.gateway_id == gateway_id)) is None:
                break
            gateway_id = f"{slug or 'gw'}-{suffix}"
        return gateway_id

    def _named(self, gateway_id: str, institution: str | None) -> dict[str, Any] | None:
        query = Gateway.select().where(Gateway.gateway_id == gateway_id)
        return self._first(query if institution is None else query.where(Gateway.institution == institution))

    def _first(self, query: Any) -> dict[str, Any] | None:
        rows: list[dict[str, Any]] = list(query.limit(1).dicts().execute(self._db))
        return rows[0] if rows else None


def any_enrolled(db: Database) -> bool:
    """Whether a gateway ever enrolled here; also for a database that has no tables yet."""
    return "gateway" in db.get_tables() and bool(Gateway.select().limit(1).count(db))


def requested_key(request: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    """The P-256 key that a request is for and is signed with; PairingRefusedError if it is not such a request."""
    try:
        key, proven = request.public_key(), request.is_signature_valid
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


def _when(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
