"""Who this box is: its private key, its certificate, and what central handed out with it.

    identity/<32 hex>/key.pem, certificate.pem, enrolment.json      (0700, files 0600)
    identity/current -> <32 hex>
    identity/keys.json        whom to seal for (edge.uplink.key_book)
    identity/receipt_keys.json  whose receipts count (edge.uplink.receipt_key_book)
    identity/clock.json       the time that was believed last (edge.uplink.clock)
    identity/pending.json     an enrolment that waits for an administrator (edge.uplink.pending)

Always true: `current` names a directory that was complete and fsynced before the name pointed at it, so key,
certificate and answer always belong together. A crash leaves the old identity or the new one, and at worst a
directory nobody points at, which a later save removes. The private key never leaves this directory; where it is
in a TPM it is not even here: `key.pem` is then what that TPM alone can use (edge.uplink.tpm).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import shutil
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from pydantic import BaseModel, ConfigDict, ValidationError

from contract.enrolment import BrokerAddress, EnrolmentAnswer, ca_fingerprint
from contract.errors import ContractError
from contract.identifiers import check_gateway_id
from contract.key_set import KeySetError, verify_key_set
from contract.receipt import receipt_key_id
from contract.sealing import RecipientPublicKey
from edge.buffer.durable_file import fsync_directory
from edge.uplink.box_key import BoxKey
from edge.uplink.clock import BoxClock
from edge.uplink.errors import IdentityError
from edge.uplink.key_maker import KeyMaker
from edge.uplink.pinned_tls import pinned_context
from edge.uplink.receipt_key_book import ReceiptKeyBook

_CURRENT: Final = "current"
_KEY, _CERTIFICATE, _ENROLMENT = "key.pem", "certificate.pem", "enrolment.json"
LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Enrolment(BaseModel):
    """`enrolment.json`: where central is, and its answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    central_host: str
    central_port: int
    answer: EnrolmentAnswer


@dataclass(frozen=True)
class Identity:
    """An identity whose parts were checked against each other."""

    enrolment: Enrolment
    directory: Path
    key: BoxKey = field(compare=False)
    clock: BoxClock = field(default_factory=BoxClock, compare=False)
    receipt_book: ReceiptKeyBook = field(default_factory=ReceiptKeyBook, compare=False)

    @property
    def gateway_id(self) -> str:
        return self.enrolment.answer.gateway_id

    @property
    def broker(self) -> BrokerAddress | None:
        return self.enrolment.answer.broker

    @property
    def central_url(self) -> str:
        host = self.enrolment.central_host
        return f"https://{f'[{host}]' if ':' in host else host}:{self.enrolment.central_port}"

    @cached_property
    def ca_fingerprint(self) -> str:
        return ca_fingerprint(x509.load_pem_x509_certificate(self.enrolment.answer.ca_pem.encode()))

    @property
    def ca_pem(self) -> str:
        return self.enrolment.answer.ca_pem

    @cached_property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.enrolment.answer.certificate_pem.encode())

    @property
    def certificate_expires_at_utc(self) -> datetime:
        return self.certificate.not_valid_after_utc

    @cached_property
    def renew_at_utc(self) -> datetime:
        """Two thirds through the certificate's life, up to a thirtieth of it later: not all boxes on one day."""
        begins, ends = self.certificate.not_valid_before_utc, self.certificate.not_valid_after_utc
        spread = hashlib.sha256(self.enrolment.answer.certificate_pem.encode()).digest()[0] / 255
        return begins + (ends - begins) * (2 / 3 + spread / 30)

    @property
    def receipt_keys(self) -> Mapping[str, Ed25519PublicKey]:
        """By key id, as `contract.receipt.verify_receipt` wants them: those of the newest list, or of the enrolment."""
        listed = self.receipt_book.keys(self.root_key)
        return self._first_receipt_keys if listed is None else listed

    @cached_property
    def _first_receipt_keys(self) -> Mapping[str, Ed25519PublicKey]:
        keys = [Ed25519PublicKey.from_public_bytes(_raw(text)) for text in self.enrolment.answer.receipt_keys]
        return {receipt_key_id(key): key for key in keys}

    @cached_property
    def root_key(self) -> Ed25519PublicKey:
        """Signs key sets and lists of receipt keys; pinned at enrolment."""
        return Ed25519PublicKey.from_public_bytes(_raw(self.enrolment.answer.root_key))

    @cached_property
    def recipients(self) -> tuple[RecipientPublicKey, ...]:
        """Whom this box was told to seal for when it enrolled; the key book knows of newer keys."""
        return (verify_key_set(self.enrolment.answer.key_set, self.root_key).newest.recipient(),)

    def tls_context(self) -> ssl.SSLContext:
        """Mutual TLS that believes our CA alone: no public CA can vouch for a false central."""
        context = pinned_context(self.ca_pem, self.clock.now)
        self.key.show_in(context, self.directory / _CERTIFICATE, self.directory / _KEY)
        return context

    def timeless_context(self) -> ssl.SSLContext:
        """For asking central for the time: no date is looked at, and this box does not say who it is."""
        return pinned_context(self.ca_pem, None)


class IdentityStore:
    """Keeps at most one identity below `root`. `clock` None: the system's, and nothing is kept of it."""

    def __init__(self, root: Path, clock: BoxClock | None = None, keys: KeyMaker | None = None) -> None:
        self._root = root
        self._clock = clock or BoxClock()
        self._keys = keys or KeyMaker()
        self._receipt_book = ReceiptKeyBook(root / "receipt_keys.json")

    def load(self) -> Identity | None:
        """The identity in use, or None if this box is not enrolled; IdentityError if it is damaged."""
        current = self._root / _CURRENT
        if not current.is_symlink():
            return None
        directory = self._root / current.readlink()
        try:
            enrolment = Enrolment.model_validate_json((directory / _ENROLMENT).read_bytes())
            key = self._keys.load((directory / _KEY).read_text("ascii"))
        except (OSError, ValidationError, ValueError) as error:
            raise IdentityError(
                f"the identity in {directory} is damaged: remove {current} and enrol the box again"
            ) from error
        check_answer(enrolment.answer, key)
        return Identity(enrolment, directory, key, self._clock, self._receipt_book)

    def save(self, key: BoxKey, enrolment: Enrolment) -> Identity:
        """Put a new identity in the old one's place, in one step. OSError if the disk does not take it."""
        check_answer(enrolment.answer, key)
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        current = self._root / _CURRENT
        former = current.readlink().name if current.is_symlink() else ""
        name = secrets.token_hex(16)
        directory = self._root / name
        directory.mkdir(mode=0o700)
        _write(directory / _KEY, key.text.encode("ascii"))
        _write(directory / _CERTIFICATE, enrolment.answer.certificate_pem.encode())
        _write(directory / _ENROLMENT, enrolment.model_dump_json(indent=2).encode())
        fsync_directory(directory)
        pointer = self._root / f"{name}.link"
        pointer.symlink_to(name)
        pointer.replace(current)
        fsync_directory(self._root)
        # The former one goes at the next save: a thread may be opening a connection with it just now.
        for other in self._root.iterdir():
            if other.is_dir() and not other.is_symlink() and other.name not in (name, former):
                shutil.rmtree(other)
        return Identity(enrolment, directory, key, self._clock, self._receipt_book)


def check_answer(answer: EnrolmentAnswer, key: BoxKey) -> None:
    """Raise IdentityError unless the certificate is for `key`, from this CA, and every key in it is one."""
    try:
        certificate = x509.load_pem_x509_certificate(answer.certificate_pem.encode())
        ca = x509.load_pem_x509_certificate(answer.ca_pem.encode())
        certificate.verify_directly_issued_by(ca)
        common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        for text in answer.receipt_keys:
            Ed25519PublicKey.from_public_bytes(_raw(text))
        key_set = verify_key_set(answer.key_set, Ed25519PublicKey.from_public_bytes(_raw(answer.root_key)))
        if key_set.central_id != answer.central_id:
            raise KeySetError("the key set is another central's")
        check_gateway_id(answer.gateway_id)
    except (ValueError, TypeError, binascii.Error, InvalidSignature, ContractError) as error:
        raise IdentityError("what central handed out does not fit together: enrol the box again") from error
    if _spki(certificate.public_key()) != _spki(key.public_key()):
        raise IdentityError("central's certificate is for another key than this box's: enrol the box again")
    if [name.value for name in common_names] != [answer.gateway_id]:
        raise IdentityError("central's certificate carries another gateway id: enrol the box again")
    broker = answer.broker
    if broker is not None and not broker.tls and broker.host not in LOOPBACK_HOSTS:
        raise IdentityError(f"central names a broker without TLS that is not on this machine: {broker.host}")


def _spki(public_key: CertificatePublicKeyTypes) -> bytes:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _raw(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
