"""How a box gets its identity: a pairing string, shown once, buys one certificate.

The pairing string names central, pins its CA and carries a one-time token. The box checks the CA against the
pin before it says anything, makes its own key, and sends a certificate signing request; the private key never
leaves it. What travels is Enrollment over Secure Transport (RFC 7030), so any EST client can do it too.
Normative text and a worked example: docs/formats/enrolment.md.

    dicomnet-pair:1:<host>:<port>:<CA fingerprint, 64 hex>:<token, 32 hex>
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7
from pydantic import BaseModel, ConfigDict, Field

from contract.errors import PermanentError
from contract.key_set import MAX_KEY_SET_CHARACTERS

CA_PATH: Final = "/.well-known/est/cacerts"
"""GET, anonymous: the CA certificate (RFC 7030 section 4.1); trusted only if it fits the pin."""
ENROL_PATH: Final = "/.well-known/est/simpleenroll"
"""POST a PKCS #10 request with the token as HTTP Basic password (RFC 7030 section 4.2)."""
RENEW_PATH: Final = "/.well-known/est/simplereenroll"
"""POST a PKCS #10 request over TLS with the certificate that is to be renewed (RFC 7030 section 4.2.2)."""
INTRODUCTION_PATH: Final = "/enrol/v1/introduction"
"""GET with the token or a certificate → Introduction."""
PAIRING_USER: Final = "pairing"  # the Basic user name a box gives; central looks at the token alone
PKCS10_TYPE: Final = "application/pkcs10"
PKCS7_TYPE: Final = "application/pkcs7-mime"
CERTS_ONLY_TYPE: Final = "application/pkcs7-mime; smime-type=certs-only"
PAIRING_LIFE_S: Final = 900
DECISION_LIFE_S: Final = 7 * 86_400
"""How long a request that was made in time waits for an administrator, in seconds."""
_PAIRING = re.compile(
    r"dicomnet-pair:1:(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]{1,253}):(?P<port>[0-9]{1,5})"
    r":(?P<ca>[0-9a-f]{64}):(?P<token>[0-9a-f]{32})"
)


class PairingError(PermanentError):
    """The pairing string is not one, or central is not the one it names."""


@dataclass(frozen=True, repr=False)
class Pairing:
    """A pairing string taken apart. `token` is a secret: it is not shown by repr."""

    host: str
    port: int
    ca_fingerprint: str
    token: str

    @classmethod
    def parse(cls, text: str) -> Pairing:
        """PairingError if it is none. White space does not count: the string is longer than a line of a terminal or a
        letter, and comes back with line breaks in it."""
        match = _PAIRING.fullmatch("".join(text.split()))
        if match is None or not 0 < int(match["port"]) < 65536:
            raise PairingError(
                "this is not a pairing string: it begins with dicomnet-pair:1: and is shown by central "
                "(Fleet, Add a box, or dicomnet-central pair)"
            )
        return cls(match["host"].strip("[]"), int(match["port"]), match["ca"], match["token"])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"dicomnet-pair:1:{host}:{self.port}:{self.ca_fingerprint}:{self.token}"

    def check_ca(self, certificate: x509.Certificate) -> None:
        """Raise PairingError unless `certificate` is the CA that the pairing string pins."""
        if not hmac.compare_digest(ca_fingerprint(certificate), self.ca_fingerprint):
            raise PairingError(
                "the server that answered is not the central of this pairing string: wrong address, "
                "or somebody is in between. Nothing was sent to it."
            )


def new_token() -> str:
    """128 random bits as 32 hex digits."""
    return secrets.token_hex(16)


def ca_fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate's DER form, in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


class BrokerAddress(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    port: int = Field(gt=0, lt=65536)
    tls: bool = Field(description="mutual TLS with the box's certificate; False only on a loopback host")


class Introduction(BaseModel):
    """What central says of itself. None of it is secret; a box believes it because the pinned CA vouches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    central_id: str = Field(max_length=64)
    receipt_keys: list[str] = Field(min_length=1, max_length=8, description="raw Ed25519 public keys, base64")
    root_key: str = Field(
        max_length=64, description="raw Ed25519 public key that signs key sets, base64: pinned"
    )
    key_set: str = Field(max_length=MAX_KEY_SET_CHARACTERS, description="docs/formats/key-set.md")
    broker: BrokerAddress | None = None


class EnrolmentAnswer(Introduction):
    """Everything the box must know, put together from central's answers, and kept beside its key."""

    gateway_id: str
    certificate_pem: str = Field(description="the box's certificate: client authentication, CN = gateway id")
    ca_pem: str


def key_fingerprint(public_key: CertificatePublicKeyTypes) -> str:
    """What a person compares before a box is accepted: 128 bits of the key's SHA-256, in groups of four."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    text = digest.finalize().hex()[:32]
    return " ".join(text[at : at + 4] for at in range(0, 32, 4))


def encode_certificates(certificates: list[x509.Certificate]) -> bytes:
    """A certs-only CMS Simple PKI Response in base64 (RFC 7030 section 4.1.3)."""
    return base64.encodebytes(pkcs7.serialize_certificates(certificates, Encoding.DER))


def decode_certificates(body: bytes) -> list[x509.Certificate]:
    """What `encode_certificates` made; ValueError if it is not that."""
    try:
        return pkcs7.load_der_pkcs7_certificates(base64.b64decode(body))
    except Exception as error:  # parsers fed by whoever answered; whatever they trip over, it is none
        raise ValueError("not a certs-only PKCS #7") from error


def encode_request(request: x509.CertificateSigningRequest) -> bytes:
    """A PKCS #10 request in base64 (RFC 7030 section 4.2.1)."""
    return base64.encodebytes(request.public_bytes(Encoding.DER))


def decode_request(body: bytes) -> x509.CertificateSigningRequest:
    """The request in base64 DER, or in PEM, which clients in the field send; ValueError if it is none."""
    try:
        if body.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_csr(body)
        return x509.load_der_x509_csr(base64.b64decode(body))
    except Exception as error:
        raise ValueError("not a certificate request") from error
