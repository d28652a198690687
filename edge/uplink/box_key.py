"""The box's private key behind one interface, so that nothing else knows where it lies.

Always true: a key never leaves the place where it was made, and `text` is all that is kept of it: for a key in a file
the key itself, for one in a TPM what that very TPM alone can use. A crash leaves nothing here.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edge.uplink.der import certificate_request

Place = Literal["tpm", "file"]


class BoxKey(ABC):
    """ECDSA P-256, the one kind that central takes.

    Signing raises `KeyUnavailableError` when it may work later, and `KeyLostError` when it never will.
    """

    place: ClassVar[Place]

    def __init__(self, public_key: ec.EllipticCurvePublicKey, text: str) -> None:
        self._public_key = public_key
        self.text = text

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public_key

    def request(self, subject: x509.Name) -> x509.CertificateSigningRequest:
        """A PKCS #10 request for a certificate."""
        return certificate_request(subject, self._public_key, self.sign)

    @abstractmethod
    def sign(self, message: bytes) -> bytes:
        """ECDSA with SHA-256 over `message`, as DER."""

    @abstractmethod
    def show_in(self, context: ssl.SSLContext, certificate: Path, key: Path) -> None:
        """Make `context` show the certificate in that file. `key`: the file that holds `text`.

        Raises
        ------
        ssl.SSLError, OSError : a file is damaged or missing.
        """


class FileKey(BoxKey):
    """The key itself, PKCS #8 in PEM."""

    place = "file"

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        super().__init__(private.public_key(), pem.decode("ascii"))
        self._private = private

    @classmethod
    def make(cls) -> FileKey:
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def load(cls, text: str) -> FileKey:
        """ValueError if this is no such key."""
        private = load_pem_private_key(text.encode(), None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise ValueError("this is not an elliptic-curve key")  # noqa: TRY004  # it is the text that is wrong
        return cls(private)

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message, ec.ECDSA(hashes.SHA256()))

    def show_in(self, context: ssl.SSLContext, certificate: Path, key: Path) -> None:
        context.load_cert_chain(certificate, key)
