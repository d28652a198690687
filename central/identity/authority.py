"""Central's private certificate authority: ECDSA P-256, ten years, no intermediate.

Boxes trust this CA and nothing else, pinned at pairing, so no public CA can put itself in between. Always
true: a gateway's certificate is good for client authentication only, and its subject is chosen here, whatever
the request asked for; so no box can pass for central or for another box.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from central.identity.errors import KeyFileError
from central.identity.keyfiles import private_pem, read_private, write_whole

CA_LIFE: Final = timedelta(days=3650)
GATEWAY_LIFE: Final = timedelta(days=60)
SERVICE_LIFE: Final = timedelta(days=730)  # central's own certificates, renewed at every start that needs it
STAND_IN_LIFE: Final = timedelta(minutes=5)
CLOCK_SLACK: Final = timedelta(days=1)  # a box without a battery-backed clock may live in the past
BROKER_COMMON_NAME: Final = "dicomnet.central"  # the dot: no gateway id has one


@dataclass(frozen=True)
class CertificateAuthority:
    """The CA's certificate and key. Makes certificates; keeps no record of them."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def open(cls, folder: Path) -> CertificateAuthority:
        """Load ``ca.pem`` and ``ca.key`` from `folder`, or make them if neither is there.

        Raises
        ------
        KeyFileError : only one of them is there, or they do not fit each other.
        """
        key_path, certificate_path = folder / "ca.key", folder / "ca.pem"
        key_pem = read_private(key_path)
        if key_pem is None and certificate_path.exists():
            raise KeyFileError(
                f"{certificate_path} has no ca.key beside it: restore both from the backup; a new CA would "
                "lock out every enrolled gateway"
            )
        if key_pem is None:
            return cls._make(key_path, certificate_path)
        try:
            key = serialization.load_pem_private_key(key_pem, password=None)
            certificate_pem = certificate_path.read_bytes() if certificate_path.exists() else None
            certificate = x509.load_pem_x509_certificate(certificate_pem) if certificate_pem else None
        except ValueError as error:
            raise KeyFileError(f"{key_path} or {certificate_path} is damaged: restore both") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise KeyFileError(f"{key_path} is not an ECDSA key")
        if certificate is None and (folder / "key-set.jws").exists():
            raise KeyFileError(
                f"{certificate_path} is missing: restore it from the backup; another certificate would give central "
                "another name, and boxes would not believe its receipts"
            )
        if certificate is None:  # a crash fell between the two writes of the first start
            return cls._certify(key, certificate_path)
        if certificate.public_key() != key.public_key():
            raise KeyFileError(
                f"{key_path} is not the key of {certificate_path}: restore both from one backup"
            )
        return cls(certificate, key)

    @classmethod
    def _make(cls, key_path: Path, certificate_path: Path) -> CertificateAuthority:
        key = ec.generate_private_key(ec.SECP256R1())
        write_whole(key_path, private_pem(key))
        return cls._certify(key, certificate_path)

    @classmethod
    def _certify(cls, key: ec.EllipticCurvePrivateKey, certificate_path: Path) -> CertificateAuthority:
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        name = _name(f"DICOM Network CA {identifier.digest.hex()[:8]}")
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SLACK)
            .not_valid_after(now + CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        write_whole(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
        return cls(certificate, key)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue_gateway(self, gateway_id: str, public_key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        """A box's certificate: client authentication, common name = gateway id."""
        return self._issue(gateway_id, public_key, ExtendedKeyUsageOID.CLIENT_AUTH, GATEWAY_LIFE)

    def issue_stand_in(self, gateway_id: str, public_key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        """For central itself in a gateway's place at the broker, for minutes, to end its session there."""
        return self._issue(gateway_id, public_key, ExtendedKeyUsageOID.CLIENT_AUTH, STAND_IN_LIFE)

    def issue_broker_client(self, public_key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        """Central's own certificate towards the broker."""
        return self._issue(BROKER_COMMON_NAME, public_key, ExtendedKeyUsageOID.CLIENT_AUTH, SERVICE_LIFE)

    def issue_server(self, public_key: ec.EllipticCurvePublicKey, hosts: Sequence[str]) -> x509.Certificate:
        """A server certificate for `hosts`, each a DNS name or an IP address."""
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        return self._issue(hosts[0], public_key, ExtendedKeyUsageOID.SERVER_AUTH, SERVICE_LIFE, names)

    def revocation_list(self, serials: Iterable[int]) -> x509.CertificateRevocationList:
        """A CRL (RFC 5280 section 5). Valid as long as the CA: OpenSSL refuses everybody once a CRL is out of date,
        and a fleet must not stop because nobody revoked anything for a while."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - CLOCK_SLACK)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        )
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(revoked)
        return builder.sign(self.key, hashes.SHA256())

    def _issue(
        self,
        common_name: str,
        public_key: ec.EllipticCurvePublicKey,
        usage: ObjectIdentifier,
        life: timedelta,
        names: x509.SubjectAlternativeName | None = None,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(common_name[:64]))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SLACK)
            .not_valid_after(min(now + life, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(authority, critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
