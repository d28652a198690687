"""How a box gets its identity: a pairing string, shown once, buys one certificate.

The pairing string names central, pins its CA and carries a one-time token. The box checks the CA against the
pin before it says anything, makes its own key, and sends a certificate signing request; the private key never
leaves it. Normative text and a worked example: docs/formats/enrolment.md.

    dicomnet-pair:1:<host>:<port>:<CA fingerprint, 64 hex>:<token, 32 hex>
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from pydantic import BaseModel, ConfigDict, Field

from contract.errors import PermanentError

CA_PATH: Final = (
    "/enrol/v1/cacerts"  # GET, anonymous: the CA certificate in PEM; trusted only if it fits the pin
)
ENROL_PATH: Final = "/enrol/v1/simpleenroll"  # POST EnrolmentRequest → EnrolmentAnswer
PAIRING_LIFE_S: Final = 900
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
        match = _PAIRING.fullmatch(text.strip())
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


class EnrolmentRequest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str = Field(pattern=r"^[0-9a-f]{32}$")
    csr_pem: str = Field(max_length=8192, description="PKCS #10, ECDSA P-256; its subject is ignored")


class BrokerAddress(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    port: int = Field(gt=0, lt=65536)
    tls: bool = Field(description="mutual TLS with the box's certificate; False only on a loopback host")


class EnrolmentAnswer(BaseModel):
    """Everything the box must know. Kept by the box beside its key; none of it is secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gateway_id: str
    central_id: str
    certificate_pem: str = Field(description="the box's certificate: client authentication, CN = gateway id")
    ca_pem: str
    sealing_keys: list[str] = Field(min_length=1, max_length=8, description="raw public keys, base64")
    receipt_keys: list[str] = Field(min_length=1, max_length=8, description="raw Ed25519 public keys, base64")
    broker: BrokerAddress | None = None
