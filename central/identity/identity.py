"""Everything central proves itself with, in ``keys/``, made at the first start and only then.

    ca.key ca.pem                   the authority
    server.key server.pem           the gateways' listener
    broker-client.key .pem          central towards the MQTT broker
    root.* sealing/ key-set.jws     opens what the boxes seal (central.identity.sealing_keys)
    receipt.key                     signs the audit record's checkpoints, and receipts and the time until another does
    receipt-*                       further receipt keys (central.identity.receipt_keys)

Always true: a key that is there is never replaced, because a lost sealing key loses objects in flight and a
lost CA locks out the fleet. Certificates of central's own are replaced when names or expiry demand it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from central.identity.authority import CertificateAuthority
from central.identity.errors import KeyFileError
from central.identity.keyfiles import make_private_folder, private_pem, read_private, write_whole
from central.identity.receipt_keys import ReceiptKeys
from central.identity.sealing_keys import SealingKeys
from contract.enrolment import ca_fingerprint

RENEW_BEFORE: Final = timedelta(days=90)


@dataclass(frozen=True)
class KeyPair:
    """Paths of a certificate and its key, as TLS libraries want them."""

    certificate: Path
    key: Path


@dataclass(frozen=True, repr=False)
class Identity:
    """Central's keys, open. `central_id` names this central in receipts; it follows from the CA."""

    authority: CertificateAuthority
    ca_path: Path
    server_hosts: tuple[str, ...]
    server: KeyPair
    broker_client: KeyPair
    sealing_keys: SealingKeys
    receipt_key: Ed25519PrivateKey
    receipt_keys: ReceiptKeys

    @property
    def central_id(self) -> str:
        return central_id_of(self.authority)

    @property
    def ticket_key(self) -> bytes:
        """Marks the boxes' tickets (central.identity.standings); it follows from the receipt key."""
        return self._derived(b"dicomnet standing ticket")

    @property
    def factor_key(self) -> bytes:
        """Seals people's second factors (central.access.second_factors); it follows from the receipt key."""
        return self._derived(b"dicomnet second factors")

    def certify_own(self) -> None:
        """Make central's own certificates anew where they will not do, for their names or their near end.

        Raises
        ------
        KeyFileError, OSError : as `open`.
        """
        hosts = self.server_hosts
        _certify(self.authority, self.server, hosts, lambda key: self.authority.issue_server(key, hosts))
        _certify(self.authority, self.broker_client, [], self.authority.issue_broker_client)

    def _derived(self, purpose: bytes) -> bytes:
        derived = HKDF(hashes.SHA256(), 32, salt=None, info=purpose)
        return derived.derive(self.receipt_key.private_bytes_raw())

    @property
    def ca_fingerprint(self) -> str:
        return ca_fingerprint(self.authority.certificate)

    @classmethod
    def open(cls, folder: Path, server_hosts: Sequence[str]) -> Identity:
        """Load or make the keys in `folder`; the server certificate is for `server_hosts`.

        Raises
        ------
        KeyFileError : a key is damaged, open to others, or does not fit its certificate.
        OSError : the folder cannot be written.
        """
        make_private_folder(folder)
        authority = CertificateAuthority.open(folder)
        central_id = central_id_of(authority)
        sealing_keys = SealingKeys.open(folder, central_id)
        receipt_key = _receipt_key(folder / "receipt.key")
        identity = cls(
            authority=authority,
            ca_path=folder / "ca.pem",
            server_hosts=tuple(dict.fromkeys(server_hosts)),
            server=KeyPair(folder / "server.pem", folder / "server.key"),
            broker_client=KeyPair(folder / "broker-client.pem", folder / "broker-client.key"),
            sealing_keys=sealing_keys,
            receipt_key=receipt_key,
            receipt_keys=ReceiptKeys.open(folder, central_id, receipt_key, sealing_keys.root_public),
        )
        identity.certify_own()
        return identity


def holds_keys(folder: Path) -> bool:
    """Whether there was a first start with this folder; else `open` makes every key."""
    return (folder / "ca.key").exists() or (folder / "ca.pem").exists()


def central_id_of(authority: CertificateAuthority) -> str:
    """Central's name in receipts and key sets."""
    return f"central-{ca_fingerprint(authority.certificate)[:8]}"


def _certify(
    authority: CertificateAuthority,
    pair: KeyPair,
    hosts: Sequence[str],
    issue: Callable[[ec.EllipticCurvePublicKey], x509.Certificate],
) -> None:
    """Make `pair`'s key if there is none, and its certificate if the one there will not do."""
    key_pem = read_private(pair.key)
    if key_pem is None:
        key = ec.generate_private_key(ec.SECP256R1())
        write_whole(pair.key, private_pem(key))
    else:
        loaded = _load_pem(pair.key, key_pem)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise KeyFileError(
                f"{pair.key} is not an ECDSA key: remove it, a new one is made at the next start"
            )
        key = loaded
    if not _will_do(authority, pair.certificate, key, hosts):
        certificate = issue(key.public_key())
        write_whole(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


def _will_do(
    authority: CertificateAuthority, path: Path, key: ec.EllipticCurvePrivateKey, hosts: Sequence[str]
) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(authority.certificate)
    except Exception:  # missing, damaged, or of another CA: whichever it is, a new one is issued
        return False
    if certificate.public_key() != key.public_key():
        return False
    now = datetime.now(UTC)
    if (
        certificate.not_valid_before_utc > now
    ):  # central's clock was ahead when it was issued, and was put right
        return False
    if certificate.not_valid_after_utc - now < RENEW_BEFORE:
        return False
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return not hosts
    return {str(name.value) for name in names} == set(hosts)


def _receipt_key(path: Path) -> Ed25519PrivateKey:
    pem = read_private(path)
    if pem is None:
        key = Ed25519PrivateKey.generate()
        write_whole(path, private_pem(key))
        return key
    loaded = _load_pem(path, pem)
    if not isinstance(loaded, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an Ed25519 key: restore it from the backup")
    return loaded


def _load_pem(path: Path, pem: bytes) -> object:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{path} is damaged: restore it from the backup") from error
